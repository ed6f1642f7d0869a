"""PSOptimizer: where a gradient leaves torch, and parameters come back.

Imports: the client.
"""
