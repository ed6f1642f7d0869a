"""Gives a rank to a worker that takes any, and to a machine that returns the one that it had.

A worker says which machine it is on, and which process of that (its **place**, such as
``gpu-3/0``), and by that a machine that comes back gets its own rank again. It also says a text
that no two live processes have (its **seat**), by which the server sees that a process which it has
not missed yet is dead, since another one sits there.
"""

from typing import Final

from leash.ps.errors import TooManyError
from leash.ps.shard.identities import Identities
from leash.ps.shard.members import Members
from leash.ps.wire.messages import Hello
from leash.ps.words import DONE


class RankGiver:
    """Decides which rank a worker gets.

    Attributes:
        places: rank ▸ the place of the process that had it last. It may be written down and given
            back: a run that goes on keeps it.
    """

    def __init__(self, members: Members, identities: Identities) -> None:
        """Begins with nobody's place.

        Args:
            members: who takes part.
            identities: whose key has which rank.
        """
        self.places: dict[int, str] = {}
        self._members: Final = members
        self._identities: Final = identities

    def rank_for(self, hello: Hello, user: str) -> int:
        """Chooses a rank. A hello that comes again gets the same one.

        Args:
            hello: of a worker that takes any rank; `worker` is the one that it would like best, or
                0.
            user: the public key of its sender, if it has one.

        Raises:
            TooManyError: there is none left.
        """
        if (again := self._members.rank_of_hello(hello.number)) is not None:
            return again
        if (own := self._identities.rank_of(user)) is not None:
            return own
        for member in self._members.live:
            if hello.seat and (member.seat, member.key) == (hello.seat, user):
                return member.worker  # a process that is dead, since this one sits there
        free = self._free(user)
        if not free:
            raise TooManyError(
                f"all ranks of this run ({len(self._members.ranks)}) are taken: one is free once a "
                "worker leaves, or with more --workers of the server"
            )
        return min(free, key=lambda rank: (*self._liking(rank, hello), rank))

    def note(self, rank: int, place: str) -> None:
        """Notes who has this rank now."""
        self.places[rank] = place

    def _free(self, user: str) -> list[int]:
        """The ranks that no live process has, nor another key."""
        taken = {member.worker for member in self._members.live}
        return [
            rank for rank in self._members.ranks
            if rank not in taken and self._identities.may_have(rank, user)
        ]  # fmt: skip

    def _liking(self, rank: int, hello: Hello) -> tuple[int, float]:
        """How well a rank suits a worker, the least best, and since when nobody has it."""
        place, member = self.places.get(rank), self._members.workers.get(rank)
        if rank == hello.worker and place in (None, hello.place):
            return 0, 0.0
        if place and place == hello.place:
            return 1, 0.0
        if place is None and member is None:
            return 2, 0.0
        left_s = 0.0 if member is None else member.left_s
        is_done = member is not None and member.state == DONE
        return (4 if is_done else 3), left_s
