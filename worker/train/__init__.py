"""`leash worker` and `leash evaluate`: a task, pieces of work, the loop.

Imports: the optimizer, the client, data sets, models, options, slowness, the wire.
"""
