"""The server side of Leash, and all that both sides share.

This package never imports PyTorch or ``worker``: a server host needs neither.
"""

__version__ = "0.1.0"
