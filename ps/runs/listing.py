"""Finds the runs below a folder, and says of each what it was and what came of it."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from leash.ps.errors import LeashError, UsageError
from leash.ps.options.rule import with_new_names
from leash.ps.policy import choose_rule
from leash.ps.runs import journal
from leash.ps.runs.rundir import RUNS
from leash.ps.words import DONE, INCOMPLETE, why_stopped

DEEPEST: Final = 3  # folders below the given one: experiments have a folder for each of their runs
GOING_S: Final = 30.0  # a run whose files have been written to so lately goes on
TAIL_NBYTES: Final = 1 << 16
GOES_ON: Final = "goes on"
NO_END: Final = "no end written"
_DATED: Final = re.compile(r"(\d{8}-\d{6})-")


@dataclass(frozen=True)
class ListedRun:
    """One run, as `leash runs` shows it. What is not known is None, or an empty text.

    Attributes:
        run: its folder.
        began: when it began, in seconds since 1970.
        what: it trained, such as ``linear on digits``, or a script.
        policy: by which, such as ``ssp(3)``.
        workers: how many took part, or were to, such as ``4`` or ``2 to 8``.
        ended: ``done``, why it ended early, ``goes on``, or ``no end written`` of one whose server
            was killed.
        accuracy: of its last test, from 0 to 1.
        steps: of all workers.
        seconds: of training.
    """

    run: Path
    began: float
    what: str
    policy: str
    workers: str
    ended: str
    accuracy: float | None
    steps: int | None
    seconds: float | None


def runs_below(folder: Path, wall: Callable[[], float] = time.time) -> list[ListedRun]:
    """Lists the runs in a folder and those below it, the newest first.

    Args:
        folder: such as ``runs``; it may be a run itself.
        wall: seconds since 1970.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; give the one that has your runs")
    listed = [_listed(run, wall()) for run in _found(folder, DEEPEST)]
    return sorted(listed, key=lambda run: (-run.began, str(run.run)))


def newest_run(command: str, folder: Path = Path(RUNS)) -> Path:
    """The run in this folder, or below it, that began last.

    Args:
        command: of `leash`, which takes a run directory.
        folder: that has runs.

    Raises:
        UsageError: there is none.
    """
    runs = runs_below(folder) if folder.is_dir() else []
    if not runs:
        raise UsageError(f"no run in {folder}: give a run directory: leash {command} runs/NAME")
    return runs[0].run


def _found(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "events.jsonl").is_file() or (folder / "summary.json").is_file():
        yield folder
        return
    if depth:
        for below in sorted(folder.iterdir()):
            if below.is_dir():
                yield from _found(below, depth - 1)


def _listed(run: Path, now_s: float) -> ListedRun:
    settings, summary = _settings(run), _summary(run)
    known = {**settings, **summary}
    written = [(run / name).stat().st_mtime for name in ("events.jsonl", journal.NAME)
               if (run / name).is_file()]  # fmt: skip
    lasts = bool(written) and now_s - max(written) < GOING_S
    return ListedRun(
        run=run, began=_began(run), what=_what(known), policy=_policy(known),
        workers=_workers(settings, summary),
        ended=_ended(summary) if summary else GOES_ON if lasts else NO_END,
        accuracy=summary.get("test_accuracy"), steps=summary.get("steps"),
        seconds=summary["train_seconds"] if "train_seconds" in summary else _last_t(run),
    )  # fmt: skip


def _settings(run: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
        return with_new_names(settings) if isinstance(settings, dict) else {}
    except (OSError, ValueError, yaml.YAMLError, LeashError):
        return {}  # nobody can say what it was


def _summary(run: Path) -> dict[str, Any]:
    try:
        summary = json.loads((run / "summary.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _began(run: Path) -> float:
    """By the name that Leash gives, or else by the files."""
    if (dated := _DATED.match(run.resolve().name)) is not None:
        with suppress(ValueError, OverflowError):  # the name has such numbers by chance
            return time.mktime(time.strptime(dated[1], "%Y%m%d-%H%M%S"))
    first = next(
        path for name in ("config.yaml", "events.jsonl", "summary.json")
        if (path := run / name).is_file()
    )  # fmt: skip
    return first.stat().st_mtime


def _what(known: dict[str, Any]) -> str:
    if script := known.get("script"):
        return str(script)
    return " on ".join(str(known[name]) for name in ("model", "dataset") if known.get(name))


def _policy(known: dict[str, Any]) -> str:
    policy = known.get("policy")
    if "least_workers" not in known and policy is not None:  # the options alone
        try:
            return str(choose_rule(policy, known.get("bound"), known.get("bound_max")))
        except (LeashError, TypeError, KeyError):
            return str(policy)
    bound = known.get("bound")
    return "" if policy is None else f"{policy}({bound})" if bound is not None else str(policy)


def _workers(settings: dict[str, Any], summary: dict[str, Any]) -> str:
    most = summary.get("workers") or settings.get("max_workers") or settings.get("workers")
    least = summary.get("least_workers") or settings.get("workers") or most
    if most is None:
        return ""
    return str(most) if least == most else f"{least} to {most}"


def _ended(summary: dict[str, Any]) -> str:
    ended = str(summary.get("ended", ""))
    return ended if ended in (DONE, INCOMPLETE) else why_stopped(ended)


def _last_t(run: Path) -> float | None:
    """The time of the last whole event, in seconds since the server began."""
    try:
        with (run / "events.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_NBYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # the last may be cut
            return float(json.loads(line)["t"])
    return None
