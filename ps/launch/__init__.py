"""`leash launch`: starts a server, and workers here or on hosts, and watches them to the end.

::

    start the server ─▸ its address, through a pipe ─▸ start the workers ─▸ watch ─▸ result
                                                                           │ ▲ │
    a server that has crashed: start it again, at the same ports         ◄─┘ │ │
                                 └───────────────────────────────────────────┘ │
    whatever happens on the way: SIGTERM to all, SIGKILL to those left       ◄─┘

- command.py is what the command runs, and launch.py goes through all of it.
- server.py has the server's process: it starts it, starts it again, and ends it. restarts.py says
  whether a server that has ended is started again.
- workers.py has the workers' processes; starter.py alone knows how one of them is started, and
  script.py how a copy of the user's own script is. host_starter.py starts them on other hosts.
- slurm.py: where srun has started several launches, the first has the server, each has a worker.
- watch.py decides what the end of a process means for the run, and has no process of its own.
- process_options.py makes the options of all these processes, result.py what is printed at last.

Imports: commands, for what they show, data files, hosts, options, the report, runs, the wire.
"""
