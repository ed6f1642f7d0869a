"""How a step's gradients get to the server, and the parameters back: over TCP, or where they lie.

::

    tcp   header + payload      ─▸   header + payload, copied into its place
    shm   header                ─▸   header; the server has swapped the parameters in
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import zmq

from leash.ps.errors import ProtocolError, SegmentError, UsageError
from leash.ps.wire.codecs import check_size, codec_for
from leash.ps.wire.layout import Chunk, Layout, Piece
from leash.ps.wire.messages import BITS_MAX, Attach, Attached, Params, PushPull
from leash.worker.client.channel import Answer, Request
from leash.worker.client.encoding import UNCODED, Encoder, decode_params
from leash.worker.client.exchange import Exchange
from leash.worker.client.memory import Slab, SlabMemory

RUN_CHUNKS: Final = 16  # one message names no more chunks, so the server soon gets to other workers
STAND_IN: Final = 0  # memory outside the slabs is copied to and from the slab of this index

Push = tuple[Request, Slab | None]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step pushes, and where its answers go.

    Attributes:
        worker: the rank.
        incarnation: of this process, from the answer to its hello.
        number: of the step, from 1.
        samples: how many are behind the gradients.
        gradients: the slab that is pushed.
        parameters: the slab that the answers are written to. It may be the same memory: a chunk's
            parameters then replace its gradient.
        absent: numbers of the slots that have no gradient; complete for a chunk when it is ready.
        held: the slab with the parameters that this worker has; without it all are sent again.
        versions: of the chunks in `held`.
        table: number of the options that the step is applied by.
    """

    worker: int
    incarnation: int
    number: int
    samples: int
    gradients: Slab
    parameters: Slab
    absent: Collection[int] = ()
    held: Slab | None = None
    versions: Sequence[int] = ()
    table: int = 0

    def push(self, chunk: int, codec: str, **more: Any) -> PushPull:
        """Makes the header that pushes one chunk, whose payload is in this codec."""
        return PushPull(
            self.worker, self.incarnation, self.number, chunk, codec, self.samples,
            table=self.table, **more,
        )  # fmt: skip

    def has(self, chunk: int) -> int:
        """What a push of nothing says of the version that this worker has; 0 for none."""
        return 0 if self.held is None else self.versions[chunk] + 1


