"""Measures: trials in turn, crews of processes, rows with their conditions.

Imports: what a server is made of, to count its time: shards, the wire, options, the command line.
"""
