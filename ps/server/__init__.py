"""What the first process of a server has alone: the loop over both sockets, and all decisions.

- loop.py waits for messages and for time, and hands each to who deals with it.
- coordinator.py answers hello, beat, report and bye: who takes part, when a run starts and ends.
- leases.py, pacing.py and lease_desk.py grant ranges of the data: which are free, how large, to
  whom.
- settings.py says what a run was started with, for workers and for summary.json.
- shards.py and remote_shards.py are the other processes of the server, as this one sees them.

Imports: what every shard has (ps/shard), runs, options, the wire.
"""
