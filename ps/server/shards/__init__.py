"""The shards of a run, as the first process of its server sees them.

- shards.py: all of them as one, the one in this process and those in others.
- remote_shards.py: those in others, and what they are asked and tell. It has no processes.
- shard_process.py starts them, as processes of leash.ps.shard.process.

Imports: what every shard has (ps/shard), runs, options, the wire.
"""
