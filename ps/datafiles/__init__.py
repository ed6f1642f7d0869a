"""Finds the files of a data set wherever people have them, and says what is missing.

It only looks: `leash.worker.datasets` reads what it finds. A launcher or a server, which may be
without PyTorch, can refuse a wrong folder before it starts anything.

Imports: options, for the names of data sets.
"""
