"""Training in virtual time: real gradients and the engines of a real run, on simulated machines.

Nothing here waits: what a worker sleeps, computes and waits is added to a clock that the next event
sets. Everything that decides is what decides in a real run (RunEngine, the shard's engine, Session,
Beats, StepEngine, Trainer); the sockets and clocks between are replaced.

Imports: the server, the shard and the run directory of ps, its slowness and its wire; the training
loop, the optimizer and the client.
"""
