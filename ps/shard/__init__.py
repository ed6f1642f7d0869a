"""What every process of a server has: the data socket, its handlers, and the chunks that it serves.

- data_plane.py checks a push and has it applied; the core decides whether it is new.
- replies.py sends what the core releases: this is where a reply goes out.
- mapped_segments.py finds a gradient in a message, or in memory shared with its worker.
- members.py knows who takes part, and evicts who is silent.

Imports: runs (events), options, the wire.
"""
