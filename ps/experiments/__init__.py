"""`leash experiment`: runs that belong together, one after the other, and what they come to.

::

    NAME.yaml ─▸ plan.py: the runs ─▸ command.py: each of them ─▸ outcome.py: a row for each
                                                                     │
                       results.json, a table (outcome_table.py), report.html ◄┘
"""
