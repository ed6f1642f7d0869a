"""Makes the curves that trackers draw of the events of a run.

====================== ===================== ===========================================
name                   step                  what it is
====================== ===================== ===========================================
test/loss, accuracy    the epoch             as the evaluator has measured them
train/steps_per_second steps of all workers  in the last second or more
train_loss, of each    steps of all workers  the mean since the worker's report before
waiting, of each       steps of all workers  the share of the worker's time, as in `status`
lag, of each           steps of all workers  of the newest step
what a loop logs       steps of that worker  as it was logged
====================== ===================== ===========================================
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from leash.ps.words import wait_fraction

_Event: TypeAlias = dict[str, Any]  # a line of events.jsonl

EPOCHS, ALL_STEPS, OWN_STEPS = "epoch", "steps", "step"  # what a point's step counts
RATE_S: Final = 1.0  # between two points of the speed, and of a lag


@dataclass(frozen=True, slots=True)
class Point:
    """One number of a run.

    Attributes:
        wall_s: when, in seconds since 1970.
        name: of the curve; several workers may have one of the same name.
        worker: whose it is; 0 for the run's.
        counts: what `step` counts: "epoch", "steps" (of all workers), or "step" (of that worker).
        step: where on that axis.
        value: the number; a NaN or an infinity, if it was logged.
    """

    wall_s: float
    name: str
    worker: int
    counts: str
    step: int
    value: float

    @property
    def tag(self) -> str:
        """The name by which a tracker that knows no workers tells the curve from others."""
        return f"{self.name}/worker_{self.worker}" if self.worker else self.name


class Curves:
    """Takes the events of a run in their order, and gives the points that follow from them."""

    def __init__(self, began_s: float) -> None:
        """Begins before the first event.

        Args:
            began_s: when the times of the events begin, in seconds since 1970.
        """
        self._began_s: Final = began_s
        self._steps: Final[dict[int, int]] = {}  # by worker
        self._lag_s: Final[dict[int, float]] = {}  # by worker: when its lag was a point last
        self._rate_t: float | None = None  # when the speed was a point last
        self._rate_steps = 0  # and how many steps there were then

    def points(self, event: _Event) -> Iterator[Point]:
        """Takes an event; yields its points.

        Raises:
            KeyError, TypeError, ValueError: it is no event of a run.
        """
        t = float(event["t"])
        match event["event"]:
            case "started":
                self._rate_t = t
            case "joined" if event["worker"]:
                self._note(event["worker"], int(event["first_step"]) - 1)
            case "step":
                yield from self._of_step(t, event)
            case "training":
                yield from self._of_report(t, event)
            case "evaluated":
                for name in ("loss", "accuracy"):
                    if event.get(name) is not None:
                        yield self._point(t, f"test/{name}", 0, EPOCHS, event["epoch"], event[name])
            case "logged":
                for name, value in event["metrics"].items():
                    yield self._point(t, name, event["worker"], OWN_STEPS, event["step"], value)

    def _of_step(self, t: float, event: _Event) -> Iterator[Point]:
        worker = event["worker"]
        self._note(worker, event["step"])
        if t - self._lag_s.get(worker, -math.inf) >= RATE_S:
            self._lag_s[worker] = t
            yield self._point(t, "lag", worker, ALL_STEPS, self._all_steps, event["lag"])
        yield from self._speed(t)

    def _of_report(self, t: float, event: _Event) -> Iterator[Point]:
        worker = event["worker"]
        self._note(worker, event["step"])
        share = None
        if event["wait_s"] is not None and event["compute_s"] is not None:
            share = wait_fraction(event["wait_s"], event["compute_s"])
        for name, value in (("train_loss", event["loss"]), ("waiting", share)):
            if value is not None:
                yield self._point(t, name, worker, ALL_STEPS, self._all_steps, value)
        yield from self._speed(t)

    def _speed(self, t: float) -> Iterator[Point]:
        if self._rate_t is not None and t - self._rate_t >= RATE_S:
            rate = (self._all_steps - self._rate_steps) / (t - self._rate_t)
            self._rate_t, self._rate_steps = t, self._all_steps
            yield self._point(t, "train/steps_per_second", 0, ALL_STEPS, self._all_steps, rate)

    def _note(self, worker: int, step: int) -> None:
        self._steps[worker] = max(step, self._steps.get(worker, 0))

    @property
    def _all_steps(self) -> int:
        return sum(self._steps.values())

    def _point(
        self, t: float, name: str, worker: int, counts: str, step: int, value: float | str
    ) -> Point:  # fmt: skip
        return Point(self._began_s + t, name, int(worker), counts, int(step), float(value))
