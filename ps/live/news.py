"""Composes what the page shows: HTML of the top, the workers and the messages, and pictures."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from leash.ps.commands.run_table import waiting_for, waits_of
from leash.ps.commands.worker_rows import epoch_text
from leash.ps.live.follower import WINDOW_S, RunFollower
from leash.ps.page.bars import lag_view, paces_view, staleness_view
from leash.ps.page.curves import (
    accuracy_views,
    crew_view,
    logged_views,
    loss_views,
    speed_view,
    traffic_view,
)
from leash.ps.page.html import text, top_of
from leash.ps.page.keys import View
from leash.ps.page.lanes import closer_view, lanes_view
from leash.ps.page.view import APART, REACHED, TIME, section, sections
from leash.ps.report.analysis.diagnosis import diagnose
from leash.ps.report.analysis.run import Floats, Run
from leash.ps.runs.background.cadence import Cadence
from leash.ps.words import (
    AWAITED,
    BETWEEN,
    DONE,
    EVICTED,
    FAILED,
    LAG_IS,
    LIVE,
    NONE,
    REPLACED,
    RESTING,
    STOPPED,
    TIMED_OUT,
    WAITING_IS,
    count,
    decimal,
    duration,
    percent,
)

RunSnapshot = Mapping[str, Any]  # what `state` answers; docs/wire-format.md lists its keys

BIN_S: Final = 1.0  # of a lane, while the run goes on
LEAST_BINS: Final = 30
# The pictures are drawn anew once a second, and the table is twice; less often where that takes a
# larger share of a processor than this.
PICTURES_S: Final = 1.0
PICTURES_SHARE: Final = 0.01
TABLE_S: Final = 0.4  # less than from one snapshot to the next
TABLE_SHARE: Final = 0.003
MAX_SAMPLES: Final = 600  # of speed and bytes
MESSAGES: Final = 200


class Rates:
    """Speed and bytes a second, from what the snapshots count."""

    def __init__(self) -> None:
        self._samples: Final[list[tuple[float, float, float, float]]] = []
        self._span_s = 1.0  # between two samples

    def take(self, state: RunSnapshot) -> None:
        """Takes a snapshot, if the last one was long ago."""
        t = float(state["train_seconds"])
        steps, received, sent = state["steps"], state["bytes_pushed"], state["bytes_answered"]
        if self._samples and t < self._samples[-1][0]:
            self._samples.clear()  # another server goes on with the run
        if not self._samples or t >= self._samples[-1][0] + self._span_s:
            self._samples.append((t, float(steps), float(received), float(sent)))
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[1::2]
            self._span_s *= 2

    def curve(self, column: int) -> tuple[Floats, Floats]:
        """Seconds, and what there was of this in a second: 1 steps, 2 bytes in, 3 bytes out."""
        table = np.array(self._samples, dtype=np.float64).reshape(-1, 4)
        if len(table) < 2:
            return np.empty(0), np.empty(0)
        spans_s = np.maximum(np.diff(table[:, 0]), 1e-9)
        return table[1:, 0], np.diff(table[:, column]) / spans_s


class PageNews:
    """What the page shows now."""

    def __init__(
        self, follower: RunFollower, now: Callable[[], float] = time.monotonic,
        took: Callable[[], float] = time.thread_time,
    ) -> None:  # fmt: skip
        """Has nothing to show yet.

        Args:
            follower: of the run's events.
            now: seconds on a clock that never goes back.
            took: seconds of processor time so far.
        """
        self._follower: Final = follower
        self._drawing: Final = Cadence(PICTURES_S, PICTURES_SHARE, now, took)
        self._tabling: Final = Cadence(TABLE_S, TABLE_SHARE, now, took)
        self._rates: Final = Rates()
        self._said: deque[tuple[float, str]] = deque(maxlen=MESSAGES)
        self._pictures: list[View] = []
        self._top = self._workers = ""
        self._is_last = False  # whether what was shown is how the run has ended

    def hear(self, t: float, line: str) -> None:
        """Takes a line that the server has said, this many seconds after its start."""
        self._said.append((t, line))

    def update(self, state: RunSnapshot | None) -> dict[str, Any] | None:
        """What is new, for a browser that has seen all before it.

        Args:
            state: a snapshot of the server; None where there is no server.

        Returns:
            A message for `web.Board`; None if nothing is new, since the run has ended.
        """
        has_news = self._follower.poll()
        summary = self._follower.summary
        if summary and self._is_last and not has_news:
            return None
        self._is_last = bool(summary)
        if state is not None and not summary:
            self._rates.take(state)
        has_pictures = bool(summary) or self._drawing.is_due
        if has_pictures:
            with self._drawing.doing():
                self._draw(summary, state)
        if summary or self._tabling.is_due:
            with self._tabling.doing():
                self._workers = workers_table(state) if state else ""
        return self._message(summary, state, with_pictures=has_pictures)

    def _message(
        self, summary: RunSnapshot, state: RunSnapshot | None, *, with_pictures: bool
    ) -> dict[str, Any]:
        name = self._follower.path.resolve().name
        html = {"top": self._top, "workers": self._workers, "messages": self._messages()}
        message: dict[str, Any] = {
            "title": f"{name} – Leash", "html": html, "ended": bool(summary),
            "status": _status(summary, state),
        }  # fmt: skip
        if with_pictures:
            message["sections"] = self._pictures
        return message

    def _draw(self, summary: dict[str, Any], state: RunSnapshot | None) -> None:
        run = self._follower.run(summary or (dict(state) if state is not None else {}))
        self._top = top_of(run, diagnose(run), "Leash")
        self._pictures = self._live_sections(run) if state and not summary else sections(run)

    def _live_sections(self, run: Run) -> list[View]:
        stop_s = math.ceil(run.seconds / BIN_S) * BIN_S
        bins = int(np.clip(stop_s / BIN_S, LEAST_BINS, WINDOW_S / BIN_S))
        edges = stop_s - BIN_S * np.arange(bins, -1, -1)
        edges = edges - min(edges[0], 0.0)  # a run that has just begun fills them from the left
        return [
            section(TIME, [lanes_view(run, edges), closer_view(run, at_the_end=True),
                           crew_view(run)]),
            section(REACHED, [*accuracy_views(run)[:1], *loss_views(run)[:1],
                              *logged_views(run),
                              speed_view(run, self._rates.curve(1), wide=False),
                              traffic_view(run, self._rates.curve(2), self._rates.curve(3))]),
            section(APART, [staleness_view(run), lag_view(run), paces_view(run)]),
        ]  # fmt: skip

    def _messages(self) -> str:
        lines = self._said or deque((e["t"], told_of(e)) for e in self._follower.told)
        items = [
            f"<li><time>{duration(t)}</time><span>{text(line)}</span></li>"
            for t, line in reversed(lines) if line
        ]  # fmt: skip
        return "".join(items)


def _status(summary: RunSnapshot, state: RunSnapshot | None) -> str:
    if summary:
        return "the run has ended" if summary.get("ended") == DONE else f"ended: {summary['ended']}"
    if state is None:
        return "no server tells how it stands"
    if state["missing"]:
        return waiting_for(dict(state)).removeprefix("starting: ")
    return "live" if state["started"] else "not started"


WORKER_COLUMNS: Final = (
    "worker",
    "state",
    "epoch",
    "step",
    "waiting",
    "lag",
    "samples/s",
    "loss",
    "doing",
)
NUMBERS: Final = ("epoch", "step", "lag", "samples/s", "loss")


def workers_table(state: RunSnapshot) -> str:
    """A row for each worker: its state, its waiting, and its lag against the bound."""
    bound = state.get("bound")
    head = "".join(f'<th scope="col"{_numeric(name)}>{text(name)}</th>' for name in WORKER_COLUMNS)
    rows = "".join(_row(row, bound, epoch_text(state, row)) for row in state["table"])
    awaited = "".join(f"<p>{text(line)}</p>" for line in waits_of(dict(state)))
    note = f"Epoch: those completed. Waiting: share of the time {WAITING_IS}. Lag: {LAG_IS}"
    limit = f", at most {bound}." if bound is not None else "."
    return (
        f'<h2>Workers</h2>{awaited}<div class="card scroll workers"><table><thead><tr>{head}</tr>'
        f'</thead><tbody>{rows}</tbody></table></div><p class="note">{text(note + limit)}</p>'
    )


def _numeric(name: str) -> str:
    return ' class="number"' if name in NUMBERS else ""


def _row(row: Mapping[str, Any], bound: int | None, epoch: str) -> str:
    waiting = row["wait_fraction"]
    bar = NONE
    if waiting is not None:
        bar = (
            f'<span class="bar" title="{percent(waiting)}"><i style="width:{100 * waiting:.0f}%;'
            f'background:var(--orange)"></i></span>{percent(waiting)}'
        )
    is_good = row["state"] in (LIVE, RESTING, DONE, AWAITED)
    lag = f"{row['lag']} of {bound}" if bound else str(row["lag"])
    loss = decimal(row["loss"]) if isinstance(row["loss"], float) else NONE
    cells = {
        "worker": str(row["worker"]), "state": str(row["state"]), "epoch": epoch,
        "step": count(row["step"]), "lag": lag, "samples/s": decimal(row["samples_per_s"]),
        "loss": loss, "doing": _doing(row.get("phase") or NONE),
    }  # fmt: skip
    told = {name: text(cell) for name, cell in cells.items()} | {"waiting": bar}
    bad = "" if is_good else ' class="bad"'
    tags = "".join(f"<td{_numeric(name)}>{told[name]}</td>" for name in WORKER_COLUMNS)
    return f"<tr{bad}>{tags}</tr>"


def _doing(phase: str) -> str:
    """A phase for people; "between" alone says nothing."""
    return "between steps" if phase == BETWEEN else phase


def told_of(event: Mapping[str, Any]) -> str:
    """An event in words; empty if it is not worth a line."""
    if event.get("worker") == 0:  # it does not train: the accuracies tell enough of it
        return ""
    words = _WORDS.get(event["event"])
    told = {"bound": "", **event}
    try:
        if event["event"] == "left":
            words = _LEFT[event["reason"]]
        return words.format_map(told).strip() if words is not None else ""
    except (LookupError, ValueError, TypeError):
        return ""  # an event of another release


_WORDS: Final = {
    "joined": "worker {worker} ({name}) has joined",
    "started": "started, {policy} {bound}",
    "policy_changed": "from now on {policy} {bound}",
    "evaluated": "test accuracy {accuracy:.2%} after epoch {epoch}",
    "epoch_completed": "epoch {epoch} is complete",
    "shard_lost": "a process of the server was lost",
}
# Why a worker has left ▸ the same for people.
_LEFT: Final = {
    DONE: "worker {worker} is done with its work",
    RESTING: "worker {worker} has nothing left to train on, and waits in case another is lost",
    TIMED_OUT: "worker {worker} has left: its time was over",
    STOPPED: "worker {worker} has left: it was told to stop",
    FAILED: "worker {worker} has failed",
    EVICTED: "the others go on without worker {worker}: it was silent for too long, or sent what "
    "it must not",
    REPLACED: "another process has taken the place of worker {worker}",
}
