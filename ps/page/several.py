"""The view of several runs side by side: a run has the same line in every picture."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from leash.ps.page.bars import (
    LAG,
    STALENESS,
    Counted,
    bars_of,
    only_bound,
    shares_in,
    shares_of,
)
from leash.ps.page.curves import LOGGED_NAMES, lines_view
from leash.ps.page.keys import View, run_key
from leash.ps.page.lanes import lanes_view
from leash.ps.page.view import APART, REACHED, TIME, section
from leash.ps.report.analysis.histograms import all_steps, histogram
from leash.ps.report.analysis.lanes import MAX_LANES
from leash.ps.report.analysis.run import Floats, Run
from leash.ps.report.analysis.series import (
    Curve,
    accuracy,
    differ_much,
    errors_differ_much,
    logged,
    speed,
    test_loss,
    training_loss,
)
from leash.ps.report.analysis.spending import divided_together, knows_exchanging
from leash.ps.report.pictures.lineup import Shown
from leash.ps.words import decimal, listed

RunCurves = Sequence[tuple[Shown, Curve]]

FEW_CURVES: Final = 6  # dots on more of them would hide the lines


def sections_of_several(shown: Sequence[Shown]) -> list[View]:
    """All pictures of several runs, below their titles."""
    return [
        section(REACHED, [*_accuracy_views(shown), *_loss_views(shown), *_logged_views(shown)]),
        section(TIME, [_speed_view(shown), _shares_view(shown), *_lanes_views(shown)]),
        section(APART, [_histograms_view(shown, STALENESS), _histograms_view(shown, LAG)]),
    ]


# Curves. Beside others, a run is drawn at full scale.


def _accuracy_views(shown: Sequence[Shown]) -> list[View]:
    curves = [(s, accuracy(s.run)) for s in shown]
    values = _values(curves)
    scale = "errors" if errors_differ_much(values) else "linear"
    return _over_time_and_steps("accuracy", "Test accuracy", curves, unit="%", scale=scale)


def _loss_views(shown: Sequence[Shown]) -> list[View]:
    """The test loss of each run, or the training loss of one that has no other."""
    tested = [(s, test_loss(s.run)) for s in shown]
    curves = [(s, curve if len(curve[0]) else training_loss(s.run)) for s, curve in tested]
    trained = [
        s.run.name
        for (s, test), (_, curve) in zip(tested, curves, strict=True)
        if len(curve[0]) and not len(test[0])
    ]
    note = "Test loss, mean per sample."
    if trained:
        note = f"Test loss, but of {listed(trained)} training loss; mean per sample."
    if all(not len(test[0]) for _, test in tested):
        note = "Training loss, mean per sample."
    scale = "log" if differ_much(_values(curves)) else "linear"
    return _over_time_and_steps("loss", "Loss", curves, unit="", scale=scale, note=note)


def _logged_views(shown: Sequence[Shown]) -> list[View | None]:
    """What the runs' own loops have logged over time: a picture for each name."""
    by_run = [(s, logged(s.run)) for s in shown]
    names = list(dict.fromkeys(name for _, curves in by_run for name in curves))
    nothing: Curve = (np.empty(0), np.empty(0))
    return [
        _over_time(f"logged-{name}", name, [(s, curves.get(name, nothing)) for s, curves in by_run],
                   unit="", note=_mean_of([s.run for s, curves in by_run if name in curves], name))
        for name in names[:LOGGED_NAMES]
    ]  # fmt: skip


def _mean_of(runs: Sequence[Run], name: str) -> str:
    has_several = any(
        len({row.worker for row in run.logged if name in row.metrics}) > 1 for run in runs
    )
    return "Mean of each run's workers." if has_several else ""


def _speed_view(shown: Sequence[Shown]) -> View | None:
    curves = [(s, speed(s.run)) for s in shown]
    at_full_scale = [(s, (t, per_s * s.run.scale)) for s, (t, per_s) in curves]
    title = "Steps a second, of all workers"
    return _over_time("speed", title, at_full_scale, unit="steps/s", has_dots=False)


