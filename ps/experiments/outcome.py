"""The results of an experiment: one row for each run, or for the runs that differ in the seed."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from leash.ps.words import DONE


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The result of one run. Its seconds are those at full scale: measured ones / time scale."""

    name: str
    seed: int | None
    epochs: int
    seconds: float  # from the first step to the end of the last epoch
    seconds_to_target: float | None  # to the end of the first epoch that reached it
    accuracy: float | None  # of the test set, after the last epoch
    wait_share: float  # share of the workers' time between a push and its answer
    limit_ratio: float | None  # to its time if nobody ever waited; None if it was cut short
    batches_per_second: float  # of --batch-size samples, all workers together
    mean_staleness: float
    max_lag: int

    @property
    def part(self) -> str:
        """The words before the colon in the run's name; the table compares runs of one part."""
        return self.name.rpartition(": ")[0]

    @property
    def seconds_per_epoch(self) -> float:
        """The mean over the epochs."""
        return self.seconds / max(1, self.epochs)


def read_outcome(name: str, run_dir: Path, target_accuracy: float | None) -> RunOutcome:
    """Reads the result of a run that is over.

    Args:
        name: of the run in its experiment.
        run_dir: where the run left its files.
        target_accuracy: from 0 to 1; None if no accuracy is aimed at.

    Raises:
        FileNotFoundError: the run left no summary.
    """
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    settings = _settings(run_dir)
    scale = float(settings.get("time_scale") or 1.0)
    ends_s, samples_per_s = _read_events(run_dir / "events.jsonl")
    measured_s = ends_s[-1] if ends_s else summary["train_seconds"]
    limit_s = summary["samples"] / samples_per_s if samples_per_s else 0.0
    seconds = measured_s / scale
    waits = [share for share in summary["wait_fraction_by_worker"].values() if share is not None]
    mean = statistics.fmean(waits) if waits else 0.0  # summaries of before lack the one figure
    batch_size = settings.get("batch_size") or 1
    return RunOutcome(
        name=name,
        seed=summary.get("seed"),
        epochs=summary["epochs"],
        seconds=seconds,
        seconds_to_target=_time_of(target_accuracy, summary, ends_s, scale),
        accuracy=summary["test_accuracy"],
        wait_share=summary.get("wait_fraction") or mean,
        limit_ratio=measured_s / limit_s if limit_s and summary["ended"] == DONE else None,
        batches_per_second=summary["samples"] / batch_size / max(seconds, 1e-9),
        mean_staleness=summary["mean_staleness"],
        max_lag=summary["max_lag"],
    )


def median_rows(outcomes: Sequence[RunOutcome]) -> list[RunOutcome]:
    """Makes one row for each name, of the medians over its seeds, in the order of appearance."""
    by_name: dict[str, list[RunOutcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.name, []).append(outcome)
    return [_median(rows) for rows in by_name.values()]


def as_json(outcomes: Iterable[RunOutcome]) -> str:
    """Writes the rows of results.json."""
    rows = [
        {**asdict(outcome), "seconds_per_epoch": outcome.seconds_per_epoch} for outcome in outcomes
    ]
    return json.dumps(rows, indent=1) + "\n"


def _median(rows: list[RunOutcome]) -> RunOutcome:
    if len(rows) == 1:
        return rows[0]

    def middle(name: str) -> Any:
        values = [getattr(row, name) for row in rows]
        return None if None in values else statistics.median(values)

    first = rows[0]
    figures = {
        name: middle(name)
        for name in ("seconds", "seconds_to_target", "accuracy", "wait_share", "limit_ratio",
                     "batches_per_second", "mean_staleness")
    }  # fmt: skip
    most = max(row.max_lag for row in rows)
    return RunOutcome(first.name, None, first.epochs, **figures, max_lag=most)


def _settings(run_dir: Path) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    return settings


def _read_events(events: Path) -> tuple[list[float], float]:
    """Reads when each epoch ended, in seconds since the start, and the work-conserving rate.

    The rate is how many samples a second all workers together would train on if nobody ever waited:
    the sum, over the workers, of the samples over the seconds of computing that a worker reported.
    It is 0.0 if no worker reported any.
    """
    started_s = 0.0
    ends_s: list[float] = []
    rates: dict[int, float] = {}
    with events.open(encoding="utf-8") as lines:
        for line in lines:
            if '"event": "started"' in line:
                started_s = json.loads(line)["t"]
            elif '"event": "training"' in line:
                event = json.loads(line)
                if event["compute_s"]:
                    rates[event["worker"]] = event["samples"] / event["compute_s"]
            elif '"event": "epoch_completed"' in line:
                event = json.loads(line)
                # One event may stand for several epochs, if they were short.
                ends_s += [event["t"] - started_s] * (event["epoch"] - len(ends_s))
    return ends_s, sum(rates.values())


def _time_of(
    target: float | None, summary: dict[str, Any], ends_s: list[float], scale: float
) -> float | None:
    if target is None:
        return None
    by_epoch = zip(summary["test_accuracy_by_epoch"], ends_s, strict=False)
    return next((s / scale for acc, s in by_epoch if acc is not None and acc >= target), None)
