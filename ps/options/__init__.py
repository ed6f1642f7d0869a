"""Every option, once, with its help and its default, and the parser that is made of them.

Imports: hosts, as people write them, the wire's limits, and the grammar of slowness.
"""
