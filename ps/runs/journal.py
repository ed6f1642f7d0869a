"""What a server remembers of its run beyond its own death: journal.jsonl, to which it only appends.

::

    {"what": "generation", "number": 2}                      a server has begun
    {"what": "joined", "worker": 3, "incarnation": 1788..., "key": "", "place": "gpu-3/0"}
                                                             a worker was welcomed
    {"what": "left", "worker": 3, "incarnation": 1788..., "state": "evicted"}
    {"what": "started"}                                      training has begun
    {"what": "plan", "worker": 3, "share": 6000, "epochs": 4}  a worker has told what it is to do
    {"what": "epoch", "worker": 3, "epoch": 2}               and that it has completed an epoch
    {"what": "shares", "at": [[3, 1, 0, 6000]]}              shares go on there
    {"what": "healed", "chunks": 7, "lost": 1}               this server's workers go on
    {"what": "lease", "request": {...}, "answered": 640, "lockstep": false}
    {"what": "release", "worker": 3, "answered": 704, "applied": 32}
    {"what": "position", "at": [60000, 1, [[2, [[0, 60000]]]]]}   the leases go on there
    {"what": "rule", "set": ["ssp", 2, 0, 0, "clocks"]}      `leash set` has changed the policy
    {"what": "trained", "seconds": 60.2, "steps": 812, "samples": 51968}   so far, now and then

Leases follow from the requests for them and from leaves, so those are kept, and made again.

A line is in the file before the answer that tells of it leaves, so that a server which is killed
has forgotten nothing that anybody was told. It is forced to the disk within about a second: a power
cut costs what came in that time. A last line that was cut off is left out. So that the next server
does not write on behind it, each begins with a line of its own, after an empty one as a rule.
"""

import errno
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

from leash.ps.errors import UsageError, shown
from leash.ps.policy import Rule, message_fields, rule_from_message
from leash.ps.runs.disk import Disk, ForcedFile
from leash.ps.runs.position import LeasePosition, SharePosition, Trained
from leash.ps.wire.messages import Lease
from leash.ps.words import DONE, EVICTED, LIVE

FORCE_S: Final = 1.0  # what was written is forced to the disk so often
COUNT_S: Final = 5.0  # how much was trained is noted so often, so that a kill leaves that uncounted
NAME: Final = "journal.jsonl"
BEGINS: Final = b'{"what": "generation"'  # the first line of each server

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Granted:
    """A worker asked for a lease, and got it.

    Attributes:
        request: what it sent.
        answered: how many of its samples were answered by then.
        lockstep: whether all pushed equally often.
    """

    request: Lease
    answered: int
    lockstep: bool


@dataclass(frozen=True, slots=True)
class Released:
    """A worker had gone, and others got what it had not done.

    Attributes:
        worker: its rank.
        answered: how many of its samples were answered by then.
        applied: the samples of its step that was applied and had no answer.
    """

    worker: int
    answered: int
    applied: int


LeaseChange: TypeAlias = Granted | Released | LeasePosition  # the last: all before counts no more


