"""PSOptimizer: gradients leave torch here, and parameters come back.

Imports: the client, the wire; and to start a server under torchrun, options and the run directory.
"""
