"""A process's part in a run, without torch: hello, push, pull, report, bye.

Imports: the wire; options, for addresses.
"""

from leash.worker.client.client import Client, StepInfo

__all__ = ["Client", "StepInfo"]
