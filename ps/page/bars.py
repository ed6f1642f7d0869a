"""Shares of time, step times, and how many steps had which lag and staleness, for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from leash.ps.page.keys import View, patch
from leash.ps.report.analysis.histograms import LEAST_SEEN, Histogram, all_steps, histogram
from leash.ps.report.analysis.paces import paces
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.spending import (
    divided,
    knows_exchanging,
    spent,
    waiting_by_worker,
)
from leash.ps.report.pictures.style import STATE_COLORS
from leash.ps.words import LAG_IS, WAITING_IS, decimal, percent, seconds

Shares = tuple[float, float, float]  # of computing, exchanging and being held back
DIVIDED: Final = ("computing", "exchanging", "held back")


@dataclass(frozen=True)
class Counted:
    """What is counted in whole numbers for each step, and how it is told."""

    name: str  # of a column of `Steps`, and of the picture
    title: str
    label: str  # of the axis
    note: str


LAG: Final = Counted("lag", "Lag", LAG_IS, "How far a worker was ahead when it began a step.")
STALENESS: Final = Counted(
    "staleness", "Staleness", "updates between a pull and the push after it",
    "How many updates, by anyone, reached the parameters while a gradient was computed.",
)  # fmt: skip


def shares_view(run: Run) -> View | None:
    """How each worker's time was divided; None if that is unknown."""
    by_worker, done = waiting_by_worker(run), spent(run)
    rows = [
        (str(worker), divided(run, share, [done[worker]]))
        for worker, share in by_worker.items() if worker in done
    ]  # fmt: skip
    return shares_of("worker", rows, has_exchanging=knows_exchanging(run))


def shares_of(
    whose: str, rows: Sequence[tuple[str, Shares]], *, has_exchanging: bool, note: str = ""
) -> View | None:
    """How the time of each was divided, a row for each; None if there is none.

    Args:
        whose: "worker" or "run".
        rows: which one, and the shares of its time.
        has_exchanging: whether exchanging is told apart from being held back.
        note: more to say of it.
    """
    if not rows:
        return None
    states = DIVIDED if has_exchanging else ("computing", "waiting")
    colors = [STATE_COLORS.get(state, STATE_COLORS["held back"]) for state in states]
    return {
        "kind": "shares", "name": "time-shares", "title": f"How each {whose}'s time was divided",
        "note": " ".join(filter(None, (f"The figure is waiting: {WAITING_IS}.", note))),
        "wide": False, "whose": whose,
        "rows": [
            {"label": label, "shares": _as_told(shares, states), "value": percent(1 - shares[0])}
            for label, shares in rows
        ],
        "keys": [patch(state, color) for state, color in zip(states, colors, strict=True)],
    }  # fmt: skip


def _as_told(shares: Shares, states: Sequence[str]) -> list[float]:
    """These shares; the last two as one if need be."""
    told = shares if len(states) == 3 else (shares[0], shares[1] + shares[2])
    return [round(share, 4) for share in told]


def paces_view(run: Run) -> View | None:
    """How long a step takes each worker without waiting; None if no worker has enough of them."""
    rows = []
    for pace in paces(run).values():
        low, high = np.percentile(pace.own_s, [5, 95])
        rows.append({
            "label": str(pace.worker), "low": max(float(low), 1e-7), "mid": pace.median_s,
            "high": max(float(high), 1e-7), "slow": pace.is_slow,
            "value": seconds(pace.median_s) + (f", {pace.ratio:.1f} ×" if pace.is_slow else ""),
        })  # fmt: skip
    if not rows:
        return None
    return {
        "kind": "paces", "name": "step-times", "title": "How long a step takes each worker",
        "note": "Without waiting. The dot is the median, the line reaches from the fastest to the "
        "slowest 5 %. A dot to the right is persistent slowness; a long line, transient slowness.",
        "wide": False, "keys": [], "rows": rows,
    }  # fmt: skip


def lag_view(run: Run) -> View | None:
    """How far workers were ahead, with the bound."""
    return _histogram(run, LAG, bound=only_bound(run))


def staleness_view(run: Run) -> View | None:
    """How stale the updates were."""
    return _histogram(run, STALENESS, bound=None)


def only_bound(run: Run) -> int | None:
    """The bound of a run that had one and the same from its beginning to its end."""
    return run.bound if not run.changes else None


def _histogram(run: Run, what: Counted, *, bound: int | None) -> View | None:
    values = all_steps(run, what.name)
    largest = float(values.max()) if len(values) else -1.0
    counted = histogram(values, largest)
    if counted is None:
        return None
    marks = [{"x": counted.mean, "label": f"mean {decimal(counted.mean)}", "dash": False}]
    if bound is not None:
        marks.append({"x": float(bound), "label": f"bound {bound}", "dash": True})
    if largest != bound:
        marks.append({"x": largest, "label": f"largest {largest:.0f}", "dash": None})
    return {"kind": "bars", **bars_of(what, counted), "shares": shares_in(counted), "marks": marks}


def bars_of(what: Counted, counted: Histogram) -> View:
    """What histograms with these bars have in common: words, bars, and what can still be seen."""
    return {
        "name": what.name, "title": what.title, "note": what.note, "wide": False, "keys": [],
        "label": what.label, "width": float(counted.starts[1] - counted.starts[0]),
        "starts": counted.starts[:-1].tolist(), "least": LEAST_SEEN,
    }  # fmt: skip


def shares_in(counted: Histogram) -> list[float]:
    """The share of the steps in each bar."""
    return [float(f"{share:.4g}") for share in counted.shares.tolist()]