class Absence:
    """Says which slots of a chunk have no gradient in a step, in the form in which a push does."""

    def __init__(self, layout: Layout, chunks: tuple[Chunk, ...]) -> None:
        self._layout: Final = layout
        self._chunks: Final = chunks
        self._pieces: Final[dict[int, list[Piece]]] = {}  # of the chunks that were asked for

    def pieces(self, chunk: int) -> list[Piece]:
        """The slots' parts in this chunk."""
        if chunk not in self._pieces:
            self._pieces[chunk] = self._layout.pieces(self._chunks[chunk])
        return self._pieces[chunk]

    def of(self, chunk: int, absent: Collection[int]) -> list[Piece]:
        """The parts of the slots that are absent, of those in this chunk.

        Args:
            chunk: its index.
            absent: numbers of slots.

        Raises:
            UsageError: the chunk has too many slots for a push to name some of them.
        """
        if not absent or self._chunks[chunk].kind == "buffer":
            return []
        pieces = self.pieces(chunk)
        missing = [piece for piece in pieces if piece.slot in absent]
        if missing and len(pieces) > 8 * BITS_MAX:
            raise UsageError(
                f"chunk {chunk} has parts of {len(pieces)} parameters, of which some have no "
                f"gradient: a push can name {8 * BITS_MAX}; start the server with a smaller "
                "--chunk-kib"
            )
        return missing

    def bits(self, chunk: int, missing: list[Piece]) -> bytes:
        """The bits that name these parts of the chunk."""
        slots = {piece.slot for piece in missing}
        pieces = self.pieces(chunk)
        bits = sum(1 << place for place, piece in enumerate(pieces) if piece.slot in slots)
        return bits.to_bytes((bits.bit_length() + 7) // 8, "little")

    def is_all(self, chunk: int, missing: list[Piece]) -> bool:
        """Whether these parts are all of the chunk."""
        return len(missing) == len(self.pieces(chunk))


class Transport(Protocol):
    """How gradients get to the server and parameters back: one of the two ways."""

    name: str

    def pushes(self, step: Step, chunks: range) -> Iterator[Push]:
        """Makes the requests that push some chunks.

        Args:
            step: to which the chunks belong.
            chunks: their indices, from the last to the first.

        Returns:
            Each request with its payload, in this order; each is made when its turn comes.
        """

    def store(self, step: Step, reply: Params, payload: zmq.Frame | None) -> None:
        """Brings an answer's parameters to their place in the step's slab of parameters.

        Args:
            step: that is answered.
            reply: the answer's header.
            payload: the parameters; None if they lie in the segment.

        Raises:
            ProtocolError: the parameters came in another way than this one.
        """


class TcpTransport:
    """Sends every chunk as a message with a payload."""

    name = "tcp"

    def __init__(self, chunks: tuple[Chunk, ...], encoder: Encoder, absence: Absence) -> None:
        self._chunks: Final = chunks
        self._encoder: Final = encoder
        self._absence: Final = absence

    def pushes(self, step: Step, chunks: range) -> Iterator[Push]:
        for index in chunks:
            chunk = self._chunks[index]
            missing = self._absence.of(index, step.absent)
            bits = self._absence.bits(index, missing) if missing else b""
            if missing and self._absence.is_all(index, missing):
                yield step.push(index, chunk.dtype, absent=bits, has=step.has(index)), None
                continue
            payload = self._encoder.payload(chunk, step.gradients, step.number, missing)
            yield step.push(index, self._encoder.codec_of(chunk), absent=bits), payload

    def store(self, step: Step, reply: Params, payload: zmq.Frame | None) -> None:
        if reply.unchanged and step.held is not None:
            chunk = self._chunks[reply.chunk]
            step.parameters[chunk.start : chunk.stop] = step.held[chunk.start : chunk.stop]
            return
        store_payload(self._chunks, reply, payload, step.parameters)


class SegmentTransport:
    """Sends messages that name chunks in memory that the server has mapped too."""

    name = "shm"

    def __init__(
        self, chunks: tuple[Chunk, ...], encoder: Encoder, absence: Absence, memory: SlabMemory
    ) -> None:
        self._chunks: Final = chunks
        self._encoder: Final = encoder
        self._absence: Final = absence
        self._memory: Final = memory

    def pushes(self, step: Step, chunks: range) -> Iterator[Push]:
        index = self._memory.slab_index(step.gradients)
        if index is None:
            index = STAND_IN
            self._copy(chunks, step.gradients, self._memory.slabs[index])
        for run in self._runs(step, chunks):
            yield self._push(step, index, run), None

    def store(self, step: Step, reply: Params, payload: zmq.Frame | None) -> None:
        if payload is not None:
            raise ProtocolError(f"chunk {reply.chunk}: expected the parameters in the segment")
        index = self._memory.slab_index(step.gradients)
        if index is None or step.parameters is not step.gradients:
            slab = self._memory.slabs[STAND_IN if index is None else index]
            answered = range(reply.chunk, reply.chunk - reply.chunks, -1)
            self._copy(answered, slab, step.parameters)

    def _copy(self, chunks: range, source: Slab, target: Slab) -> None:
        start, stop = self._chunks[chunks[-1]].start, self._chunks[chunks[0]].stop
        target[start:stop] = source[start:stop]

    def _runs(self, step: Step, chunks: range) -> Iterator[range]:
        """Cuts the chunks into runs that one message each can name.

        A run is of raw chunks of one codec, at most RUN_CHUNKS of them; a chunk that a codec
        rewrites is a run of its own, and so is one of which a slot has no gradient.
        """
        begin = 0
        for end in range(1, len(chunks) + 1):
            if end == len(chunks) or not self._continues(step, chunks[begin:end], chunks[end]):
                yield chunks[begin:end]
                begin = end

    def _continues(self, step: Step, run: range, chunk: int) -> bool:
        codec = self._encoder.codec_of(self._chunks[run[0]])
        same = self._encoder.codec_of(self._chunks[chunk]) == codec
        plain = not (step.absent and any(self._absence.of(c, step.absent) for c in (run[0], chunk)))
        return same and plain and codec in UNCODED and len(run) < RUN_CHUNKS

    def _push(self, step: Step, index: int, run: range) -> PushPull:
        chunk = self._chunks[run[0]]
        missing = self._absence.of(run[0], step.absent)
        bits = self._absence.bits(run[0], missing) if missing else b""
        if missing and self._absence.is_all(run[0], missing):
            return step.push(run[0], chunk.dtype, slab=index, absent=bits)
        codec = self._encoder.codec_of(chunk)
        nbytes = 0
        if codec not in UNCODED:
            slab = self._memory.slabs[index]
            nbytes = len(self._encoder.payload(chunk, slab, step.number, missing))
        return step.push(
            run[0], codec, chunks=len(run), slab=index, nbytes=nbytes, absent=bits
        )  # fmt: skip


def store_payload(
    chunks: tuple[Chunk, ...], reply: Params, payload: zmq.Frame | None, parameters: Slab
) -> None:
    """Copies an answer's payload to its chunk's place in a slab.

    Args:
        chunks: the layout's.
        reply: the answer's header, which names chunk and codec.
        payload: the parameters.
        parameters: the slab.

    Raises:
        ProtocolError: there is no payload, or its size is not the chunk's.
    """
    chunk = chunks[reply.chunk]
    if payload is None:
        raise ProtocolError(f"chunk {reply.chunk}: expected its parameters as payload")
    check_size(chunk, codec_for(reply.codec, chunk), len(payload))
    came = np.frombuffer(payload.buffer, np.uint8)
    decode_params(reply.codec, came, parameters[chunk.start : chunk.stop])


def attach_segment(
    exchange: Exchange, memory: SlabMemory, worker: int, incarnation: int
) -> str | None:
    """Asks every shard to map a worker's memory.

    A shard answers with the nonce that it has read there. That proves that it sees the same memory;
    names of hosts and addresses would prove nothing.

    Args:
        exchange: connects this worker with the shards.
        memory: the worker's slabs.
        worker: the rank.
        incarnation: of this process, from the answer to its hello.

    Returns:
        Why it is not possible; None if it is done.
    """
    if memory.fd is None:
        return memory.why_private
    nonces: list[str] = []

    def on_reply(reply: Answer, _: zmq.Frame | None) -> None:
        if not isinstance(reply, Attached):
            raise ProtocolError(f"unexpected {reply.verb}")
        nonces.append(reply.nonce)

    attach = Attach(worker, incarnation, os.getpid(), memory.fd, memory.nbytes)
    for channel in exchange.channels:
        channel.put([(attach, None)])
    try:
        exchange.finish(on_reply)
    except SegmentError as error:
        return str(error)
    if any(nonce != memory.nonce for nonce in nonces):
        return NOT_THE_SAME
    for channel in exchange.channels:
        channel.keep_attached(attach)
    return None


NOT_THE_SAME: Final = "the server sees other memory there than this process"
