"""A worker's segment, as the server has mapped it."""

import mmap
from typing import Final

from ps.errors import SegmentError
from ps.layout import Chunk, Layout
from ps.segment import SLABS, SegmentMap, nonce_of, open_segment
from ps.wire.messages import Attach, PushPull


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
        self.route: Final = route
        self._map: Final = _map_of(request.nbytes, layout)
        self._segment: Final[mmap.mmap] = open_segment(request.pid, request.fd, request.nbytes)
        self._memory: Final = memoryview(self._segment)

    @property
    def nonce(self) -> str:
        return nonce_of(self._segment)

    def values(self, chunk: Chunk, slab: int) -> memoryview:
        """A chunk's place in a slab: its gradient, then its parameters."""
        at = self._map.slab(slab) + chunk.start
        return self._memory[at : at + chunk.nbytes]

    def outbox(self, chunk: Chunk, nbytes: int) -> memoryview:
        """What a codec wrote of a chunk."""
        at = self._map.outbox(chunk.index, chunk.start)
        return self._memory[at : at + nbytes]

    def check(self, push: PushPull) -> None:
        """Raises SegmentError for memory that the segment does not have."""
        if push.slab >= SLABS:
            raise SegmentError(f"expected slab 0 or 1, got {push.slab}")
        if push.nbytes and not self._map.has_outbox:
            raise SegmentError("expected raw values: this segment has no outbox")


def _map_of(nbytes: int, layout: Layout) -> SegmentMap:
    maps = [SegmentMap(layout.nbytes, has_outbox) for has_outbox in (False, True)]
    for candidate in maps:
        if candidate.nbytes == nbytes:
            return candidate
    sizes = " or ".join(str(candidate.nbytes) for candidate in maps)
    raise SegmentError(f"expected a segment of {sizes} bytes, got {nbytes}")
