"""Workers made slow on purpose, so that one machine can play a fast and a slow one.

A worker of heterogeneity r takes c / r seconds for what this machine computes in c seconds. With a
time scale of k a run takes k times as long, and its proportions stay: a step that would compute for
c / r and be delayed for d takes k (c / r + d).

Nothing makes this machine compute faster. So where k / r is less than 1, each step computes for
(1 - k / r) c seconds too long; the worker keeps them as a debt and shortens its sleeps by it. Where
k / r is more than 1, the worker sleeps for the difference, spread over several steps: after each it
sleeps for what so many samples need by the mean of the newest steps, and for a little of what it
still owes. If it slept for each step's own difference at once, k / r would multiply every moment in
which something else disturbs this machine, and the worker would be disturbed more than a slow
machine is.
"""

import time
from collections.abc import Callable
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.options.base import DEFAULT_SEED
from leash.ps.slowness.delays import Delays
from leash.ps.slowness.grammar import NOT_SLOWED, Slowness

_NEGLIGIBLE: Final = 0.01  # nobody hears of a debt that is a smaller share of the run
_FORGETTING: Final = 0.01  # each step takes away this share of older steps, and of what is owed


class Slowdown:
    """Slows one worker down by sleeping. With its defaults it never sleeps."""

    def __init__(
        self,
        slow: Slowness = NOT_SLOWED,
        heterogeneity: float = 1.0,
        *,
        time_scale: float = 1.0,
        seed: int = DEFAULT_SEED,
        rank: int = 1,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Owes nothing yet.

        Args:
            slow: the worker's own.
            heterogeneity: r, above 0 and at most 1: it takes 1/r times as long to compute.
            time_scale: how many seconds a second of the experiment takes here.
            seed: of the run; it repeats the delays.
            rank: of the worker; each draws delays of its own.
            sleep: sleeps for so many seconds.
            now: seconds on a clock that never goes back.

        Raises:
            UsageError: heterogeneity is outside (0, 1].
        """
        if not 0.0 < heterogeneity <= 1.0:
            raise UsageError(
                f"--heterogeneity {heterogeneity:g}: give a number above 0 and at most 1"
            )
        self._delays: Final = Delays(slow, seed=seed, rank=rank)
        self._heterogeneity: Final = heterogeneity
        self._scale: Final = time_scale
        self._stretch: Final = time_scale / heterogeneity - 1.0  # sleep for a second of computing
        self._sleep: Final = sleep
        self._now: Final = now
        self._began_s: float | None = None
        self._has_computed = False
        self._newest_s = 0.0  # how long steps computed; the newest weigh most
        self._newest_samples = 0.0  # how many samples these steps had
        self._owed_s = 0.0  # sleep that computing is to be slower by, and that was not slept yet
        self._debt_s = 0.0  # how much too long computing took, less what sleeps have made up for
        self._unpaid_s = 0.0  # the debt after the last step's delay
        self._delay_s = 0.0  # the sum of all delays, at full scale
        self._compute_s = 0.0  # the sum of all computing

    @property
    def goes_by_compute(self) -> bool:
        """Whether it has to know how long each step computes."""
        return self._stretch != 0.0

    def before_step(self) -> None:
        """Sleeps for the next step's delay."""
        now_s = self._now()
        if self._began_s is None:
            self._began_s = now_s
        delay_s = self._delays.next((now_s - self._began_s) / self._scale)
        self._delay_s += delay_s
        self._pay(self._scale * delay_s)
        self._unpaid_s = self._debt_s

    def after_compute(self, compute_s: float, samples: int) -> None:
        """Sleeps for what makes computing slower.

        Args:
            compute_s: how many seconds the step has computed.
            samples: how many samples the step had.
        """
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
        """How long so many samples take by the mean, without the first step, which allocates."""
        if not self._has_computed:
            self._has_computed = True
            return compute_s
        self._newest_s += compute_s - _FORGETTING * self._newest_s
        self._newest_samples += samples - _FORGETTING * self._newest_samples
        return self._newest_s / self._newest_samples * samples

    def complaint(self) -> str | None:
        """Says in one line that this machine was too slow for the time scale; None if not."""
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
        """Sleeps for so long, less the debt, which that pays off."""
        due_s -= self._debt_s
        self._debt_s = max(0.0, -due_s)
        # Even sleep(0) gives the processor away, and would slow down a worker that is to be fast.
        if due_s > 0.0:
            self._sleep(due_s)
