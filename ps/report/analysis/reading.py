"""Reads a run directory into a `Run`. It streams the events: a million of them take seconds."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from leash.ps.errors import UsageError, shown
from leash.ps.options.outer_optimizer import with_names_apart
from leash.ps.options.rule import with_new_names
from leash.ps.options.server import renamed_checkpoints
from leash.ps.report.analysis.run import (
    Accounts,
    Change,
    Evaluated,
    Floats,
    Interval,
    LoggedRow,
    Run,
    Steps,
    Track,
)
from leash.ps.runs.events import Event
from leash.ps.words import DONE, REPLACED, RESTING

STEP_COLUMNS: Final = ("step", "pushed_s", "replied_s", "began_s", "lag", "staleness")
MOST_LOGGED: Final = 20_000  # rows that are kept where old events are forgotten
ACCOUNT_COLUMNS: Final = ("t", "step", "loss", "compute_s", "wait_s")


def read_run(path: Path, name: str | None = None) -> Run:
    """Reads a run directory.

    Raises:
        UsageError: the folder is no run directory, or one of its files is damaged.
    """
    events = path / "events.jsonl"
    if not events.is_file():
        raise UsageError(f"{path}: holds no run: expected a run directory, with events.jsonl in it")
    reader = EventReader()
    try:
        for event in _events(events):
            reader.take(event)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        place = f"line {reader.taken + 1}"
        raise UsageError(f"{events}: {place} is no event: {error!r}") from error
    return reader.run(path, name or path.resolve().name, settings_in(path), summary_of(path))


def _events(path: Path) -> Iterator[Event]:
    """Yields the events. Only the last line may be no event, as a killed server leaves it."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            event = event_of(line)
            if event is not None:
                yield event
            elif line.endswith("\n"):
                raise UsageError(f"{path}: line {number} is no event: {shown(line)}")


def event_of(line: str) -> Event | None:
    """The event of a line of events.jsonl; None if it holds none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event and "t" in event else None


def settings_in(run: Path) -> Event:
    """The settings of a run directory, under their newest names; empty if there are none."""
    path = run / "config.yaml"
    try:
        settings = yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no file of settings: {error}") from error
    if not isinstance(settings, dict):
        return {}
    return renamed_checkpoints(with_names_apart(with_new_names(settings)))


def summary_of(run: Path) -> Event:
    """The content of its summary.json; empty before there is one."""
    path = run / "summary.json"
    try:
        summary = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path}: no summary: {error}") from error
    return summary if isinstance(summary, dict) else {}


def _table(columns: tuple[str, ...]) -> dict[str, "array[float]"]:
    return {name: array("d") for name in columns}


@dataclass
class _Growing:
    """Makes one worker's track from its events."""

    steps: dict[str, "array[float]"] = field(default_factory=lambda: _table(STEP_COLUMNS))
    accounts: dict[str, "array[float]"] = field(default_factory=lambda: _table(ACCOUNT_COLUMNS))
    present: list[Interval] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    here_since: float | None = None
    pushed: tuple[int, float] | None = None  # step and time of the push without a reply
    replied: tuple[int, float] | None = None  # step and time of this process's newest reply
    dropped: int = 0

    def leave(self, t: float, reason: str) -> None:
        if self.here_since is not None:
            self.present.append((self.here_since, t))
            self.reasons.append(reason)
        elif self.is_resting:
            self.reasons[-1] = reason  # it had nothing left to do, and goes now
        self.here_since = self.pushed = self.replied = None

    @property
    def is_resting(self) -> bool:
        """Whether it has left since nothing was left to train on; it may be needed again."""
        return self.here_since is None and self.reasons[-1:] == [RESTING]

    def push(self, t: float, step: int) -> None:
        if self.is_resting:
            self.here_since = t  # another's work has come to it
        self.pushed = (step, t)

    def reply(self, t: float, event: Event) -> None:
        step = event["step"]
        if self.pushed is None or self.pushed[0] != step:
            return  # its push is not in the file, or was an older process's
        follows = self.replied is not None and self.replied[0] == step - 1
        began_s = self.replied[1] if follows and self.replied else np.nan
        row = (step, self.pushed[1], t, began_s, event.get("lag", 0), event.get("staleness", 0))
        for name, value in zip(STEP_COLUMNS, row, strict=True):
            self.steps[name].append(value)
        self.dropped += bool(event.get("dropped"))
        self.pushed, self.replied = None, (step, t)

    def forget(self, before_s: float) -> None:
        """Drops a first part of the columns. It waits until that is worth moving the rest."""
        for table, by, kept in ((self.steps, "replied_s", 0), (self.accounts, "t", 1)):
            old = bisect_left(table[by], before_s) - kept
            if old > len(table[by]) / 4:
                for column in table.values():
                    del column[:old]

    def account(self, t: float, event: Event) -> None:
        row = (t, *(event.get(name) for name in ACCOUNT_COLUMNS[1:]))
        for name, value in zip(ACCOUNT_COLUMNS, row, strict=True):
            self.accounts[name].append(np.nan if value is None else value)


