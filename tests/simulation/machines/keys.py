"""The keys of a simulated run: who has which, and whom the server lets in."""

from typing import Final, cast

from leash.ps.wire.keys import KeyHolder, Keyring, Role

NOBODY: Final = ""
OBSERVER: Final = "key of an observer"
ADMIN: Final = "key of an admin"
AS: Final = b"as "  # begins the route of somebody who comes by the key that follows


class Keys:
    """Takes the place of `leash.ps.wire.keys.Keyring`, of which servers use `holders` alone.

    Attributes:
        holders: who is let in, by public key.
    """

    def __init__(self, workers: int, *, by_file: bool) -> None:
        """Makes a key for each worker, an observer's and an admin's.

        Args:
            workers: how many.
            by_file: whether each worker's key is for its rank beforehand, and not by its hello.
        """
        self.holders: dict[str, KeyHolder] = {}
        self.revoked: Final[list[str]] = []
        self._by_file: Final = by_file
        self._of: Final[dict[int, str]] = {}  # rank ▸ the key of its processes
        self._count = 0
        for rank in range(1, workers + 1):
            self.renew(rank)
        self._add(OBSERVER, "observer", None)
        self._add(ADMIN, "admin", None)

    @property
    def ring(self) -> Keyring:
        """The same, as servers expect it."""
        return cast("Keyring", self)

    def of(self, rank: int) -> str:
        """The key of a rank's processes."""
        return self._of[rank]

    def is_let_in(self, rank: int) -> bool:
        """Whether the key of this rank was not revoked."""
        return self._of[rank] in self.holders

    def revoke(self, rank: int) -> None:
        """Takes back the key of a rank."""
        key = self._of[rank]
        self.holders = {public: h for public, h in self.holders.items() if public != key}
        self.revoked.append(key)

    def renew(self, rank: int) -> None:
        """Gives the processes of a rank a new key."""
        self._count += 1
        self._of[rank] = f"key {self._count} of worker {rank}"
        self._add(self._of[rank], "worker", rank if self._by_file else None)

    @property
    def all(self) -> list[str]:
        """The keys that are let in, those that were revoked, and one that nobody has."""
        return [*self.holders, *self.revoked, "key of a stranger"]

    def _add(self, public: str, role: Role, rank: int | None) -> None:
        self.holders = {**self.holders, public: KeyHolder(public, role, rank, public)}
