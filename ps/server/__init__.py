"""The first process of a server: it alone has the control socket, and decides about the run.

- run_engine.py decides about the run: when it ends, and what it leaves. It has no sockets.
- loop.py waits for messages and for time, and hands both to the engine.
- coordinator.py answers hello, beat, report and bye: who takes part, when a run starts and ends.
  It evicts workers that are silent for too long.
- leases/ grants ranges of the data to workers.
- settings.py says what a run was started with, for workers and for summary.json.
- shards/ has the other processes of the server, as this one sees them.

Imports: its leases and shards, what every shard has (ps/shard), recovery, data files, runs,
options, the wire.
"""
