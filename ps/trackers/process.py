"""The process beside a server that has trackers: it follows events.jsonl and feeds them.

Whatever a library of theirs does (wait for a network, fail, crash) happens here: the server only
hears of it, and loses no time. It gives way to who trains.

::

    server ─▸ process    the end of the connection: the run is over, or the server is
    process ─▸ server    {"tracker": "wandb", "why": "…"}   it fails; "" for its end
                         {"at": 123456}                     so much of the file is with them
                         {"say": "…"}                       for people
"""

import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any, Final

from leash.ps import interrupt
from leash.ps.processes import say_line
from leash.ps.runs.events import EventTail
from leash.ps.trackers.csv_file import CsvFile
from leash.ps.trackers.curves import Curves, Point
from leash.ps.trackers.feed import Tracker, TrackerFeed
from leash.ps.trackers.tensorboard_files import TensorboardFiles
from leash.ps.trackers.wandb_run import WandbRun

FOLLOW_S: Final = 0.5  # between two looks at the file
PUSH: Final = b', "event": "push", '  # in half of the lines, and in none that has a point
CLOSING_S: Final = 8.0  # trackers have so long for their last, once the run is over
NICE: Final = 10
OPENS: Final[dict[str, Callable[[Path], Tracker]]] = {
    "tensorboard": TensorboardFiles,
    "wandb": WandbRun,
    "csv": CsvFile,
}


class Feeding:
    """Follows one file of events, and feeds the trackers of its run."""

    def __init__(
        self, run: Path, names: Sequence[str], began_s: float, skip: int,
        tell: Callable[[dict[str, Any]], None],
        opens: dict[str, Callable[[Path], Tracker]] = OPENS,
    ) -> None:  # fmt: skip
        """Opens the file. Raises OSError.

        Args:
            run: the run directory.
            names: of the trackers.
            began_s: when the times of the events begin, in seconds since 1970.
            skip: the trackers have so many bytes of the file already.
            tell: tells the server something.
            opens: makes each tracker, for a run directory.
        """
        self._tail: Final = EventTail(run / "events.jsonl")
        self._curves: Final = Curves(began_s)
        self._skip: Final = skip
        self._tell: Final = tell
        self._feeds: Final = [self._feed(name, run, opens[name]) for name in names]
        self._told = -1  # how far the trackers were when that was told last

    def advance(self) -> None:
        """Feeds them what is new."""
        while lines := self._tail.lines():
            points = list[Point]()
            for end, line in lines:
                of_event = [] if PUSH in line else list(self._curves.points(json.loads(line)))
                points += of_event if end > self._skip else ()
            for feed in self._feeds:
                feed.put(points)
        for feed in self._feeds:
            feed.advance()
        if self._tail.offset != self._told and all(feed.is_empty for feed in self._feeds):
            self._told = self._tail.offset
            self._tell({"at": self._told})

    def close(self) -> None:
        """Feeds them the rest, and closes them."""
        self.advance()
        for feed in self._feeds:
            feed.close()
        self._tail.close()

    def _feed(self, name: str, run: Path, opens: Callable[[Path], Tracker]) -> TrackerFeed:
        def open_and_say() -> Tracker:
            tracker = opens(run)
            if place := getattr(tracker, "place", ""):
                self._tell({"say": f"{name}: {place}"})
            return tracker

        def tell(name: str, why: str) -> None:
            self._tell({"tracker": name, "why": why})

        return TrackerFeed(name, open_and_say, tell)


def feed_trackers(
    end: socket.socket, run: Path, names: Sequence[str], began_s: float, skip: int
) -> None:
    """Feeds the trackers of a run until the other end of the connection is closed."""

    def tell(what: dict[str, Any]) -> None:
        try:
            end.send(json.dumps(what).encode())
        except OSError:  # the server has gone, and hears no more
            if "at" not in what:
                say_line(f"leash trackers: {json.dumps(what)}")

    feeding = Feeding(run, names, began_s, skip, tell)
    while not select.select([end], [], [], FOLLOW_S)[0]:
        feeding.advance()
    _end_within(CLOSING_S)
    feeding.close()


def _end_within(seconds: float) -> None:
    """Ends this process and all that it has started, if it has not ended by then."""

    def kill() -> None:
        say_line(f"leash trackers: they were not done within {seconds:g} s, and were ended; what "
                 "was not sent to W&B is in the run's folder wandb: see wandb sync")  # fmt: skip
        os.killpg(0, SIGKILL)

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    interrupt.ignore_signals()
    os.nice(NICE)
    _fd, _place, _names, _began, _skip = sys.argv[1:]
    with socket.socket(fileno=int(_fd)) as _end:
        feed_trackers(_end, Path(_place), _names.split(","), float(_began), int(_skip))
