"""A run's files ▸ its tracks ▸ where the time went ▸ a diagnosis in words. Needs no matplotlib.

Imports: runs, whose files it reads; options, for the names that settings had in earlier releases.
"""
