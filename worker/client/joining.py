"""How a process comes into a run: for the first time, after an eviction, or to another server.

::

    say hello ─▸ connect with every shard ─▸ [offer what it remembers] ─▸ wait for the values
        ▴                                                                        │
        └────────────────── evicted before training has gone on ─────────────────┘
"""

import time
from collections.abc import Callable
from typing import Final

from leash._log import Say
from leash.ps.errors import EvictedError, NotReadyError
from leash.ps.wire.messages import Beaten
from leash.ps.words import WAITING
from leash.worker.client.control.membership import Membership
from leash.worker.client.control.waiting import Waiting
from leash.worker.client.exchange import Exchange
from leash.worker.client.memory import Slab
from leash.worker.client.remembered import Remembered

NEWS_S: Final = 2.0  # within which a shard that has its values has told the coordinator


class Joining:
    """Joins a run with both of a process's connections, as often as that is necessary."""

    def __init__(
        self, member: Membership, exchange: Exchange, remembered: Remembered, say: Say
    ) -> None:
        """Joins nothing yet.

        Args:
            member: this process's part in the run.
            exchange: its data connections.
            remembered: what it tells a server that was started again.
            say: shows for whom the run waits.
        """
        self._member: Final = member
        self._exchange: Final = exchange
        self._remembered: Final = remembered
        self._say: Final = say

    def join(self) -> None:
        """Joins the run; again where it is evicted before it has come to the end of that.

        Raises:
            LeashError: nobody answers, or the server refuses.
        """
        while True:
            try:
                self._join_once()
            except EvictedError:  # noqa: PERF203
                self.part()
            else:
                return

    def join_over_new_connection(self) -> None:
        """Joins over another control connection, since an outage may have taken this one.

        Raises:
            LeashError: what `join` raises.
        """
        self._member.control.renew()
        self.join()

    def join_again(self) -> None:
        """Ends what is left of this incarnation, and joins as the next one.

        Raises:
            LeashError: what `join` raises.
        """
        self.part()
        self.join_over_new_connection()

    def rejoin(self) -> None:
        """Joins again, offers what it remembers if it is asked, and waits for training to go on.

        Raises:
            LeashError: what `join` raises, or whatever else ends this process's part.
        """
        self.remember()
        kept = self._remembered.values
        tell = Waiting.of_library(self._say).workers
        while True:
            self._member.doing.begin(WAITING)
            self.join_again()
            try:
                self.await_values(kept, tell)
            except EvictedError:
                continue
            return

    def await_values(self, own: Slab | None, on_wait: Callable[[Beaten | None], None]) -> None:
        """Waits until training goes on and the model has values, which may be this process's.

        Args:
            own: a slab of them; None if it has none.
            on_wait: called about twice a second with the newest answer, or None before the first.

        Raises:
            NotReadyError: the server has lost all values, and asks for those that it has not.
            LeashError: whatever ends this process's part.
        """

        def goes_on(beaten: Beaten) -> bool:
            return beaten.started and (beaten.initialize or beaten.initialized)

        ready = self._member.wait_until(goes_on, on_wait)
        if ready.first_step:
            self._exchange.steps, self._exchange.is_in_step = ready.first_step - 1, ready.in_step
            self._remembered.has_told()
            self._member.complete_welcome(ready)
        if own is None and not ready.initialized:
            until_s = time.monotonic() + NEWS_S
            ready = self._member.wait_until(
                lambda beaten: beaten.initialized or time.monotonic() >= until_s, on_wait
            )
        if ready.initialize and not ready.initialized:
            if own is None:
                raise NotReadyError("the server has lost all values; call begin() with yours")
            self._exchange.initialize(own)

    def remember(self) -> None:
        """Notes what this process would offer, unless it has not been given newer values since."""
        if self._exchange.has_pulled:
            self._remembered.note(self._exchange.answered)

    def part(self) -> None:
        """Ends the connections of this incarnation, whose reports go out before that."""
        self._exchange.close()
        self._member.part()

    def _join_once(self) -> None:
        encoding = self._exchange.encoding
        self._member.say_hello(encoding.codec, encoding.answer_codec or "")
        self._exchange.connect()
        if self._member.welcome.heals and self._member.rank:
            self._tell_what_is_remembered()
        else:
            self._remembered.step, self._remembered.begun = 0, False  # the others may be elsewhere

    def _tell_what_is_remembered(self) -> None:
        """Offers a server that was started again what this process was answered with."""
        member, remembered = self._member, self._remembered
        if remembered.answered is not None:
            self._exchange.offer(remembered.answered)
        counted = remembered.counted
        member.session.want_remember(
            remembered.lost, counted.epochs, counted.of_epoch, counted.of_lease,
            (counted.newest_lease, counted.holder), remembered.step, member.patience_s,
            begun=remembered.begun,
        )  # fmt: skip
        member.await_answer()
