"""Benchmarks, one file for each question. Only the `leash bench` command imports this package."""
