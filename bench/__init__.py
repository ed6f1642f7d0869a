"""Benchmarks, one file per question. Only the `leash bench` command imports this package.

Imports: its own folders, and whatever of `ps` and `worker` is measured.
"""
