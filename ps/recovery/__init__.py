"""What a server that was started again does before its workers go on.

::

    journal ─▸ who trained, and who did what       checkpoint ─▸ values, a while old
    worker 1 ─▸ offer chunk 0, chunk 1, ...  ┐
    worker 2 ─▸ offer chunk 0, chunk 1, ...  ├─▸ the newest of each chunk ─▸ all pull, and go on
    worker 3 ─▸ offer chunk 0, chunk 1, ...  ┘

- healing.py: a shard takes the newest values of each chunk.
- recovery.py: the coordinator knows for whom it waits, and what they remember.

Imports: the wire.
"""
