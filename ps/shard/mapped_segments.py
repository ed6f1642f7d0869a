"""Where the server finds a gradient: in a message, or in a worker's segment that it has mapped."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import zmq

from leash.ps.errors import HeaderError, PayloadSizeError, SegmentError
from leash.ps.wire.codecs import check_size, codec_for
from leash.ps.wire.layout import Chunk, Layout
from leash.ps.wire.messages import Attach, Push, PushPull
from leash.ps.wire.segment import SLABS, SegmentMap, nonce_of, open_segment
from leash.ps.wire.sockets import Payload

RAW: Final = "raw"  # the core's name for f32 and f64


@dataclass(frozen=True, slots=True)
class GradientSource:
    """Where a chunk's gradient lies, and where its parameters go."""

    memory: memoryview  # the gradient, as its codec wrote it
    codec: str  # of the core
    answer: memoryview | None  # for the parameters; None: they replace the gradient
    reply: Payload  # what the answer carries; None if its worker has the parameters already
    reply_codec: str


class Attachment:
    """Where the chunks of one worker process lie. Over one connection, and no other.

    An old copy of a push may still come in over a connection that was lost. It names memory in
    which its worker may have newer numbers by now, so it is refused.
    """

    def __init__(self, request: Attach, route: bytes, layout: Layout) -> None:
        """Maps the segment.

        Raises:
            SegmentError: it is not what `attach` says, or not ours to open.
        """
        self.incarnation: Final = request.incarnation
        self.number: Final = request.number
        self.route: Final = route
        self._map: Final = _map_of(request.nbytes, layout)
        self._segment: Final[mmap.mmap] = open_segment(request.pid, request.fd, request.nbytes)
        self._memory: Final = memoryview(self._segment)

    @property
    def nonce(self) -> str:
        return nonce_of(self._segment)

    def is_newer_than(self, request: Attach) -> bool:
        """That request came late, over a connection that was lost."""
        return self.incarnation == request.incarnation and self.number > request.number

    def check(self, chunks: Sequence[Chunk], push: PushPull) -> None:
        """Is the memory that `push` names there, and fit for these chunks?

        Raises:
            SegmentError: the segment has no such memory.
            HeaderError: a codec that cannot carry one of the chunks.
            PayloadSizeError: a size that the codec does not have.
        """
        if push.slab >= SLABS:
            raise SegmentError(f"expected slab 0 or 1, got {push.slab}")
        if push.nbytes and not self._map.has_outbox:
            raise SegmentError("expected raw values: this segment has no outbox")
        for chunk in chunks:
            codec = codec_for(push.codec, chunk)
            if codec.core != RAW:
                check_size(chunk, codec, push.nbytes)
            elif push.nbytes:
                raise PayloadSizeError(f"chunk {chunk.index}: {codec.name} lies in the slab; "
                                       f"expected nbytes 0, got {push.nbytes}")  # fmt: skip

    def source(self, chunk: Chunk, push: PushPull) -> GradientSource:
        """The gradient of a chunk. REQUIRES: `check` has passed it."""
        codec = codec_for(push.codec, chunk)
        values = self.region(chunk, chunk, push.slab)
        if codec.core == RAW:
            return GradientSource(values, RAW, None, None, chunk.dtype)
        at = self._map.outbox(chunk.index, chunk.start)
        encoded = self._memory[at : at + push.nbytes]
        return GradientSource(encoded, codec.core, values, None, chunk.dtype)

    def region(self, first: Chunk, last: Chunk, slab: int) -> memoryview:
        """The places of neighbours in a slab, from the first byte of one to the last of another."""
        start = self._map.slab(slab)
        return self._memory[start + first.start : start + last.stop]


def source_in_frame(push: PushPull | Push, chunk: Chunk, payload: Payload) -> GradientSource:
    """A gradient that came with its message: parameters that fit go back in its frame.

    Raises:
        HeaderError: the push names memory of a segment too.
    """
    if isinstance(push, PushPull) and (push.chunks, push.slab, push.nbytes) != (1, 0, 0):
        raise HeaderError("push_pull: expected no chunks, slab and nbytes beside a payload")
    codec, memory = codec_for(push.codec, chunk), memory_of(payload)
    if codec.reply == codec.name or isinstance(push, Push):
        return GradientSource(memory, codec.core, None, payload, codec.reply)
    answer = np.empty(chunk.nbytes, np.uint8).data
    return GradientSource(memory, codec.core, answer, answer, codec.reply)


def memory_of(payload: Payload) -> memoryview:
    """The bytes of a received frame; the frame stays theirs, and can be written to."""
    assert isinstance(payload, zmq.Frame)
    return payload.buffer


def _map_of(nbytes: int, layout: Layout) -> SegmentMap:
    maps = [SegmentMap(layout.nbytes, has_outbox) for has_outbox in (False, True)]
    for candidate in maps:
        if candidate.nbytes == nbytes:
            return candidate
    sizes = " or ".join(str(candidate.nbytes) for candidate in maps)
    raise SegmentError(f"expected a segment of {sizes} bytes, got {nbytes}")
