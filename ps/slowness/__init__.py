"""Slowness made on purpose: the grammar of `--slow`, each worker's slowness, and its delays.

A worker is *slow*. Its *slowness* is what an option says of it, in the grammar of grammar.py; its
*delays* are the numbers that delays.py draws from a slowness, one for each step. In a real worker a
`Slowdown` (leash.worker.train.slowdown) sleeps for them; the simulator adds them to its clock.

Imports: nothing but ps itself.
"""
