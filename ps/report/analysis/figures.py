"""Chooses the figures at the top of a page: the results of a run in numbers."""

from dataclasses import dataclass

from leash.ps.report.analysis.diagnosis import Costs, Diagnosis
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.spending import knows_exchanging, waiting
from leash.ps.words import LAG_IS, NONE, WAITING_IS, accuracy_text, count, decimal, percent, seconds


@dataclass(frozen=True)
class KeyFigure:
    """A figure with its name."""

    name: str
    value: str
    about: str = ""  # a few words below the figure


def key_figures(run: Run, diagnosis: Diagnosis) -> list[KeyFigure]:
    """The figures that the run has, with those first that people ask for most."""
    figures = [
        _accuracy(run), _loss(run), _time(run), _speed(run), _crew(run), _waiting(run, diagnosis),
        _lag(run), _staleness(run), *_troubles(run),
    ]  # fmt: skip
    return [figure for figure in figures if figure is not None]


def _accuracy(run: Run) -> KeyFigure | None:
    known = [e.accuracy for e in run.evaluations if e.accuracy is not None]
    if not known:
        return None
    best = f"best {accuracy_text(max(known))}" if max(known) > known[-1] else ""
    return KeyFigure("test accuracy", accuracy_text(known[-1]), best)


def _loss(run: Run) -> KeyFigure | None:
    known = [e.loss for e in run.evaluations if e.loss is not None]
    return KeyFigure("test loss", decimal(known[-1])) if known else None


def _time(run: Run) -> KeyFigure | None:
    if not run.started:
        return None
    epochs, planned = run.summary.get("epochs"), run.summary.get("planned_epochs")
    of_planned = f" of {planned}" if planned and planned != epochs else ""
    about = f"{epochs}{of_planned} epoch{'s' if (planned or epochs) != 1 else ''}" if epochs else ""
    if run.scale != 1:
        full = seconds(run.seconds / run.scale)
        about = ", ".join(filter(None, (about, f"{full} at full scale")))
    return KeyFigure("training", seconds(run.seconds), about)


def _speed(run: Run) -> KeyFigure | None:
    if not run.steps or run.seconds <= 0:
        return None
    about = f"{count(run.steps)} steps"
    if run.scale != 1:
        about += f", {decimal(run.steps / run.seconds * run.scale)}/s at full scale"
    return KeyFigure("steps/s", decimal(run.steps / run.seconds), about)


def _crew(run: Run) -> KeyFigure | None:
    """How many workers took part at once, of a run whose workers come and go."""
    most = run.summary.get("most_at_once")
    if " to " not in run.crew or not most:
        return None
    return KeyFigure("workers at once", count(most), f"at most; the run was for {run.crew}")


def _waiting(run: Run, diagnosis: Diagnosis) -> KeyFigure | None:
    if (share := waiting(run)) is None:
        return None
    early = diagnosis.costs.done_early
    idle = f"; besides, {percent(early)} idle at the end" if early >= 0.01 else ""
    parts = _parts_of_waiting(diagnosis.costs, share) if knows_exchanging(run) else ""
    return KeyFigure("waiting", percent(share), f"of the workers' time, {WAITING_IS}{parts}{idle}")


def _parts_of_waiting(costs: Costs, share: float) -> str:
    """Says how waiting differs from being held back, of which the diagnosis speaks."""
    # Its shares are of all time, also that at the end, when some are idle.
    if costs.held > share or costs.done_early >= 0.01:
        return ": held back for others, and exchanging"
    return f": {percent(costs.held)} held back for others, the rest exchanging"


def _lag(run: Run) -> KeyFigure | None:
    if (lag := run.summary.get("max_lag")) is None:
        return None
    bound = f"bound {run.bound}" if run.bound is not None else "no bound"
    limit = bound if not run.changes else "the policy changed"
    return KeyFigure("largest lag", count(lag), f"{LAG_IS}; {limit}")


def _staleness(run: Run) -> KeyFigure | None:
    if (mean := run.summary.get("mean_staleness")) is None:
        return None
    largest = run.summary.get("max_staleness")
    return KeyFigure("mean staleness", decimal(mean), f"at most {largest}" if largest else "")


def _troubles(run: Run) -> list[KeyFigure | None]:
    dropped = sum(track.steps.dropped for track in run.tracks)
    summary = run.summary
    return [
        _if_any("samples used twice", summary.get("samples_twice"), "after a worker was lost"),
        _if_any("gradients dropped", summary.get("dropped", dropped), "staler than allowed"),
        _if_any("workers left behind", summary.get("evictions"), "silent for too long"),
        _if_any("refused chunks", summary.get("nonfinite_chunks"), "not finite"),
    ]


def _if_any(name: str, value: object, about: str) -> KeyFigure | None:
    if not isinstance(value, int | float) or not value:
        return None
    return KeyFigure(name, count(value), about)


def value_of(figures: list[KeyFigure], name: str) -> str:
    """The value of the figure with this name; empty if there is none."""
    return next((figure.value for figure in figures if figure.name == name), NONE)
