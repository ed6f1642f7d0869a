"""Whose reply goes out when: a run's policy, as the simulator asks it.

What decides is the core's own code, that which decides for the chunks of a real run.
"""

from typing import Final

from leash.ps._core import SimulatedChunk
from leash.ps.policy import Rule


class Gate:
    """The policy of a run. What calls return is whose replies go out now."""

    def __init__(self, rule: Rule) -> None:
        self._chunk: Final = SimulatedChunk(rule.core())

    def join(self, worker: int) -> None:
        """A worker takes part from now on, level with the slowest."""
        self._chunk.join(worker, self._chunk.minimum())

    def leave(self, worker: int) -> list[int]:
        """Nobody waits for this one any more; it may have been waiting itself."""
        return self._chunk.leave(worker)

    def tick(self, worker: int, now_s: float) -> list[int]:
        """A worker's push has arrived."""
        return self._chunk.push(worker, now_s).released

    def lag(self, worker: int) -> int:
        """Steps that a worker is ahead of the slowest."""
        return self._chunk.lag(worker)

    def version(self) -> int:
        """Updates so far."""
        return self._chunk.version
