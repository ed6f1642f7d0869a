"""Knows, in a server that was started again, for whom it waits, and what they have told.

Those who took part when the server before it died are on their way: each of them says hello, offers
what it remembers, and says that it has. Who has not come after a while is waited for no more.
"""

from collections.abc import Collection, Iterable
from typing import Final

from leash.ps.wire.messages import Remember


class Recovery:
    """The time from the start of such a server to the moment at which its workers go on.

    Attributes:
        told: rank ▸ what its newest process has told.
    """

    def __init__(self, ranks: Iterable[int], until_s: float) -> None:
        """Nobody has told anything.

        Args:
            ranks: of those who took part.
            until_s: on the server's clock; from then on nobody is waited for who is not here.
        """
        self.told: Final[dict[int, Remember]] = {}
        self._ranks: Final = frozenset(ranks)
        self._until_s: Final = until_s

    def take(self, told: Remember) -> None:
        """Notes what a worker has told; what it told before counts no more."""
        self.told[told.worker] = told

    def missing(self, live: Iterable[int], now_s: float) -> list[int]:
        """The ranks that are waited for.

        Args:
            live: those who take part now, whom one waits for as long as they do.
            now_s: the time.
        """
        on_their_way = self._ranks if now_s < self._until_s else frozenset()
        return sorted((on_their_way | set(live)) - self.told.keys())

    def is_over(self, live: Collection[int], now_s: float) -> bool:
        """Whether those who are here may go on.

        Args:
            live: the ranks that take part now.
            now_s: the time.
        """
        return bool(live) and not self.missing(live, now_s)

    def in_step(self, step: int) -> list[int]:
        """The ranks that go on in lockstep, if all who took part can; nobody if one cannot.

        Those are in the same step, but for a step that is in all values and had no answer yet.
        Whoever has not taken part to the last is new to the others: it comes in like a newcomer,
        and hinders nobody.

        Args:
            step: the first that is not in all values.
        """
        told = [told for told in self.told.values() if told.worker in self._ranks]
        if any(self._hinders(each, step) for each in told):
            return []
        return sorted(each.worker for each in told if each.step)

    def lost(self, in_step: Collection[int]) -> int:
        """How many steps had no answer when the server died, and are pushed by nobody again.

        Args:
            in_step: the ranks that push theirs again.
        """
        return sum(
            told.lost if worker in in_step else max(told.lost, int(told.begun))
            for worker, told in self.told.items()
        )

    def _hinders(self, told: Remember, step: int) -> bool:
        if not told.step:
            return told.lost > 0
        return told.step != step and not (told.begun and told.step + 1 == step)
