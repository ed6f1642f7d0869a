"""Finds a gradient: in the message that pushed it, or in a worker's segment that is mapped here."""

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

RAW: Final = "raw"  # what the core calls f32 and f64


@dataclass(frozen=True, slots=True)
class GradientSource:
    """The memory in which a chunk's gradient lies, and the one for its parameters."""

    memory: memoryview | None  # the gradient, as its codec wrote it; None: all slots are absent
    codec: str  # what the core calls that codec
    answer: memoryview | None  # the parameters go here; None: they replace the gradient
    reply: Payload  # the payload of the answer; None if the parameters lie in the worker's segment
    reply_codec: str


class Attachment:
    """The mapped segment of one worker process, for pushes over the connection that attached it.

    An old copy of a push may still come in over a connection that was lost. It names memory in
    which its worker may have newer numbers by now, so it is refused.
    """

    def __init__(self, request: Attach, route: bytes, layout: Layout) -> None:
        """Maps the segment.

        Raises:
            SegmentError: the segment is not what `attach` says, or not ours to open.
        """
        self.incarnation: Final = request.incarnation
        self.number: Final = request.number
        self.route: Final = route
        self._map: Final = _map_of(request.nbytes, layout)
        self._segment: Final[mmap.mmap] = open_segment(request.pid, request.fd, request.nbytes)
        self._memory: Final = memoryview(self._segment)

    @property
    def nonce(self) -> str:
        """What the server reads at the start of the segment, in hex."""
        return nonce_of(self._segment)

    def is_newer_than(self, request: Attach) -> bool:
        """Whether that request came late, over a connection that was lost."""
        return self.incarnation == request.incarnation and self.number > request.number

    def check(self, chunks: Sequence[Chunk], push: PushPull) -> None:
        """Checks that the memory which `push` names is there, and fit for these chunks.

        Raises:
            SegmentError: the segment has no such memory.
            HeaderError: its codec cannot carry one of the chunks.
            PayloadSizeError: its size is not one of that codec.
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
        """Finds the gradient of a chunk. REQUIRES: `check` has passed this push."""
        codec = codec_for(push.codec, chunk)
        values = self.region(chunk, chunk, push.slab)
        if codec.core == RAW:
            return GradientSource(values, RAW, None, None, chunk.dtype)
        at = self._map.outbox(chunk.index, chunk.start)
        encoded = self._memory[at : at + push.nbytes]
        return GradientSource(encoded, codec.core, values, None, chunk.dtype)

    def place(self, chunk: Chunk, push: PushPull) -> GradientSource:
        """Finds the place of a chunk's parameters, for a push of nothing.

        Raises:
            SegmentError: the segment has no such memory.
        """
        if push.slab >= SLABS:
            raise SegmentError(f"expected slab 0 or 1, got {push.slab}")
        values = self.region(chunk, chunk, push.slab)
        return GradientSource(None, RAW, values, None, chunk.dtype)

    def region(self, first: Chunk, last: Chunk, slab: int) -> memoryview:
        """The part of a slab from the first byte of one chunk to the last byte of another."""
        start = self._map.slab(slab)
        return self._memory[start + first.start : start + last.stop]


def source_in_frame(push: PushPull | Push, chunk: Chunk, payload: Payload) -> GradientSource:
    """Finds a gradient that came in a message; parameters of the same size go back in its frame.

    Raises:
        HeaderError: the push also names memory of a segment.
    """
    if isinstance(push, PushPull) and (push.chunks, push.slab, push.nbytes) != (1, 0, 0):
        raise HeaderError("push_pull: expected no chunks, slab and nbytes beside a payload")
    codec, memory = codec_for(push.codec, chunk), memory_of(payload)
    if codec.reply == codec.name or isinstance(push, Push):
        return GradientSource(memory, codec.core, None, payload, codec.reply)
    answer = np.empty(chunk.nbytes, np.uint8).data
    return GradientSource(memory, codec.core, answer, answer, codec.reply)


def source_of_nothing(chunk: Chunk) -> GradientSource:
    """Makes room for the parameters that answer a push of nothing."""
    answer = np.empty(chunk.nbytes, np.uint8).data
    return GradientSource(None, RAW, answer, answer, chunk.dtype)


def memory_of(payload: Payload) -> memoryview:
    """The bytes of a received frame, without a copy; the frame can be written to."""
    assert isinstance(payload, zmq.Frame)
    return payload.buffer


def _map_of(nbytes: int, layout: Layout) -> SegmentMap:
    maps = [SegmentMap(layout.nbytes, has_outbox) for has_outbox in (False, True)]
    for candidate in maps:
        if candidate.nbytes == nbytes:
            return candidate
    sizes = " or ".join(str(candidate.nbytes) for candidate in maps)
    raise SegmentError(f"expected a segment of {sizes} bytes, got {nbytes}")
