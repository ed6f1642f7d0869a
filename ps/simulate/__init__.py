"""`leash simulate`: plays a run in virtual time, with the policies and the clock of a real one.

Imports: options, slowness, and the report's colours.
"""
