"""Decides for the simulator whose reply goes out when, by the policy of the run.

The same code of the core decides for the chunks of a real run.
"""

from typing import Final

from leash.ps._core import SimulatedChunk
from leash.ps.policy import Rule


class Gate:
    """Applies the rule of a run. Its methods return the workers whose replies go out now."""

    def __init__(self, rule: Rule) -> None:
        self._chunk: Final = SimulatedChunk(rule.core())

    def join(self, worker: int) -> None:
        """Has a worker take part from now on, level with the slowest."""
        self._chunk.join(worker, self._chunk.minimum())

    def leave(self, worker: int) -> list[int]:
        """Has nobody wait for this worker any more, which may have been waiting itself."""
        return self._chunk.leave(worker)

    def tick(self, worker: int, now_s: float) -> list[int]:
        """Notes that a worker's push has arrived."""
        return self._chunk.push(worker, now_s).released

    def lag(self, worker: int) -> int:
        """How many steps a worker is ahead of the slowest."""
        return self._chunk.lag(worker)

    def version(self) -> int:
        """How many updates there were so far."""
        return self._chunk.version
