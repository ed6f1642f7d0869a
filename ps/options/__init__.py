"""What can be set: every option with its help and its default, once, and the parser made of them.

Imports: the wire's limits, and the grammar of slowness.
"""
