"""Reads a run's files, finds where its time went, and diagnoses in words. Needs no matplotlib.

Imports: runs, whose files it reads; options, for the names that settings had in earlier releases.
"""
