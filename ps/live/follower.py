"""Follows the events of a run as they are written: the newest minutes of them, as a `Run`."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from leash.ps.report.analysis.reading import EventReader, event_of, settings_in, summary_of
from leash.ps.report.analysis.run import Run, Track
from leash.ps.runs.events import EventTail

WINDOW_S: Final = 180.0  # of a run that goes on
# More steps a second than this are not all read: one in so many that fewer are left.
MOST_STEPS_PER_S: Final = 1000
STEP_RATE_S: Final = 2.0  # over which that is measured
OF_STEPS: Final = ("push", "step", "training")  # events of which there are many


class RunFollower:
    """Reads a run directory again and again.

    Attributes:
        told: what happened that is no step, with its time, the newest 200: events as they are in
            the file.
    """

    def __init__(self, path: Path, now: Callable[[], float], *, keeps_all: bool = False) -> None:
        """Reads nothing yet.

        Args:
            path: the run directory; it need not be there yet.
            now: seconds on a clock that never goes back.
            keeps_all: keeps all of the run, and not its last minutes alone.
        """
        self.path: Final = path
        self.told: deque[dict[str, Any]] = deque(maxlen=200)
        self._now: Final = now
        self._keeps_all: Final = keeps_all
        self._tail: EventTail | None = None
        self._reader = EventReader()
        self._last_t = 0.0
        self._every = 1  # one step in so many is read
        self._events_read = 0
        self._rate_since_s = now()

    def poll(self) -> bool:
        """Reads what was written since the last call; tells whether there was anything."""
        has_news = False
        for piece in self._pieces():
            has_news = True
            self._events_read += piece.count(b"\n")
            for line in _kept(piece, self._every):
                self._take(line)
        self._measure_rate()
        if not self._keeps_all:
            self._reader.forget(self._last_t - WINDOW_S)
        return has_news

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json, empty before the run has ended."""
        return summary_of(self.path)

    def run(self, summary: dict[str, Any]) -> Run:
        """What is known of the run.

        Args:
            summary: its figures so far, as summary.json has them.
        """
        run = self._reader.run(self.path, self.path.resolve().name, settings_in(self.path), summary)
        if self._every > 1:
            run = replace(run, step_events=self._every, is_thinned=True)
        return run if self._keeps_all else _recent(run)

    def close(self) -> None:
        """Closes the file."""
        if self._tail is not None:
            self._tail.close()

    # How it is done.

    def _pieces(self) -> Iterator[bytes]:
        events = self.path / "events.jsonl"
        while True:
            if self._tail is None:
                try:
                    self._tail = EventTail(events)
                except OSError:
                    return  # no server has begun there, or its next one is about to
                self._reader = EventReader()
            while piece := self._tail.piece():
                yield piece
            if not self._was_replaced(events):
                return
            self._tail.close()
            self._tail = None

    def _was_replaced(self, events: Path) -> bool:
        """Whether another server has begun a file of its own, after the end of this one's."""
        assert self._tail is not None
        try:
            newest = events.stat()
        except OSError:
            return False
        own = os.fstat(self._tail.fileno())
        return (newest.st_dev, newest.st_ino) != (own.st_dev, own.st_ino)

    def _take(self, line: bytes) -> None:
        event = event_of(line.decode("utf-8", "replace"))
        if event is None:
            return
        self._last_t = float(event["t"])
        self._reader.take(event)
        if event["event"] not in OF_STEPS:
            self.told.append(event)

    def _measure_rate(self) -> None:
        passed_s = self._now() - self._rate_since_s
        if passed_s < STEP_RATE_S or self._keeps_all:
            return
        per_s = self._events_read / 2 / passed_s  # of each step, a push and an answer
        self._events_read, self._rate_since_s = 0, self._now()
        while per_s > MOST_STEPS_PER_S * self._every:
            self._every *= 10


def _kept(piece: bytes, every: int) -> Iterator[bytes]:
    """Yields lines of events, but of those of steps only the ones of each `every`-th step.

    Most lines are not looked at one by one, since that would take longer than to write them.

    Args:
        piece: whole lines.
        every: a power of ten.
    """
    if every == 1:
        yield from piece.split(b"\n")[:-1]
        return
    end = 0
    for found in _line_of(every).finditer(piece):
        if found.start() >= end:
            end = piece.index(b"\n", found.end())
            yield piece[piece.rfind(b"\n", 0, found.start()) + 1 : end]


@cache
def _line_of(every: int) -> re.Pattern[bytes]:
    """What a line has in it that is to be kept, as leash.ps.runs.events writes them."""
    zeros = b"0" * (len(str(every)) - 1)
    is_step = rb'(?:push|step)", "worker": \d+, "step": \d*' + zeros + b"[,}]"
    return re.compile(rb', "event": "(?:' + is_step + rb'|(?!push"|step"))')


def _recent(run: Run) -> Run:
    """The last minutes of a run: nobody is there before them."""
    start_s = max(0.0, run.seconds - WINDOW_S)
    if start_s == 0.0:
        return run
    return replace(run, tracks=tuple(_since(track, start_s) for track in run.tracks))


def _since(track: Track, start_s: float) -> Track:
    kept = [
        ((max(a, start_s), b), reason)
        for (a, b), reason in zip(track.present, track.reasons, strict=True)
        if b > start_s
    ]
    return replace(
        track, present=tuple(interval for interval, _ in kept), reasons=tuple(r for _, r in kept)
    )
