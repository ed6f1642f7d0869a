"""The commands of `leash` that need no PyTorch: launch, status, set, doctor, and what they show.

Imports: the wire, options, data files, runs, and the report that a launch may leave.
"""
