"""The first process of a server: it alone has the control socket, and decides about the run.

- run_engine.py decides about the run: when it ends, and what it leaves. It has no sockets.
- loop.py waits for messages and for time, and hands both to the engine.
- coordinator.py answers hello, beat, report and bye: who takes part, when a run starts and ends.
  It evicts workers that are silent for too long.
- leases.py, pacing.py and lease_desk.py grant ranges of the data: leases.py knows which are free,
  pacing.py how large they are to be, lease_desk.py what a grant means for the members.
- settings.py says what a run was started with, for workers and for summary.json.
- shards.py and remote_shards.py are the other processes of the server, as this one sees them;
  shard_process.py starts them.

Imports: what every shard has (ps/shard), data files, runs, options, the wire.
"""
