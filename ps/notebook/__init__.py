"""`leash.launch`: a launch from Python, as in a notebook, with a handle of the run.

- handle.py starts `leash launch` as a process, and is what Python has of the run.
- arguments.py makes its command line of Python's arguments.
- shown.py is what a notebook shows of a run.

Imports: the command line, the table of a run, data files, options, runs.
"""
