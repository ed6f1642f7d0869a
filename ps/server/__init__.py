"""The first process of a server: it alone has the control socket, and decides about the run.

- run_engine.py decides about the run, and puts its parts together. It has no sockets. ending.py
  decides when the run ends, results.py has written what it leaves then.
- loop.py waits for messages and for time, and hands both to the engine.
- coordinator.py answers hello, beat, report and bye: who takes part, when a run starts and ends.
  It evicts workers that are silent for too long. checks.py checks what a message says.
- continuation.py goes on with a run, from a checkpoint or where a server has died.
- standing.py tells people how the run stands, progress.py what its terminal shows.
- leases/ grants ranges of the data to workers, and knows what is left.
- settings.py says what a run was started with, for workers and for summary.json.
- shards/ has the other processes of the server, as this one sees them.

Imports: its leases and shards, what every shard has (ps/shard), recovery, data files, runs,
options, the wire.
"""
