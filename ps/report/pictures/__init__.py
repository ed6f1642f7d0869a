"""The figures of a report, and the colours that all pictures of Leash share.

Imports: the analysis that they draw, and matplotlib.
"""
