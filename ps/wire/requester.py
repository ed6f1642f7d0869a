"""An engine that asks a server: one request at a time, repeated until it is answered.

::

    request ─▸  connection breaks      request again ─▸  answer
                                       over the next connection
    request ─▸  silence for RETRY_S    request again ─▸  answer
                                       over a connection of its own

It decides what is sent, when it is sent again, and when nobody will answer any more. It has no
socket and no clock: a driver carries the frames, tells what happens to the connection, and says
what time it is (`leash.ps.wire.control` does so over ZeroMQ).

Every request may be repeated: docs/wire-format.md says of each what a repetition does.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from leash.ps.errors import LeashError, ServerUnreachableError
from leash.ps.wire.frames import check_payload_count, decode_as
from leash.ps.wire.messages import Message

RETRY_S: Final = 2.0  # a request without an answer for so long is sent again, over a new connection
PATIENCE_S: Final = 600.0  # a process that takes part in a run keeps asking for so long
NEVER_S: Final = math.inf
AT_ONCE_S: Final = -math.inf

ControlFrames: TypeAlias = Sequence[bytes]  # a header, and behind it a payload if there is one


@dataclass(frozen=True, slots=True)
class Silence:
    """Nobody answered a request.

    Attributes:
        waited_s: for how long it was sent again and again.
        connected: whether a connection stood in the end.
    """

    waited_s: float
    connected: bool


class Requester(ABC):
    """Asks over one connection at a time. Each kind of it says what it asks, and of the answers.

    A driver calls `next` whenever something has happened, and at `wake_s` at the latest. It sends
    what that gives, and makes another connection when `renews` says so.

    Nothing that a server sends is raised: it ends the request, and is its `error`.

    Attributes:
        stands: whether the connection does, as far as the driver has told.
        renews: whether the driver is to give the connection up and to make another one; then it
            calls `lost`, and `connected` later.
        is_busy: whether a request is on its way.
        error: how the newest request failed; None if it did not.
        silence: the same, if the reason is that nobody answered.
    """

    def __init__(self) -> None:
        """Asks nothing yet, and has no connection."""
        self.stands = False
        self.renews = False
        self.is_busy = False
        self.error: LeashError | None = None
        self.silence: Silence | None = None
        self._frames: ControlFrames = ()
        self._expected: type[Message] = Message
        self._timeout_s = 0.0
        self._asked_s = 0.0  # the request began then
        self._deadline_s = 0.0  # it ends then
        self._retry_at_s = 0.0  # it is sent again then, or ends
        self._is_sent = False  # over the connection that stands

    # What a kind of requester says.

    @abstractmethod
    def begin(self, now_s: float) -> None:
        """Begins the next request, if none is on its way and one is due.

        Args:
            now_s: the time.
        """

    @abstractmethod
    def _take(self, answer: Message, payload: bytes | None, now_s: float) -> None:
        """Takes the answer to the request, which has ended; an error that it raises is `error`."""

    def _fits(self, answer: Message) -> bool:
        """Whether an answer of the right kind belongs to the request, and not to an earlier one."""
        return True

    def _is_wanted(self) -> bool:
        """Whether anybody still waits for the answer, after a silence."""
        return True

    def _fail(self, error: LeashError) -> None:
        """Takes note of the error with which the request has ended."""
        self.error = error

    @property
    def _due_s(self) -> float:
        """When the next request is due, while none is on its way."""
        return NEVER_S

    # What a driver calls.

    @property
    def wake_s(self) -> float:
        """When to call `next` at the latest: infinity for never, minus infinity for at once."""
        return self._retry_at_s if self.is_busy else self._due_s

    def next(self, now_s: float) -> ControlFrames | None:
        """Decides what time decides, and gives what is to be sent now, which then counts as sent.

        Args:
            now_s: the time.
        """
        if not self.is_busy:
            self.begin(now_s)
        elif now_s >= self._retry_at_s:
            self._end_silence(now_s)
        if self._is_sent or self.renews or not (self.is_busy and self.stands):
            return None
        self._is_sent = True
        return self._frames

    def put_back(self) -> None:
        """Takes back what `next` gave last, since the driver could not send it."""
        self._is_sent = False

    def connected(self) -> None:
        """Hears that a connection stands; what has no answer goes over it."""
        self.stands = True
        self._is_sent = False

    def lost(self) -> None:
        """Hears that the connection is no more: it broke, or `renews` asked for another."""
        self.stands = self.renews = self._is_sent = False

    def receive(self, frames: ControlFrames, now_s: float) -> None:
        """Takes an answer that came over the connection. One that nobody waits for is ignored.

        Args:
            frames: of the answer: a header, and behind it a payload if there is one.
            now_s: the time.
        """
        if not self._is_sent:
            return
        try:
            answer = decode_as(self._expected, frames[0])
            check_payload_count(answer, len(frames) - 1)
            if self._fits(answer):
                self._end()
                self._take(answer, frames[1] if len(frames) > 1 else None, now_s)
        except LeashError as error:
            self._end()
            self._fail(error)

    def refuse(self, error: LeashError) -> None:
        """Hears that the server takes no connection of this process; the request has failed.

        Args:
            error: why.
        """
        if self.is_busy:
            self._end()
            self._fail(error)

    def waited_s(self, now_s: float) -> float:
        """For how long the newest request has had no answer; 0 if it has one.

        Args:
            now_s: the time.
        """
        if self.is_busy:
            return now_s - self._asked_s
        return 0.0 if self.silence is None else self.silence.waited_s

    def hurry(self, until_s: float) -> None:
        """Gives the request that is on its way no more time than until then.

        Args:
            until_s: the time at which it is given up.
        """
        self._deadline_s = min(self._deadline_s, until_s)
        self._retry_at_s = min(self._retry_at_s, until_s)

    def abandon(self) -> None:
        """Forgets the request that is on its way: whoever waited for it has gone."""
        if self._is_sent:
            self.renews = True  # or its answer would be taken for that to the next request
        self._end()

    # How it is done.

    def _ask(
        self, frames: ControlFrames, expected: type[Message], timeout_s: float, now_s: float
    ) -> None:
        """Begins a request, which ends with an answer of this type or after so many seconds."""
        self._frames, self._expected, self._timeout_s = frames, expected, timeout_s
        self._asked_s, self._deadline_s = now_s, now_s + timeout_s
        self._retry_at_s = min(self._deadline_s, now_s + RETRY_S)
        self.is_busy = True
        self.error = self.silence = None

    def _end_silence(self, now_s: float) -> None:
        """Has the request sent again over another connection, or gives it up."""
        self.renews = True
        if now_s < self._deadline_s and self._is_wanted():
            self._retry_at_s = min(self._deadline_s, now_s + RETRY_S)
            return
        waited_s = min(self._timeout_s, now_s - self._asked_s)
        self._end()
        self.silence = Silence(waited_s, self.stands)
        waited = f"no server has answered (waited {waited_s:.3g} s)"
        self._fail(ServerUnreachableError(waited))

    def _end(self) -> None:
        self.is_busy = self._is_sent = False
