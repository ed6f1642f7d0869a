"""`leash experiment`: trains several runs one after the other, and compares their results.

::

    NAME.yaml ─▸ plan.py: the runs ─▸ command.py: each of them ─▸ outcome.py: a row for each
                                                                     │
                       results.json, a table (outcome_table.py), report.html ◄┘

Imports: the command line, what commands print, the launcher, options, the report, runs, slowness,
the wire.
"""
