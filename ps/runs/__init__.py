"""Writes what a run leaves in its directory, reads checkpoints, and re-checks events.

| file | module |
| --- | --- |
| config.yaml, summary.json, logs/ | rundir.py |
| events.jsonl | events.py writes it, audit.py re-checks the bound from it |
| checkpoints/ | checkpoint.py says what is in them, tensor_file.py writes the format |

All of these go through disk.py, which says what is durable when.

Imports: options, and the wire, for the layout of a model.
"""
