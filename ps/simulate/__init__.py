"""`leash simulate`: plays a run in virtual time, with the policies and the clock of a real one.

Imports: how commands print, options, slowness, and the report's colours.
"""
