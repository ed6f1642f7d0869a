"""Writes what a run leaves in its directory, reads checkpoints, and re-checks events.

| file | module |
| --- | --- |
| config.yaml, summary.json, logs/ | rundir.py |
| events.jsonl | events.py writes it, audit.py re-checks the bound from it |
| checkpoints/ | checkpoint.py |

Imports: options, and the wire, for the layout of a model.
"""