@dataclass(slots=True)
class Remembered:
    """What a journal tells of the servers before this one.

    Attributes:
        generation: how many servers the run has had.
        states: rank ▸ how its newest process stood: live, or how it had left.
        places: rank ▸ where that was, such as gpu-3/0, if it had told.
        rule: of the newest `set`; None if there was none.
        was_set: whether there was one that workers may not know of, who said hello before it.
        started: whether training had begun.
        keys: public key ▸ the rank that it has taken.
        shares: rank ▸ how many epochs of its share it has completed, and how many samples one has.
        planned: rank ▸ how many epochs of its share it is to train.
        leases: what has made the leases what they are.
        healed_chunks: how many chunks got newer values from workers.
        lost_updates: how many steps were lost with a server.
        trained: how much was, as far as it was noted.
    """

    generation: int = 0
    states: dict[int, str] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    rule: Rule | None = None
    was_set: bool = False
    started: bool = False
    keys: dict[str, int] = field(default_factory=dict)
    shares: dict[int, SharePosition] = field(default_factory=dict)
    planned: dict[int, int] = field(default_factory=dict)
    leases: list[LeaseChange] = field(default_factory=list)
    healed_chunks: int = 0
    lost_updates: int = 0
    trained: Trained = field(default_factory=Trained)

    @property
    def live(self) -> list[int]:
        """The ranks that took part when the newest server died."""
        return sorted(rank for rank, state in self.states.items() if state == LIVE)

    @property
    def awaited(self) -> list[int]:
        """The ranks that took part when the newest server died, or else those that had to."""
        evicted = [rank for rank, state in self.states.items() if state == EVICTED]
        return self.live or sorted(evicted)

    @property
    def done(self) -> list[int]:
        """The ranks that have left because their work was done."""
        return sorted(rank for rank, state in self.states.items() if state == DONE)

    def _take_joined(self, rank: int, line: dict[str, Any]) -> None:
        self.states[rank] = LIVE
        if key := str(line.get("key", "")):
            self.keys[key] = rank
        self.places.pop(rank, None)
        if place := str(line.get("place", "")):
            self.places[rank] = place

    def _take_leases(self, line: dict[str, Any]) -> None:
        match line["what"]:
            case "lease":
                request = Lease(**line["request"])
                self.leases.append(Granted(request, int(line["answered"]), bool(line["lockstep"])))
            case "release":
                numbers = (int(line[name]) for name in ("worker", "answered", "applied"))
                self.leases.append(Released(*numbers))
            case "position":
                samples, completed, free = line["at"]
                ranges = {int(e): [(int(a), int(b)) for a, b in pairs] for e, pairs in free}
                self.leases = [LeasePosition(int(samples), int(completed), ranges)]

    def take(self, line: dict[str, Any]) -> None:
        """Takes the next line of the journal.

        Raises:
            ValueError, KeyError, TypeError, UsageError: it is no line of a journal.
        """
        match line["what"]:
            case "generation":
                self.generation = int(line["number"])
            case "joined":
                self._take_joined(int(line["worker"]), line)
            case "left":
                self.states[int(line["worker"])] = str(line["state"])
            case "rule":
                self.rule, self.was_set = rule_from_message(*line["set"]), True
            case "started":
                self.started = True
            case "plan" | "epoch":
                rank = int(line["worker"])
                before = self.shares.get(rank, SharePosition())
                epochs = max(before.epochs, int(line.get("epoch", 0)))
                self.shares[rank] = SharePosition(epochs, 0, int(line.get("share", before.share)))
                if "epochs" in line:
                    self.planned[rank] = int(line["epochs"])
            case "shares":
                self.shares = {
                    int(rank): SharePosition(*map(int, share)) for rank, *share in line["at"]
                }
            case "healed":
                self.healed_chunks += int(line["chunks"])
                self.lost_updates += int(line["lost"])
                self.was_set = False
            case "lease" | "release" | "position":
                self._take_leases(line)
            case "trained":
                counted = int(line["steps"]), int(line["samples"])
                self.trained = Trained(float(line["seconds"]), *counted)
            case what:
                raise ValueError(f"no such line: {shown(what)}")


@dataclass(frozen=True, slots=True)
class Memory:
    """What a run remembers beyond the death of its server.

    Attributes:
        remembered: by the servers before this one.
        journal: where this one notes what the next one has to know.
    """

    remembered: Remembered
    journal: "Journal"


