"""Shares of time, step times, and how many steps had which lag and staleness, for the page."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from leash.ps.page.keys import View, patch
from leash.ps.report.analysis.histograms import LEAST_SEEN, all_steps, histogram
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

DIVIDED: Final = ("computing", "exchanging", "held back")


def shares_view(run: Run) -> View | None:
    """How each worker's time was divided; None if that is unknown."""
    by_worker, done = waiting_by_worker(run), spent(run)
    states = (
        ["computing", "exchanging", "held back"]
        if knows_exchanging(run)
        else ["computing", "waiting"]
    )
    rows = [
        {"label": str(worker), "shares": _as_told(divided(run, share, [done[worker]]), states),
         "value": percent(share)}
        for worker, share in by_worker.items() if worker in done
    ]  # fmt: skip
    if not rows:
        return None
    colors = [STATE_COLORS.get(state, STATE_COLORS["held back"]) for state in states]
    return {
        "kind": "shares", "name": "time-shares", "title": "How each worker's time was divided",
        "note": f"The figure is waiting: {WAITING_IS}.", "wide": False, "rows": rows,
        "keys": [patch(state, color) for state, color in zip(states, colors, strict=True)],
    }  # fmt: skip


def _as_told(shares: tuple[float, float, float], states: Sequence[str]) -> list[float]:
    """These shares of computing, exchanging and being held back; the last two as one if need be."""
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
    note = "How far a worker was ahead when it began a step."
    return _histogram(run, "lag", "Lag", LAG_IS, note,
                      bound=run.bound if not run.changes else None)  # fmt: skip


def staleness_view(run: Run) -> View | None:
    """How stale the updates were."""
    note = "How many updates, by anyone, reached the parameters while a gradient was computed."
    label = "updates between a pull and the push after it"
    return _histogram(run, "staleness", "Staleness", label, note, bound=None)


def _histogram(
    run: Run, name: str, title: str, label: str, note: str, *, bound: int | None
) -> View | None:
    values = all_steps(run, name)
    largest = float(values.max()) if len(values) else -1.0
    counted = histogram(values, largest)
    if counted is None:
        return None
    marks = [{"x": counted.mean, "label": f"mean {decimal(counted.mean)}", "dash": False}]
    if bound is not None:
        marks.append({"x": float(bound), "label": f"bound {bound}", "dash": True})
    if largest != bound:
        marks.append({"x": largest, "label": f"largest {largest:.0f}", "dash": None})
    return {
        "kind": "bars", "name": name, "title": title, "note": note, "wide": False, "keys": [],
        "label": label, "width": float(counted.starts[1] - counted.starts[0]),
        "starts": counted.starts[:-1].tolist(),
        "shares": [
            round(max(share, LEAST_SEEN * counted.shares.max()), 6) if share else 0.0
            for share in counted.shares.tolist()
        ],
        "marks": marks,
    }  # fmt: skip
