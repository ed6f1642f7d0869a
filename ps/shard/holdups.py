"""Knows for whom the others wait, since when, and what the thread of that worker that trains does.

Others wait for a worker while requests have no answer and it is behind: nobody's clock is smaller,
and somebody's is larger. A worker tells with its beats what it does.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from leash.ps.shard.members import Member, Members, microseconds_since_1970
from leash.ps.words import LIVE

TELL_S: Final = 5.0  # a wait that is shorter is part of a normal step
STACK_S: Final = 10.0  # whoever is awaited for so long is asked for its stack
ASK_S: Final = 10.0  # who asks for all stacks gets those that come within so long


@dataclass(frozen=True, slots=True)
class HoldUp:
    """One worker for whom others wait.

    Attributes:
        member: the worker.
        since_s: when they began to.
        clock: how many steps it had taken then, which it has still.
    """

    member: Member
    since_s: float
    clock: int


class HoldUps:
    """For whom the others wait now. For one thread.

    Attributes:
        all: rank ▸ how it holds the others up; empty while nobody does.
    """

    def __init__(
        self, members: Members, now: Callable[[], float] = time.monotonic,
        wall_time_us: Callable[[], int] = microseconds_since_1970,
    ) -> None:  # fmt: skip
        """Begins with nobody waiting.

        Args:
            members: who takes part, and what they tell.
            now: seconds on a clock that never goes back.
            wall_time_us: microseconds since 1970.
        """
        self.all: dict[int, HoldUp] = {}
        self._members: Final = members
        self._now: Final = now
        self._wall_time_us: Final = wall_time_us
        self._asked_s: float | None = None  # when somebody asked for all stacks

    def look(self, clocks: Mapping[int, int], *, is_waiting: bool) -> None:
        """Notes how the run stands. Call it a few times a second.

        Args:
            clocks: rank ▸ how many steps each worker has taken that others may wait for.
            is_waiting: whether there are requests without an answer.
        """
        least, most = min(clocks.values(), default=0), max(clocks.values(), default=0)
        behind = [w for w, clock in clocks.items() if clock == least] if least < most else []
        before, self.all = self.all, {}
        for worker in behind if is_waiting else ():
            member = self._members.workers[worker]
            known = before.get(worker)
            if known is None or (known.member, known.clock) != (member, least):
                known = HoldUp(member, self._now(), least)
            self.all[worker] = known

    def told(self, after_s: float = TELL_S) -> list[HoldUp]:
        """Those for whom others have waited for so long, by rank."""
        since_s = self._now() - after_s
        return [held for _, held in sorted(self.all.items()) if held.since_s <= since_s]

    def words(self) -> str:
        """For whom others wait, for people; empty if it is nobody, or for a moment."""
        return ", ".join(map(self.words_of, self.told()))

    def words_of(self, held: HoldUp) -> str:
        """Such as "worker 3 for 41 s (in backward since 14:02)"."""
        member = held.member
        waited = f"worker {member.worker} for {self._now() - held.since_s:.0f} s"
        if not member.phase:
            return waited
        since = datetime.fromtimestamp(self._wall_time_us() / 1e6 - self.phase_s(member))
        return f"{waited} (in {member.phase} since {since:%H:%M})"

    def phase_s(self, member: Member) -> float:
        """For how many seconds a member has been in its phase, as far as it has told."""
        return self._now() - member.phase_since_s

    def stalled(self, stall_s: float) -> list[int]:
        """The workers that others wait for and that have been in one phase for so long."""
        return [
            held.member.worker for held in self.all.values()
            if held.member.phase and self.phase_s(held.member) >= stall_s
        ]  # fmt: skip

    # Stacks.

    def ask_all(self) -> None:
        """Has every worker asked for its stack: somebody wants to see them."""
        if self._asked_s is None or self._now() - self._asked_s > 1:
            self._asked_s = self._now()

    def wants_stack(self, member: Member) -> bool:
        """Whether a member that beats now is to tell where its training thread is."""
        if member.is_observer or not member.phase:
            return False
        now_s, asked_s = self._now(), self._asked_s
        if asked_s is not None and now_s - asked_s < ASK_S and member.stack_s < asked_s:
            return True
        held = self.all.get(member.worker)
        is_stuck = held is not None and held.since_s <= now_s - STACK_S
        return is_stuck and member.stack_s < max(member.phase_since_s, held.since_s)  # type: ignore[union-attr]

    # For programs.

    def as_dicts(self) -> list[dict[str, Any]]:
        """For the key `awaited` of `state`."""
        return [
            {"worker": held.member.worker, "seconds": round(self._now() - held.since_s, 1),
             "text": self.words_of(held)}
            for held in self.told()
        ]  # fmt: skip

    def row_of(self, member: Member) -> dict[str, Any]:
        """The keys of a worker's row in `state` that say what it does."""
        tells, has_stack = member.state == LIVE and bool(member.phase), bool(member.stack)
        return {
            "phase": member.phase if tells else "",
            "phase_s": round(self.phase_s(member), 1) if tells else None,
            "stack": member.stack,
            "stack_s": round(self._now() - member.stack_s, 1) if has_stack else None,
        }
