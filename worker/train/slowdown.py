"""Workers made slow on purpose, so that one machine can play a fast and a slow one.

A worker of heterogeneity r takes c / r for what this machine computes in c seconds. With a time
scale of k a run takes k times as long, and its proportions are kept: a step that would compute for
c / r and be delayed for d takes k (c / r + d).

Computing can't be made faster: where k / r is less than 1, the (1 - k / r) c seconds by which it
takes too long become a debt, which the sleeps pay off. Where it is more, the rest is slept, by and
by: after a step as much as its samples need, by the mean of the newest steps, and a little of what
is still owed. Otherwise what disturbs this machine for a moment would be multiplied by k / r, and
be more than what disturbs a slow machine.
"""

import time
from collections.abc import Callable
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.slowness.delays import Delays
from leash.ps.slowness.grammar import parse_slowness

_NEGLIGIBLE: Final = 0.01  # a debt of so small a share of the run
_FORGETTING: Final = 0.01  # of older steps, with each new one; and so much is paid of what is owed


class Slowdown:
    """Makes one worker slow, by sleeping. With the defaults it never sleeps."""

    def __init__(
        self,
        slow: str = "0",
        heterogeneity: float = 1.0,
        *,
        time_scale: float = 1.0,
        seed: int = 1,
        rank: int = 1,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            slow: the worker's own item of --slow.
            heterogeneity: r, above 0 and at most 1: it takes 1/r times as long to compute.
            time_scale: how long a second of the experiment takes here.
            seed: of the run; it repeats the delays.

        Raises:
            UsageError: `slow` does not follow the grammar, or heterogeneity is outside (0, 1].
        """
        if not 0.0 < heterogeneity <= 1.0:
            raise UsageError(
                f"--heterogeneity {heterogeneity:g}: give a number above 0 and at most 1"
            )
        self._delays: Final = Delays(parse_slowness(slow), seed=seed, rank=rank)
        self._heterogeneity: Final = heterogeneity
        self._scale: Final = time_scale
        self._stretch: Final = time_scale / heterogeneity - 1.0  # slept for a second of computing
        self._sleep: Final = sleep
        self._now: Final = now
        self._began_s: float | None = None
        self._has_computed = False
        self._newest_s = 0.0  # of computing; the newest steps weigh most
        self._newest_samples = 0.0  # of these steps
        self._owed_s = 0.0  # of sleep that makes computing slower, so far not slept
        self._debt_s = 0.0  # that sleeps have still to pay off
        self._unpaid_s = 0.0  # what was left of it after the last step's delay
        self._delay_s = 0.0  # the sum so far, at full scale
        self._compute_s = 0.0

    def before_step(self) -> None:
        """Sleep the step's delay."""
        now_s = self._now()
        if self._began_s is None:
            self._began_s = now_s
        delay_s = self._delays.next((now_s - self._began_s) / self._scale)
        self._delay_s += delay_s
        self._pay(self._scale * delay_s)
        self._unpaid_s = self._debt_s

    def after_compute(self, compute_s: float, samples: int) -> None:
        """Sleep what is due, now that so many samples took ``compute_s`` seconds."""
        self._compute_s += compute_s
        self._delay_s += compute_s * (1.0 / self._heterogeneity - 1.0)
        if self._stretch <= 0.0:
            self._debt_s -= self._stretch * compute_s
            return
        self._owed_s += self._stretch * compute_s
        usual_s = self._usual_s(compute_s, samples)
        due_s = min(self._owed_s, self._stretch * usual_s + _FORGETTING * self._owed_s)
        self._owed_s -= due_s
        self._pay(due_s)

    def _usual_s(self, compute_s: float, samples: int) -> float:
        """What so many samples take by the mean; the first step allocates, and is no measure."""
        if not self._has_computed:
            self._has_computed = True
            return compute_s
        self._newest_s += compute_s - _FORGETTING * self._newest_s
        self._newest_samples += samples - _FORGETTING * self._newest_samples
        return self._newest_s / self._newest_samples * samples

    def complaint(self) -> str | None:
        """One line, if this machine was too slow for the time scale."""
        wanted_s = self._scale * (self._delay_s + self._compute_s)
        if self._unpaid_s <= _NEGLIGIBLE * wanted_s:
            return None
        took = 1 + self._unpaid_s / wanted_s
        least = self._compute_s / (self._delay_s + self._compute_s)
        return (
            f"--time-scale {self._scale:g}: this worker computes too long for it, and took "
            f"{took:.2f} times as long as it should have; give {least:.2g} or more"
        )

    def _pay(self, due_s: float) -> None:
        """Sleeps for so long, less what earlier computing took too long."""
        due_s -= self._debt_s
        self._debt_s = max(0.0, -due_s)
        # Even sleep(0) gives the processor away, and would slow a worker that shall not be slow.
        if due_s > 0.0:
            self._sleep(due_s)
