"""Benchmarks, one file per question. Nothing imports this package but the `leash bench` command."""
