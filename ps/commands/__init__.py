"""The commands of `leash` that need no PyTorch: status, set, save, doctor, and what they show.

`leash launch` has a room of its own, ps/launch.

Imports: the wire, options, runs.
"""
