"""Grants ranges of the data to workers.

- leases.py knows which are free, held or done.
- pacing.py says how large they are to be, by how fast each worker is.
- lease_desk.py says what a grant means for the members, and notes it in the journal.

Imports: the shards of the run, what every shard has (ps/shard), runs, options, the wire.
"""
