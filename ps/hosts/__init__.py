"""Other machines on which workers of a launch run, reached by the user's own ssh.

::

    here                                      │ a host
    check every host, all at once  ── ssh ──▸ │ check_program.py, which needs nothing there
    copy the code                  ─ rsync ─▸ │
    remote_worker.py, one a worker ── ssh ──▸ │ follower.py ─▸ socket ─▸ keeper.py ─▸ the worker
    the server                     ◂─ TCP ─── │                                          │
                                              │      the log, the key, the status  ◂─────┘

A keeper has a session of its own, so that it and its worker stay when ssh is lost. A follower then
comes again, and goes on reading the log where the one before it was.

- places.py reads `--hosts`, and says where a path of this machine is on another one.
- ssh.py runs `ssh` on several hosts at once; it has the command lines, and no ssh of its own.
- routes.py finds the addresses of this machine that a host may reach; open_ports.py listens there
  until the check is over.
- checks.py asks the hosts, and says what is missing where; copying.py has rsync copy a folder.
- frames.py: what a keeper and a launcher say to one another.

Imports: nothing but what all may, and the wire for the addresses of this machine.
"""
