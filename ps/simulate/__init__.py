"""`leash simulate`: a run in virtual time, decided by the policies and the clock of a real one.

Imports: options, slowness, and the report's colours.
"""
