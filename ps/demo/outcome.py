"""What has become of one side of the demo, from the files of its run."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SideOutcome:
    """The figures of a run that is over. Shares and accuracies are from 0 to 1."""

    seconds: float  # from the first step to the last
    steps: int  # of all machines together
    steps_per_second: float
    waits: tuple[float | None, ...]  # by rank: the share of a machine's time that it waited
    accuracies: tuple[tuple[float, float], ...]  # when each was known, in seconds; and what it was

    @property
    def accuracy(self) -> float | None:
        """The last one; None if none was measured."""
        return self.accuracies[-1][1] if self.accuracies else None

    def seconds_to(self, target: float) -> float | None:
        """When an accuracy was first known to be reached; None if none was."""
        return next((s for s, accuracy in self.accuracies if accuracy >= target), None)


def read_side(run_dir: Path) -> SideOutcome:
    """Reads summary.json and the events of a run.

    Args:
        run_dir: where the run has left its files.

    Raises:
        OSError: it has left none.
    """
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    with (run_dir / "events.jsonl").open(encoding="utf-8") as lines:
        accuracies = _accuracies(json.loads(line) for line in lines if '"step"' not in line)
    waits = summary["wait_fraction_by_worker"]
    return SideOutcome(
        seconds=summary["train_seconds"],
        steps=summary["steps"],
        steps_per_second=summary["steps_per_second"],
        waits=tuple(waits[rank] for rank in sorted(waits, key=int)),
        accuracies=tuple(accuracies),
    )


def _accuracies(events: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
    """When each test accuracy was known, in seconds since the start, and what it was.

    The parameters go on while they are evaluated, so the time is that of the figure, and not that
    of the end of the epoch: nobody gains by it.
    """
    started_s, found = 0.0, []
    for event in events:
        if event["event"] == "started":
            started_s = event["t"]
        elif event["event"] == "evaluated" and event["accuracy"] is not None:
            found.append((event["t"] - started_s, event["accuracy"]))
    return found
