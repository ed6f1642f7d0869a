"""What a server remembers of its run beyond its own death: journal.jsonl, to which it only appends.

::

    {"what": "generation", "number": 2}                      a server has begun
    {"what": "joined", "worker": 3, "incarnation": 1788..., "place": "gpu-3/0"}
                                                             a worker of this place was welcomed
    {"what": "left", "worker": 3, "incarnation": 1788..., "state": "evicted"}
    {"what": "rule", "set": ["ssp", 2, 0, 0, "clocks"]}      `leash set` has changed the policy

A line is in the file before the answer that tells of it leaves, so that a server which is killed
has forgotten nothing that anybody was told. It is forced to the disk within about a second: a power
cut costs what came in that time. A last line that was cut off is left out. So that the next server
does not write on behind it, each begins with a line of its own, after an empty one as a rule.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from leash.ps.errors import UsageError, shown
from leash.ps.policy import Rule, message_fields, rule_from_message
from leash.ps.runs.disk import Disk, ForcedFile
from leash.ps.words import DONE, LIVE

FORCE_S: Final = 1.0  # what was written is forced to the disk so often
NAME: Final = "journal.jsonl"
BEGINS: Final = b'{"what": "generation"'  # the first line of each server

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class Remembered:
    """What a journal tells of the servers before this one.

    Attributes:
        generation: how many servers the run has had.
        states: rank ▸ how its newest process stood: live, or how it had left.
        places: rank ▸ where that was, such as gpu-3/0, if it had told.
        rule: of the newest `set`; None if there was none.
    """

    generation: int = 0
    states: dict[int, str] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    rule: Rule | None = None

    @property
    def done(self) -> list[int]:
        """The ranks that have left because their work was done."""
        return sorted(rank for rank, state in self.states.items() if state == DONE)

    def take(self, line: dict[str, Any]) -> None:
        """Takes the next line of the journal.

        Raises:
            ValueError, KeyError, TypeError, UsageError: it is no line of a journal.
        """
        match line["what"]:
            case "generation":
                self.generation = int(line["number"])
            case "joined":
                self.states[int(line["worker"])] = LIVE
                self.places[int(line["worker"])] = str(line.get("place", ""))
            case "left":
                self.states[int(line["worker"])] = str(line["state"])
            case "rule":
                self.rule = rule_from_message(*line["set"])
            case what:
                raise ValueError(f"no such line: {shown(what)}")


def read_journal(path: Path, disk: Disk) -> Remembered:
    """Reads what a run's servers have remembered; nothing where there is no journal.

    Args:
        path: of the file.
        disk: where it is.

    Raises:
        UsageError: the file is no journal, or was damaged in its midst.
    """
    remembered = Remembered()
    if not disk.exists(path):
        return remembered
    file = disk.open(path)
    try:
        content = file.read(0, file.nbytes)
    finally:
        file.close()
    *lines, cut_off = content.split(b"\n")  # nothing follows the last line that is whole
    followers = [*lines[1:], cut_off]
    for number, (line, follower) in enumerate(zip(lines, followers, strict=False), start=1):
        was_last = follower.startswith(BEGINS)  # of a server, which may have been killed in it
        if line:
            _take(remembered, line, f"{path}, line {number}", was_last=was_last)
    if cut_off:
        _LOG.warning("%s: its last line was cut off, and is left out", path)
    return remembered


def _take(remembered: Remembered, line: bytes, where: str, *, was_last: bool) -> None:
    try:
        remembered.take(json.loads(line))
    except (ValueError, KeyError, TypeError, UsageError) as error:
        if was_last:
            _LOG.warning("%s: was cut off, and is left out", where)
            return
        raise UsageError(
            f"{where}: not a journal's: {shown(str(error))}; move the file away to go on from the "
            "newest checkpoint alone, or give --fresh"
        ) from error


class Journal:
    """Notes what a later server of this run has to know. Without a file it notes nothing."""

    def __init__(self, file: ForcedFile | None) -> None:
        """Begins with what is in the file.

        Args:
            file: to whose end to write.
        """
        self._file: Final = file
        self._is_forced = True  # whether all of it is on its way to the disk
        self._waiting = b""  # what the disk has not taken
        self.on_trouble: Callable[[OSError | None], None] = lambda _: None  # hears of failures

    def begin(self, generation: int) -> None:
        """Notes that a server begins, the run's first or a later one.

        It begins a line, since the server before may not have ended its last one.
        """
        if self._file is not None:
            self._waiting = b"\n"
        self._note("generation", number=generation)

    def joined(self, worker: int, incarnation: int, place: str = "") -> None:
        """Notes that a worker was welcomed, and where it is."""
        self._note("joined", worker=worker, incarnation=incarnation, place=place)

    def left(self, worker: int, incarnation: int, state: str) -> None:
        """Notes that a worker has left, and how."""
        self._note("left", worker=worker, incarnation=incarnation, state=state)

    def rule(self, rule: Rule) -> None:
        """Notes that the run goes by another rule from now on."""
        self._note("rule", set=message_fields(rule))

    def force(self) -> None:
        """Has what was written forced to the disk, if any was since the last call. Never waits."""
        self._write()
        if self._file is not None and not self._is_forced:
            self._is_forced = True
            self._file.force_soon()

    def close(self) -> None:
        """Lets the file go."""
        if self._file is not None:
            self._file.close()

    def _note(self, what: str, **fields: Any) -> None:
        if self._file is None:
            return
        self._waiting += json.dumps({"what": what, **fields}, allow_nan=False).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """Writes what waits, if the disk takes it."""
        if self._file is None or not self._waiting:
            return
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) or 0 :]
            self._file.flush()
        except OSError as error:
            self.on_trouble(error)
            return
        self._is_forced = False
        self.on_trouble(None)
