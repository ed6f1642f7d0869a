"""Knows who takes part in a run: from hello, by signs of life, to eviction or bye.

A rank has one live process at a time: the one that said hello last. Its incarnation is in all of
its messages, so the server recognises a message of its predecessor, and refuses it.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import EvictedError, FencedError, TooManyError, UnknownWorkerError
from leash.ps.words import DONE, EVICTED, LIVE, PHASES, REPLACED, TIMED_OUT

MAX_OBSERVERS: Final = 64
# So many numbers of earlier hellos of a rank are remembered, to tell a late copy of one of them.
HELLOS_REMEMBERED: Final = 64
LONG_S: Final = 1e9  # nobody is in one phase for so long


def microseconds_since_1970() -> int:
    """The time of this host's clock."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Member:
    """A process that said hello."""

    worker: int  # its rank; 0 for an observer
    incarnation: int
    name: str
    heard_s: float  # when its last message came, on the server's clock
    state: str = LIVE  # once it has left, how it left: see leash.ps.words
    number: int = 0  # of its hello; 0 if it gave none
    first_step: int = 0  # of its first push
    was_early: bool = False  # it came before its first step was known, which a beat tells then
    in_step: bool = False  # it goes on in the step in which it was when another server died
    reported: int = 0  # the number of its newest report
    key: str = ""  # the public key by which it came; empty without keys
    left_s: float = 0.0  # when it left
    place: str = ""  # its host, and which process of that: "gpu-3/0"; empty if it told none
    seat: str = ""  # a text that no two processes have while both of them live; likewise
    told: str = ""  # why it was told to leave; empty while it was not
    phase: str = ""  # what its training thread does, as it told last; empty if it tells nothing
    phase_since_s: float = 0.0
    stack: str = ""  # of that thread, where it was last asked for
    stack_s: float = -math.inf  # when that came

    @property
    def is_observer(self) -> bool:
        """Whether it only watches the run."""
        return self.worker == 0

    def __str__(self) -> str:
        who = "observer" if self.is_observer else f"worker {self.worker}"
        return f"{who} ({self.name})" if self.name else who


