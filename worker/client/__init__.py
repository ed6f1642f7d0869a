"""A process's part in a run, without torch: hello, push, pull, report, bye.

Imports: the wire.
"""

from leash.worker.client.client import Client, StepInfo

__all__ = ["Client", "StepInfo"]
