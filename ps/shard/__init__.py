"""The part that every process of a server has: a data socket, its handlers, and chunks to serve.

- data_plane.py checks a push and has the core apply it; the core decides whether it is new.
- options_of_workers.py knows by which options for parameter groups a worker's pushes are applied.
- replies.py sends what the core releases: this is where a reply goes out.
- mapped_segments.py finds a gradient in a message, or in memory shared with its worker.
- members.py knows who takes part, and who has been silent for too long.
- linked_shard.py does in a further process what the coordinator says; process.py carries messages
  between it, its link and its socket.

Imports: runs (events), options, the wire.
"""
