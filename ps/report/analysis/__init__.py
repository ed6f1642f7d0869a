"""A run's files ▸ its tracks ▸ where the time went ▸ a diagnosis in words. Needs no matplotlib.

Imports: nothing but ps itself.
"""
