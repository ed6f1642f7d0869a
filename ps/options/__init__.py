"""Every option, once, with its help and its default, and the parser that is made of them.

Imports: the wire's limits, and the grammar of slowness.
"""
