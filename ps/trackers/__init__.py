"""Numbers for trackers: what a loop logs, the curves of a run, and who draws or keeps them.

`rows.py` has the rows that `PSOptimizer.log` sends, for both sides of the wire; `logged.py` is
the server's side of them. Imports `ps`, `ps/runs` and `ps/wire` alone.
"""
