"""The systems that are compared, one file for each, and the limits that bound them all.

An exchange is the same for everybody: `nbytes` of gradients go to another process, which does
w -= lr * g, and the parameters are back in this process's memory when it returns. `ddp` has no such
process: its workers add their gradients up among themselves, and each updates its own parameters.

Imports: the harness, the wire, the client.
"""

from leash.bench.systems.registry import LIMITS, SYSTEMS, System

__all__ = ["LIMITS", "SYSTEMS", "System"]