def _over_time_and_steps(name: str, title: str, curves: RunCurves, **how: Any) -> list[View]:
    in_steps = [(s, _by_steps(s.run, curve)) for s, curve in curves]
    views = [
        _over_time(f"{name}-over-time", f"{title} over time", curves, **how),
        _lines(f"{name}-over-steps", f"{title} over steps", in_steps, x="steps", **how),
    ]
    return [view for view in views if view is not None]


def _over_time(name: str, title: str, curves: RunCurves, **how: Any) -> View | None:
    scaled = any(s.run.scale != 1 for s, _ in curves)
    return _lines(
        name, title, [(s, (t / s.run.scale, y)) for s, (t, y) in curves],
        end=max(s.run.seconds / s.run.scale for s, _ in curves),
        time_is="time at full scale" if scaled else "time", **how,
    )  # fmt: skip


def _lines(
    name: str, title: str, curves: RunCurves, *, note: str = "", has_dots: bool = True, **how: Any
) -> View | None:
    """The curves of those runs that have one; None if there are none."""
    series = [(run_key(s), curve) for s, curve in curves if len(curve[0])]
    if not series:
        return None
    absent = _unknown_of([s.run for s, curve in curves if not len(curve[0])])
    told = " ".join(filter(None, (note, absent)))
    return lines_view(
        name, title, series, note=told, points=has_dots and len(series) <= FEW_CURVES,
        has_legend=False, **how,
    )  # fmt: skip


def _by_steps(run: Run, curve: Curve) -> Curve:
    steps = run.steps_at(curve[0])
    return (np.empty(0), np.empty(0)) if steps is None else (steps, curve[1])


def _values(curves: RunCurves) -> Floats:
    return np.concatenate([curve[1] for _, curve in curves])


def _unknown_of(runs: Sequence[Run]) -> str:
    return f"Unknown of {listed([run.name for run in runs])}." if runs else ""


# Shares of time, and lanes.


def _shares_view(shown: Sequence[Shown]) -> View | None:
    divided = [(s.run, divided_together(s.run)) for s in shown]
    rows = [(run, shares) for run, shares in divided if shares is not None]
    vague = [run.name for run, _ in rows if not knows_exchanging(run)]
    is_mixed = 0 < len(vague) < len(rows)
    notes = [_unknown_of([run for run, shares in divided if shares is None])]
    if is_mixed:
        notes.append(f"All waiting of {listed(vague)} is shown as held back: no more is known.")
    return shares_of(
        "run", [(run.name, shares) for run, shares in rows],
        has_exchanging=len(vague) < len(rows), note=" ".join(filter(None, notes)),
    )  # fmt: skip


def _lanes_views(shown: Sequence[Shown]) -> list[View]:
    """The lanes of each run, on axes of one length."""
    longest_s = max(s.run.seconds for s in shown)
    views = []
    for number, s in enumerate(shown, start=1):
        view = lanes_view(s.run, most=MAX_LANES, until_s=longest_s)
        if view is not None:
            title = f"Workers of {s.run.name}"
            if s.run.ended_early:
                title += ", which ended early"
            views.append({**view, "name": f"lanes-{number}", "title": title, "wide": False})
    return views


# Histograms.


def _histograms_view(shown: Sequence[Shown], what: Counted) -> View | None:
    """How many steps of each run had which lag or staleness, on a common axis."""
    columns = [(s, all_steps(s.run, what.name)) for s in shown]
    largest = max((float(values.max()) for _, values in columns if len(values)), default=-1.0)
    counted = [(s, h) for s, values in columns if (h := histogram(values, largest)) is not None]
    if not counted:
        return None
    bound_of: Callable[[Run], int | None] = only_bound if what is LAG else lambda _: None
    rows = []
    for s, h in counted:
        bound = bound_of(s.run)
        told = f"mean {decimal(h.mean)}" + (f", bound {bound}" if bound is not None else "")
        rows.append({
            "label": s.run.name, "color": run_key(s)["color"], "about": told,
            "shares": shares_in(h), "bound": bound,
        })  # fmt: skip
    notes = [what.note, _unknown_of([s.run for s, values in columns if not len(values)])]
    if any(row["bound"] is not None for row in rows):
        notes.insert(1, "The bound is the dashed line.")
    return {
        "kind": "histograms", **bars_of(what, counted[0][1]), "rows": rows,
        "note": " ".join(filter(None, notes)),
    }  # fmt: skip