def begin_journal(path: Path, disk: Disk, unwritten: bytes = b"") -> Memory:
    """Reads what earlier servers of a run have noted, and begins to note as the next one.

    No server may begin before that is in the file: another one would take itself for the same, and
    what their workers have could not be told apart.

    Args:
        path: of the journal.
        disk: where it is.
        unwritten: lines of the server before this one that the disk did not take.

    Raises:
        UsageError: the file is no journal, or was damaged in its midst.
        OSError: the disk does not take it; it may later.
    """
    remembered = read_journal(path, disk)
    for line in filter(None, unwritten.split(b"\n")):
        remembered.take(json.loads(line))
    journal = Journal(disk.append(path))
    try:
        journal.begin(remembered.generation + 1, unwritten)
    except BaseException:
        journal.close()
        raise
    return Memory(remembered, journal)


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
    *whole, cut_off = content.split(b"\n")  # nothing follows the last line that is whole
    lines = [(number, line) for number, line in enumerate(whole, start=1) if line]
    followers = [*(line for _, line in lines[1:]), cut_off]
    for (number, line), follower in zip(lines, followers, strict=False):
        # Of a server, which may have been killed in it, or had a full disk. The next one may have
        # come no further than to end the line.
        was_last = BEGINS.startswith(follower[: len(BEGINS)])
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
        self._cut_off = b""  # what it has taken of the first line of that
        self._steps = 0  # how many were noted
        self.on_trouble: Callable[[OSError | None], None] = lambda _: None  # hears of failures

    @property
    def unwritten(self) -> bytes:
        """The lines that the disk has not taken, or not to their ends."""
        return self._cut_off + self._waiting

    def begin(self, generation: int, unwritten: bytes = b"") -> None:
        """Notes that a server begins, the run's first or a later one.

        It begins a line, since the server before may not have ended its last one.

        Args:
            generation: its number.
            unwritten: lines of the server before. They come after that, since it is what may follow
                a line that was cut off.

        Raises:
            OSError: the disk does not take it.
        """
        if self._file is None:
            return
        failures: list[OSError] = []
        self._waiting = b"\n" + _line("generation", number=generation)
        self.on_trouble = lambda error: failures.extend(() if error is None else (error,))
        self._write()
        self.on_trouble = lambda _: None
        if self._waiting:
            raise failures[-1] if failures else OSError(errno.EIO, os.strerror(errno.EIO))
        self._waiting = unwritten
        self._write()

    def joined(self, worker: int, incarnation: int, key: str = "", place: str = "") -> None:
        """Notes that a worker was welcomed, by which key it came, and where it is."""
        self._note("joined", worker=worker, incarnation=incarnation, key=key, place=place)

    def started(self) -> None:
        """Notes that training has begun."""
        self._note("started")

    def plan(self, worker: int, share: int, epochs: int) -> None:
        """Notes how many samples an epoch of a worker's share has, and how many epochs it has."""
        self._note("plan", worker=worker, share=share, epochs=epochs)

    def epoch(self, worker: int, epoch: int) -> None:
        """Notes that a worker has completed an epoch of its share."""
        self._note("epoch", worker=worker, epoch=epoch)

    def healed(self, chunks: int, lost: int) -> None:
        """Notes how many chunks got newer values from workers, and how many steps were lost."""
        self._note("healed", chunks=chunks, lost=lost)

    def lease(self, asked: Granted) -> None:
        """Notes a request for a lease that is granted."""
        request = asdict(asked.request)
        if not math.isfinite(asked.request.samples_per_s):
            request["samples_per_s"] = 0.0  # which means the same to whoever reads it
        self._note("lease", request=request, answered=asked.answered, lockstep=asked.lockstep)

    def release(self, released: Released) -> None:
        """Notes that others get what a worker has not done."""
        self._note("release", **asdict(released))

    def leases_at(self, position: LeasePosition) -> None:
        """Notes that leases go on there, whatever was leased before."""
        free = sorted(position.free.items())
        self._note("position", at=[position.samples, position.completed, free])

    def shares_at(self, shares: Mapping[int, SharePosition]) -> None:
        """Notes that shares go on there, whatever was reported before."""
        at = [[rank, s.epochs, s.samples, s.share] for rank, s in sorted(shares.items())]
        self._note("shares", at=at)

    def left(self, worker: int, incarnation: int, state: str) -> None:
        """Notes that a worker has left, and how."""
        self._note("left", worker=worker, incarnation=incarnation, state=state)

    def rule(self, rule: Rule) -> None:
        """Notes that the run goes by another rule from now on."""
        self._note("rule", set=message_fields(rule))

    def trained(self, so_far: Trained) -> None:
        """Notes how much was trained by this server and all before it, if that is more by now."""
        if so_far.steps != self._steps:
            self._steps = so_far.steps
            self._note("trained", **asdict(so_far))

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
        self._waiting += _line(what, **fields)
        self._write()

    def _write(self) -> None:
        """Writes what waits, if the disk takes it."""
        if self._file is None or not self._waiting:
            return
        try:
            while self._waiting:
                count = self._file.write(self._waiting) or 0
                *_, self._cut_off = (self._cut_off + self._waiting[:count]).split(b"\n")
                self._waiting = self._waiting[count:]
            self._file.flush()
        except OSError as error:
            self.on_trouble(error)
            return
        self._is_forced = False
        self.on_trouble(None)


def _line(what: str, **fields: Any) -> bytes:
    return json.dumps({"what": what, **fields}, allow_nan=False).encode() + b"\n"
