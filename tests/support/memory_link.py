"""A shard's process that lives inside this one: what it is told, it does at once."""

from collections import deque
from collections.abc import Callable

from leash.ps.errors import ProtocolError
from leash.ps.shard.linked_shard import LinkedShard, LinkPayload, options_of
from leash.ps.shard.replies import Send
from leash.ps.wire.messages import Message
from leash.ps.wire.shard_link import LinkClosedError, ReceivedPayload, SentPayload
from leash.ps.wire.shard_messages import Begin, Done, Failed


class MemoryLink:
    """The process of one shard, and the stream to it. Implements remote_shards.ShardLink.

    What the shard has sent before it was lost can still be read, as with a stream.
    """

    def __init__(self, pid: int, send: Send, now: Callable[[], float]) -> None:
        """Args:
        pid: the process id to show.
        send: sends an answer over the shard's data socket.
        now: the shard's clock.
        """
        self.pid = pid
        self.how = ""  # once it is lost: how
        self.fails_with: ProtocolError | None = None  # what it is asked next
        self._send = send
        self._now = now
        self._shard: LinkedShard | None = None
        self._sent: deque[tuple[Message, ReceivedPayload]] = deque()

    @property
    def shard(self) -> LinkedShard:
        """What the process decides by; it is there once the coordinator has told it to begin."""
        assert self._shard is not None
        return self._shard

    def lose(self, how: str) -> None:
        """The process ends, from one moment to the next."""
        self.how = how

    def advance(self) -> None:
        """The process has its turn: it tells what there is to tell."""
        self.shard.advance()
        self._send_notices()

    # What the coordinator does.

    def send(self, message: Message, payload: SentPayload = None) -> None:
        if self.how:
            raise LinkClosedError(self.how)
        taken = bytearray(payload) if payload is not None else None
        if isinstance(message, Begin):
            self._shard = LinkedShard(message.shard, options_of(taken), self._send, self._now)
            self.put(Done(message.port))
            return
        if self.fails_with is not None:
            failure, self.fails_with = self.fails_with, None
            self.put(Failed(failure.code, str(failure)))
            return
        answer = self.shard.answer(message, taken)
        self._send_notices()
        if answer is not None:
            self.put(*answer)

    def receive(self, wait_s: float) -> tuple[Message, ReceivedPayload] | None:
        if self._sent:
            return self._sent.popleft()
        if self.how:
            raise LinkClosedError(self.how)
        return None

    def ending(self) -> str:
        return self.how

    def kill(self) -> None:
        self.how = self.how or "killed by SIGKILL"

    def let_go(self) -> None:
        self.how = self.how or "it ended with status 0"

    def reap(self) -> None:
        assert self.how, "it was let go before"

    # How it is done.

    def put(self, message: Message, payload: LinkPayload = None) -> None:
        """The shard sends this."""
        self._sent.append((message, bytearray(payload) if payload is not None else None))

    def _send_notices(self) -> None:
        for message, payload in self.shard.take_notices():
            self.put(message, payload)
