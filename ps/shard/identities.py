"""Knows who somebody is by the key that he came with, and so what he may do.

A key is an identity: a worker's key gets its rank at the first hello and keeps it, and each message
of a worker or an observer must come by the key that its process said hello with. Without keys
everybody may do everything, as anybody.
"""

from collections.abc import Mapping
from typing import Final

from leash.ps.errors import NotAllowedError
from leash.ps.shard.members import Member, Members
from leash.ps.wire.keys import ROLES, KeyHolder, Keyring, Role
from leash.ps.wire.messages import (
    Attach,
    Beat,
    Bye,
    Dismiss,
    Echo,
    GroupOptions,
    Hello,
    Init,
    Lease,
    Log,
    Message,
    Offer,
    Publish,
    Pull,
    Push,
    PushPull,
    Read,
    Remember,
    Report,
    Save,
    Set,
    Status,
    Stop,
)
from leash.ps.words import FAILED

NOBODY: Final = ""  # the sender of a message, where there are no keys

_WORKER: Final[tuple[Role, ...]] = ("worker",)
_ADMIN: Final[tuple[Role, ...]] = ("admin",)

# Which keys may ask what. A verb that is not here is refused from every key.
MAY: Final[Mapping[type[Message], tuple[Role, ...]]] = {
    Status: ROLES, Hello: ROLES, Beat: ROLES, Report: ROLES, Bye: ROLES, Pull: ROLES, Echo: ROLES,
    Lease: _WORKER, Log: _WORKER, Remember: _WORKER, Init: _WORKER, PushPull: _WORKER,
    Push: _WORKER, Publish: _WORKER, Offer: _WORKER, Attach: _WORKER, GroupOptions: _WORKER,
    Set: _ADMIN, Save: _ADMIN, Read: _ADMIN, Stop: _ADMIN,
    Dismiss: (*_WORKER, *_ADMIN),
}  # fmt: skip


class Identities:
    """Decides by its sender's key whether a message is let through.

    Attributes:
        ranks: the rank that each worker's key has taken, by its public key. It may be written down
            and given back: a run that goes on keeps it.
    """

    def __init__(self, keyring: Keyring | None, members: Members) -> None:
        """Begins with nobody's rank.

        Args:
            keyring: who is let in; None for everybody.
            members: who takes part, and came with which key.
        """
        self.ranks: dict[str, int] = {}
        self._keyring: Final = keyring
        self._members: Final = members

    def require(self, message: Message, user: str) -> None:
        """Checks that this sender may send this message, and that it is its own.

        Args:
            message: that has come.
            user: the public key of its sender; `NOBODY` without keys.

        Raises:
            NotAllowedError: not with this key.
        """
        if self._keyring is None:
            return
        holder = self._holder(user)
        roles = MAY.get(type(message), ())
        if holder.role not in roles:
            mend = "; that takes an admin's, such as admin.key" if roles == _ADMIN else ""
            raise NotAllowedError(f"{message.verb}: the {holder} may not{mend}")
        if isinstance(message, Hello):
            self._require_role(holder, message)
            if not message.any_rank:
                self._require_rank(holder, message)
        elif isinstance(message, Dismiss) and holder.role == "worker":
            self._require_itself(holder, message)
        elif not _is_word_of_launcher(holder, message):
            self._require_own(holder, message, user)

    def _require_own(self, holder: KeyHolder, message: Message, user: str) -> None:
        member = self._sender(message)
        if member is not None and member.key != user:
            raise NotAllowedError(f"{message.verb}: {member} came by another key than {holder}")

    def bind(self, worker: int, user: str) -> None:
        """Notes that this key's rank is this one. REQUIRES: `require` has let its hello through."""
        if worker and user != NOBODY:
            self.ranks[user] = worker

    def rank_of(self, user: str) -> int | None:
        """The rank that this worker's key has; None if it has none yet, or there are no keys."""
        if self._keyring is None:
            return None
        holder = self._holder(user)
        return holder.rank or self.ranks.get(user)

    def may_have(self, rank: int, user: str) -> bool:
        """Whether this rank is no other key's."""
        if self._keyring is None:
            return True
        other = self._owner(rank)
        return other is None or other.public == user

    def revoked(self) -> list[Member]:
        """Those who take part by a key that is let in no more."""
        if self._keyring is None:
            return []
        present = (*self._members.live, *self._members.observers.values())
        return [member for member in present if member.key not in self._keyring.holders]

    def _holder(self, user: str) -> KeyHolder:
        assert self._keyring is not None
        try:
            return self._keyring.holders[user]
        except KeyError:
            raise NotAllowedError("this key is let in no more: it was revoked") from None

    def _sender(self, message: Message) -> Member | None:
        """The member in whose name a message speaks, if there is such a one."""
        incarnation = getattr(message, "incarnation", None)
        if incarnation is None:
            return None
        return self._members.find(getattr(message, "worker", 0), incarnation)

    def _require_role(self, holder: KeyHolder, hello: Hello) -> None:
        """Checks that a hello is for what its key is: a worker, or who only reads."""
        if (hello.role == "worker") != (holder.role == "worker"):
            raise NotAllowedError(f"hello: the {holder} is for no {hello.role}")

    def _require_itself(self, holder: KeyHolder, dismiss: Dismiss) -> None:
        """Checks that a worker tells nobody else to leave."""
        member = self._members.workers.get(dismiss.worker)
        if member is None or member.key != holder.public:
            raise NotAllowedError(f"dismiss: the {holder} may name its own rank alone: --rank N")

    def _require_rank(self, holder: KeyHolder, hello: Hello) -> None:
        """Checks that a hello is for the rank that its key has."""
        if holder.role != "worker":
            return
        own = holder.rank or self.ranks.get(holder.public, hello.worker)
        if hello.worker != own:
            raise NotAllowedError(f"hello: the {holder} has rank {own}, not {hello.worker}")
        if (other := self._owner(hello.worker)) is not None and other != holder:
            raise NotAllowedError(
                f"hello: rank {hello.worker} is that of the {other}; take another rank, or revoke "
                "that key"
            )

    def _owner(self, rank: int) -> KeyHolder | None:
        """The key that has this rank, by its file or by its first hello, unless it was revoked."""
        assert self._keyring is not None
        holders = self._keyring.holders
        by_file = (holder for holder in holders.values() if holder.rank == rank)
        by_hello = (
            holders[key] for key, taken in self.ranks.items() if taken == rank and key in holders
        )
        return next(by_file, None) or next(by_hello, None)


def _is_word_of_launcher(holder: KeyHolder, message: Message) -> bool:
    """Whether an admin says of somebody that it has failed, as of a worker that has died."""
    return holder.role == "admin" and isinstance(message, Bye) and message.reason == FAILED
