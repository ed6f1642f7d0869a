"""What a process asks and tells over the control socket, and what it knows of itself for that.

Imports: the wire; options, for the limits of its grace.
"""