class EventReader:
    """Takes the events in their order, and makes the run of them."""

    def __init__(self) -> None:
        self._growing: dict[int, _Growing] = {}
        self._evaluations: list[tuple[float, Event]] = []
        self._changes: list[tuple[float, Event]] = []
        self._logged: list[tuple[float, Event]] = []
        self._started: Event | None = None
        self._last_t = 0.0
        self.taken = 0  # how many events so far

    def take(self, event: Event) -> None:
        t = self._last_t = float(event["t"])
        worker = event.get("worker")
        match event["event"]:
            case "push":
                self._of(worker).push(t, event["step"])
            case "step":
                self._of(worker).reply(t, event)
            case "training":
                self._of(worker).account(t, event)
            case "joined" if worker:
                self._of(worker).leave(t, REPLACED)
                self._of(worker).here_since = t
            case "left" if worker:
                self._of(worker).leave(t, str(event.get("reason", "")))
            case "started":
                self._started = event
            case "evaluated":
                self._evaluations.append((t, event))
            case "policy_changed":
                self._changes.append((t, event))
            case "logged" if worker:
                self._logged.append((t, event))
        self.taken += 1

    def forget(self, before_s: float) -> None:
        """Forgets what lies before this time: steps, and accounts but the last of them.

        Args:
            before_s: seconds since the server began to listen.
        """
        for growing in self._growing.values():
            growing.forget(before_s)
        if len(self._logged) > MOST_LOGGED:
            del self._logged[: -MOST_LOGGED // 2]

    def run(self, path: Path, name: str, options: Event, summary: Event) -> Run:
        """Makes the run of the events so far.

        Args:
            path: of its directory.
            name: that it is to have.
            options: its settings.
            summary: its figures, as summary.json has them.
        """
        started = self._started or {}
        zero_s = float(started.get("t", 0.0))
        end_s = self._end_s()
        tracks = [_track(rank, g, zero_s, end_s) for rank, g in sorted(self._growing.items())]
        policy = started.get("policy", summary.get("policy", options.get("policy")))
        return Run(
            path=path, name=name, options=options, summary=summary, policy=policy,
            bound=started.get("bound", summary.get("bound")), started=bool(started),
            seconds=max(0.0, end_s - zero_s) if started else 0.0,
            step_events=int(started.get("step_events", 1)), tracks=tuple(tracks),
            evaluations=tuple(_evaluated(t - zero_s, e) for t, e in self._evaluations),
            changes=tuple(_change(t - zero_s, e) for t, e in self._changes),
            is_cut=summary.get("ended", DONE) != DONE or not summary,
            logged=tuple(_logged(t - zero_s, e) for t, e in self._logged),
        )  # fmt: skip

    def _of(self, worker: Any) -> _Growing:
        return self._growing.setdefault(int(worker), _Growing())

    def _end_s(self) -> float:
        """When the last worker ended; the end of the file if one was still there."""
        growing = self._growing.values()
        if any(g.here_since is not None for g in growing):
            return self._last_t
        return max((g.present[-1][1] for g in growing if g.present), default=self._last_t)


def _track(worker: int, growing: _Growing, zero_s: float, end_s: float) -> Track:
    intervals, reasons = growing.present, growing.reasons
    if growing.here_since is not None:
        intervals = [*intervals, (growing.here_since, max(growing.here_since, end_s))]
        reasons = [*reasons, ""]
    steps = {name: _array(growing.steps[name]) for name in STEP_COLUMNS}
    for name in ("pushed_s", "replied_s", "began_s"):
        steps[name] = steps[name] - zero_s
    accounts = {name: _array(growing.accounts[name]) for name in ACCOUNT_COLUMNS}
    accounts["t"] = accounts["t"] - zero_s
    present = tuple((max(0.0, a - zero_s), max(0.0, b - zero_s)) for a, b in intervals)
    return Track(
        worker, Steps(**steps, dropped=growing.dropped), Accounts(**accounts), present,
        tuple(reasons),
    )  # fmt: skip


def _array(column: "array[float]") -> Floats:
    return np.array(column, dtype=np.float64)


def _evaluated(t: float, event: Event) -> Evaluated:
    return Evaluated(t, int(event.get("epoch", 0)), event.get("accuracy"), event.get("loss"))


def _change(t: float, event: Event) -> Change:
    return Change(t, str(event.get("policy", "?")), event.get("bound"))


def _logged(t: float, event: Event) -> LoggedRow:
    metrics = {str(name): float(value) for name, value in event["metrics"].items()}
    return LoggedRow(t, int(event["worker"]), int(event["step"]), metrics)


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """Reads these runs, and gives each a name of its own."""
    paths = list(paths)
    names = [path.resolve().name for path in paths]
    return [
        read_run(path, name if names.count(name) == 1 else "/".join(path.resolve().parts[-2:]))
        for path, name in zip(paths, names, strict=True)
    ]