class Members:
    """The processes of a run, by rank and incarnation."""

    def __init__(
        self,
        ranks: Iterable[int],
        evict_s: float,
        now: Callable[[], float] = time.monotonic,
        wall_time_us: Callable[[], int] = microseconds_since_1970,
        least: int | None = None,
    ) -> None:
        """Begins with nobody.

        Args:
            ranks: the workers that may take part.
            evict_s: seconds of silence after which a member counts as gone.
            now: seconds on a clock that never goes back.
            wall_time_us: microseconds since 1970; incarnations begin there, so that no message to
                an earlier server ever fits this one.
            least: with how many of them the run begins; by default all.
        """
        self.ranks: Final = tuple(sorted(ranks))
        self._least: Final = len(self.ranks) if least is None else least
        self.evict_s: Final = evict_s
        self.workers: dict[int, Member] = {}  # the newest of each rank
        self.observers: dict[int, Member] = {}  # the live ones, by incarnation
        self._over: Final[set[int]] = set()  # ranks that have done their work already
        self._now: Final = now
        self._incarnations: Final = itertools.count(wall_time_us())
        self._earlier: Final[dict[int, deque[int]]] = {}  # the numbers of a rank's earlier hellos

    def require_room(self, worker: int) -> None:
        """Checks that there is a place for a newcomer of this rank, 0 being an observer.

        Raises:
            UnknownWorkerError: the rank is not in this run.
            TooManyError: there are too many observers already.
        """
        if worker == 0:
            if len(self.observers) >= MAX_OBSERVERS:
                raise TooManyError(f"expected at most {MAX_OBSERVERS} observers")
        elif worker not in self.ranks:
            ranks = ", ".join(map(str, self.ranks[:20]))
            raise UnknownWorkerError(
                f"rank {worker} is not among the workers of this run: {ranks}; ranks start from 1: "
                f"give one of these, or start the server with more --workers"
            )

    def hello(
        self, worker: int, name: str, number: int = 0, key: str = "", place: str = "",
        seat: str = "",
    ) -> tuple[Member, Member | None]:  # fmt: skip
        """Admits a newcomer; gives it, and the live process whose place it takes, if there is one.

        Raises what `require_room` raises.
        """
        self.require_room(worker)
        earlier_self = self.workers.get(worker)
        member, before = self.admit(worker, next(self._incarnations), name, key)
        has_sat_here = earlier_self is not None and bool(seat) and earlier_self.seat == seat
        if earlier_self and has_sat_here and earlier_self.state in (LIVE, REPLACED, EVICTED):
            member.told = earlier_self.told  # it has not said bye
        member.number, member.place, member.seat = number, place, seat
        if number:
            earlier = self._earlier.setdefault(worker, deque(maxlen=HELLOS_REMEMBERED))
            earlier.append(number)
        return member, before

    def greeted(self, worker: int, number: int, key: str = "") -> Member | None:
        """The process whose hello had this number and came by this key.

        None if there is none, or the number is 0.

        Raises:
            EvictedError: it has left since, so that this is an old copy of its hello.
            FencedError: it is an old copy, and another process has its rank.
        """
        if not number:
            return None
        newest = [self.workers[worker]] if worker in self.workers else []
        for member in newest if worker else self.observers.values():
            if (member.number, member.key) == (number, key):
                return self.require_current(worker, member.incarnation)
        if number not in self._earlier.get(worker, ()):
            return None
        if not worker:
            raise EvictedError("observer: this is a copy of an old hello; say hello again to go on")
        raise FencedError(
            f"worker {worker}: this is a copy of an old hello; another process has taken this rank "
            "since"
        )

    def admit(
        self, worker: int, incarnation: int, name: str, key: str = ""
    ) -> tuple[Member, Member | None]:
        """Admits a newcomer with an incarnation that the coordinator has given."""
        member = Member(worker, incarnation, name, self._now(), key=key)
        if member.is_observer:
            self.observers[member.incarnation] = member
            return member, None
        before = self.workers.get(worker)
        self.workers[worker] = member
        return member, before if before and before.state == LIVE else None

    def expect_no_more(self, rank: int) -> None:
        """Does not count this rank as missing: it has done its work before this server began."""
        self._over.add(rank)

    def remember(self, rank: int, state: str) -> None:
        """Knows how a rank has left a server before this one, unless it is here again."""
        if rank in self.ranks and rank not in self.workers:
            member = self.workers[rank] = Member(rank, 0, "", self._now())
            self.leave(member, state)

    def forget(self, member: Member) -> None:
        """Takes back a newcomer whose hello could not be honoured after all."""
        if member.is_observer:
            del self.observers[member.incarnation]
        else:
            del self.workers[member.worker]
        if member.number:
            self._earlier[member.worker].remove(member.number)

    def find(self, worker: int, incarnation: int) -> Member | None:
        """The live member of this incarnation, if there is one."""
        member = self.workers.get(worker) if worker else self.observers.get(incarnation)
        return member if member and member.incarnation == incarnation else None

    def require_current(self, worker: int, incarnation: int) -> Member:
        """Finds the live member that sent a message, and notes its sign of life.

        Raises:
            UnknownWorkerError: it has never said hello to this server.
            EvictedError: it was silent for too long, or has said bye.
            FencedError: a newer process has its rank.
        """
        member = self._require_newest(worker, incarnation)
        if member.state != LIVE:
            raise EvictedError(f"worker {worker}: {member.state}; say hello again to go on")
        member.heard_s = self._now()
        return member

    def require_counted(self, worker: int, incarnation: int) -> Member:
        """Finds the member that tells what it has done: that counts from one that was evicted too.

        Raises what `require_current` raises for anybody else.
        """
        member = self._require_newest(worker, incarnation)
        if member.state == EVICTED:
            return member
        return self.require_current(worker, incarnation)

    def _require_newest(self, worker: int, incarnation: int) -> Member:
        member = self.workers.get(worker) if worker else self.observers.get(incarnation)
        if member is None or incarnation > member.incarnation:
            raise UnknownWorkerError(f"worker {worker}, incarnation {incarnation}: say hello first")
        if incarnation < member.incarnation:
            raise FencedError(
                f"worker {worker}: another process ({member.name}) has taken this rank: expected "
                f"incarnation {member.incarnation}, got {incarnation}"
            )
        return member

    def has_said_bye(self, worker: int, incarnation: int, reason: str) -> bool:
        """Whether this process is the rank's newest, and has left by itself for this reason.

        It is False for an observer, whose incarnation nobody keeps once it has left.
        """
        member = self.find(worker, incarnation)
        return member is not None and member.state == reason

    def leave(self, member: Member, state: str) -> None:
        """Notes that this member has left, and how."""
        member.state, member.left_s = state, self._now()
        self.observers.pop(member.incarnation, None)

    def silent(self) -> list[Member]:
        """The live members that have sent nothing for `evict_s` seconds."""
        deadline = self._now() - self.evict_s
        everybody = (*self.workers.values(), *self.observers.values())
        return [m for m in everybody if m.state == LIVE and m.heard_s < deadline]

    def excuse(self, seconds: float) -> None:
        """Forgives all members seconds of silence in which the server itself did not listen."""
        for member in (*self.workers.values(), *self.observers.values()):
            member.heard_s = min(member.heard_s + seconds, max(member.heard_s, self._now()))

    def note_phase(self, member: Member, phase: str, phase_s: float, stack: str) -> None:
        """Notes what a member tells of its training thread, and its stack unless that is empty."""
        now_s = self._now()
        member.phase = phase if phase in PHASES else ""
        member.phase_since_s = now_s - (phase_s if 0 <= phase_s < LONG_S else 0.0)
        if stack:
            member.stack, member.stack_s = stack, now_s

    def note_heard(self, workers: Iterable[int]) -> None:
        """Notes that these workers gave a sign of life to another shard."""
        for worker in workers:
            member = self.workers.get(worker)
            if member is not None and member.state == LIVE:
                member.heard_s = self._now()

    def note_heard_at(self, worker: int, heard_s: float) -> None:
        """Notes that this worker gave a sign of life then."""
        member = self.workers.get(worker)
        if member is not None:
            member.heard_s = max(member.heard_s, heard_s)

    def heard_since(self, then_s: float) -> list[int]:
        """The live workers that have sent something since `then_s`."""
        return [m.worker for m in self.live if m.heard_s > then_s]

    def silence_s(self, member: Member) -> float:
        """Seconds since the last message of this member."""
        return self._now() - member.heard_s

    @property
    def live(self) -> list[Member]:
        """The live workers, by rank."""
        return [m for _, m in sorted(self.workers.items()) if m.state == LIVE]

    @property
    def any_live(self) -> bool:
        """Whether any worker is live."""
        return any(member.state == LIVE for member in self.workers.values())

    @property
    def missing(self) -> list[int]:
        """The lowest ranks without a live process, as many as the run lacks to begin."""
        there = {m.worker for m in self.live} | self._over
        lacking = max(0, self._least - len(there))
        return [rank for rank in self.ranks if rank not in there][:lacking]

    @property
    def come_and_go(self) -> bool:
        """Whether more workers may take part than the run begins with."""
        return self._least < len(self.ranks)

    def rank_of_hello(self, number: int) -> int | None:
        """The rank that a hello of this number got; None if there was no such hello."""
        for rank, numbers in self._earlier.items():
            if rank and number and number in numbers:
                return rank
        return None

    def at(self, place: str) -> list[Member]:
        """The live workers of a host, or of one place on it, by rank."""
        return [m for m in self.live if place and place in (m.place, m.place.rpartition("/")[0])]

    @property
    def any_done(self) -> bool:
        """Whether any worker has left because its work, or the time for it, was over."""
        return bool(self._over) or any(m.state in (DONE, TIMED_OUT) for m in self.workers.values())
