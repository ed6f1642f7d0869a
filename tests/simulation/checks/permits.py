"""Says whose key may do what, as plainly as the wire format does, and shares no code with servers.

A message that is not allowed has to be answered with `not_allowed` and to change nothing; one that
is allowed must not be answered so.
"""

from typing import TYPE_CHECKING, Any, Final

from simulation.checks.oracle import Wrong

if TYPE_CHECKING:
    from simulation.machines.keys import Keys

EVERYBODY: Final = ("status", "hello", "beat", "report", "bye", "pull", "echo")
OF_WORKERS: Final = (
    "lease",
    "log",
    "remember",
    "offer",
    "init",
    "push",
    "push_pull",
    "publish",
    "options",
    "attach",
)
OF_ADMINS: Final = ("set", "save", "read", "stop", "dismiss")
REFUSED: Final = "not_allowed"


class Permits:
    """What is known of the keys of one server, from what it was asked and has answered."""

    def __init__(self, keys: "Keys") -> None:
        """Begins with a server that has heard nobody."""
        self._keys: Final = keys
        self._ranks: Final[dict[str, int]] = {}  # key ▸ the rank that its first hello took
        self._newest: Final[dict[int, tuple[int, str]]] = {}  # rank ▸ its incarnation and key

    def forget(self) -> None:
        """Begins anew with another server."""
        self._ranks.clear()
        self._newest.clear()

    def note_welcome(self, user: str, worker: int, incarnation: int) -> None:
        """Notes whom a server has welcomed."""
        if worker:
            self._ranks[user] = worker
            self._newest[worker] = incarnation, user

    def may(self, header: dict[str, Any], user: str) -> bool | None:
        """Whether a message is allowed; None where the wire format leaves that open for a moment.

        Args:
            header: of the message, whose form is right.
            user: the key of its sender.
        """
        verb, worker = header["t"], header.get("worker", 0)
        holder = self._keys.holders.get(user)
        if holder is None:  # a push counts until its worker is evicted, within a second
            return None if verb in ("push", "push_pull") else False
        if verb == "dismiss" and holder.role == "worker":
            return self._newest.get(worker, (0, ""))[1] == user
        verbs = {"worker": OF_WORKERS, "observer": (), "admin": OF_ADMINS}[holder.role]
        if verb not in (*EVERYBODY, *verbs):
            return False
        if verb == "hello":
            return self._may_say_hello(header, user, holder.role, holder.rank)
        # A launcher's word of a worker of its own that has died.
        is_told = verb == "bye" and holder.role == "admin" and header["reason"] == "failed"
        if "incarnation" not in header or not worker or is_told:
            return True
        incarnation, owner = self._newest.get(worker, (0, user))
        return incarnation != header["incarnation"] or owner == user

    def _may_say_hello(
        self, header: dict[str, Any], user: str, role: str, rank: int | None
    ) -> bool:
        if (header["role"] == "worker") != (role == "worker"):
            return False
        if role != "worker":
            return True
        own = rank or self._ranks.get(user, header["worker"])
        return header["worker"] == own and self._owner(own) in (user, None)

    def _owner(self, rank: int) -> str | None:
        """Whose rank this is, of those who are let in."""
        holders = self._keys.holders
        by_file = [key for key, holder in holders.items() if holder.rank == rank]
        by_hello = [k for k, taken in self._ranks.items() if taken == rank and k in holders]
        return next(iter((*by_file, *by_hello)), None)

    def check(self, expected: bool | None, header: dict[str, Any], answer: dict[str, Any]) -> None:
        """Checks that a message was refused for its key if it had to be, and otherwise not.

        Args:
            expected: what `may` has said before it was handled.
            header: of the message.
            answer: the header of its answer.

        Raises:
            Wrong: it was not.
        """
        is_refused = answer["t"] == "error" and answer["code"] == REFUSED
        if expected is not None and is_refused == expected:
            how = "refused" if expected else "honoured"
            raise Wrong(f"a message was {how} by its key, and should not be: {header}")
