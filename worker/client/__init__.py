"""A process's part in a run, without torch: hello, push, pull, report, bye.

Imports: its control connections (`control/`), the wire; options, for addresses.
"""

from leash.worker.client.client import Client
from leash.worker.client.pushes import StepInfo

__all__ = ["Client", "StepInfo"]
