"""Grants ranges of the data to workers, and knows what is left to train.

- leases.py knows which are free, held or done.
- pacing.py says how large they are to be, by how fast each worker is.
- lease_desk.py says what a grant means for the members, and notes it in the journal.
- work_left.py knows what is left, by leases or by shares, and whether anybody is there to do it.

Imports: the shards of the run, what every shard has (ps/shard), runs, options, the wire.
"""
