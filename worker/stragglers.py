"""Workers made slow on purpose, so that one machine can play a fast and a slow one."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ps.errors import UsageError


@dataclass(frozen=True)
class Straggler:
    """What slows one worker down. The defaults slow nothing.

    Raises:
        UsageError: a negative delay, or a heterogeneity outside (0, 1].
    """

    slow_s: float = 0.0  # slept before every step
    heterogeneity: float = 1.0  # r: this worker takes 1/r times as long to compute
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        _require_delay(self.slow_s, "--slow")
        if not 0.0 < self.heterogeneity <= 1.0:
            raise UsageError(
                f"--heterogeneity: expected a number above 0 and at most 1, "
                f"got {self.heterogeneity:g}"
            )

    def before_step(self) -> None:
        """Sleep the fixed delay."""
        self._sleep(self.slow_s)

    def after_compute(self, compute_s: float) -> None:
        """Sleep until a computation that took ``compute_s`` seconds has taken 1/r times that."""
        self._sleep(compute_s * (1.0 / self.heterogeneity - 1.0))

    def _sleep(self, duration_s: float) -> None:
        # Even sleep(0) gives the processor away, and would slow a worker that shall not be slow.
        if duration_s > 0.0:
            self.sleep(duration_s)


def _require_delay(delay_s: float, flag: str) -> None:
    if not (math.isfinite(delay_s) and delay_s >= 0.0):
        raise UsageError(f"{flag}: expected seconds, 0 or more, got {delay_s:g}")
