"""The part that every process of a server has: a data socket, its handlers, and chunks to serve.

- data_desk.py hands pushes to the shard's engine in the core, which checks and applies them and
  says which replies go out; what is rare it decides itself.
- options_of_workers.py knows by which options for parameter groups a worker's pushes are applied.
- router.py is the data socket.
- members.py knows who takes part, and who has been silent for too long.
- linked_shard.py does in a further process what the coordinator says; process.py carries messages
  between it, its link and its socket.

Imports: recovery, runs (events), options, the wire.
"""
