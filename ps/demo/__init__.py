"""`leash demo`: the same unequal machines, in lockstep and on the leash, side by side.

::

    sides.py: the two runs ─▸ command.py: one after the other ─▸ outcome.py: what became of each
                                │ while they go on                        │
                                ▾                                         ▾
                       side_screen.py: both, in columns       verdict.py: a sentence; picture.py

Imports: what the commands show, the launcher, options, the style of the report's pictures, runs.
"""
