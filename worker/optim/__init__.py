"""PSOptimizer: gradients leave torch here, and parameters come back.

Imports: the client, the wire.
"""
