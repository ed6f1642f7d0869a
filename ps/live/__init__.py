"""The live page of a run, and its metrics: a process that looks on, and a web server in it.

::

    server's loop ──snapshot, twice a second──▸ looker ─▸ news ─▸ web ─▸ browsers, Prometheus
    events.jsonl ──────────────────follower──────┘

The server's loop writes snapshots to a socket that never makes it wait, and answers nobody. What a
reader asks for is answered from the newest snapshot by a process that takes only what others leave
of the processors. `leash page` is the same without a server: it follows a run directory.

It imports ps itself, ps/commands, ps/options, ps/page, ps/report/analysis, ps/runs, ps/wire.
"""
