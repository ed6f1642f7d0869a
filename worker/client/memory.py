"""A worker's two slabs, in memory that a server on the same host may map."""

import mmap
import os
import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from leash.ps.wire.segment import NONCE_NBYTES, SLABS, SegmentMap, create_segment

Slab = npt.NDArray[np.uint8]


class SlabMemory:
    """Two slabs, and an outbox for payloads that a codec wrote; all bytes are zero at first.

    Attributes:
        map: says where slabs and outbox lie in the memory.
        nbytes: the size of all of it.
        fd: the descriptor under which a server can map it; None if no other process can.
        why_private: why no other process can map it; empty if one can.
        slabs: the two slabs, as views.
    """

    def __init__(self, slab_nbytes: int, *, has_outbox: bool = False) -> None:
        """Allocates the memory: shared if the system can do that, otherwise private.

        Args:
            slab_nbytes: the size of one slab.
            has_outbox: whether a codec other than raw numbers needs one.
        """
        self.map: Final = SegmentMap(slab_nbytes, has_outbox)
        self.nbytes: Final = self.map.nbytes
        self._nonce: Final = secrets.token_bytes(NONCE_NBYTES)
        self.fd: int | None = None
        self.why_private: str = ""
        self._memory = self._allocate()
        whole: Slab = np.frombuffer(self._memory, np.uint8)
        self.slabs: Final = [
            whole[self.map.slab(i) : self.map.slab(i) + slab_nbytes] for i in range(SLABS)
        ]
        self._whole: Final = whole
        self._places: Final = [_address_of(slab) for slab in self.slabs]

    def _allocate(self) -> mmap.mmap:
        try:
            self.fd, memory = create_segment(self.nbytes, self._nonce)
        except OSError as error:
            self.why_private = str(error)
            memory = mmap.mmap(-1, self.nbytes)
        return memory

    @property
    def nonce(self) -> str:
        """The bytes, in hex, that a server reads in this memory and sends back as a proof."""
        return self._nonce.hex()

    def slab_index(self, slab: Slab) -> int | None:
        """Tells which of the two slabs an array is; None if it is other memory."""
        place = _address_of(slab)
        return self._places.index(place) if place in self._places else None

    def outbox(self, chunk: int, chunk_start: int, nbytes: int) -> Slab:
        """Finds the place of a chunk's payload in the outbox.

        Args:
            chunk: the chunk's index.
            chunk_start: its offset in a slab.
            nbytes: how much room the payload needs.

        Returns:
            A view of that many bytes.
        """
        at = self.map.outbox(chunk, chunk_start)
        return self._whole[at : at + nbytes]

    def close(self) -> None:
        """Closes the descriptor; the memory itself lives as long as somebody uses it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _address_of(slab: Slab) -> int:
    place: int = slab.__array_interface__["data"][0]  # a tenth of what `ctypes.data` costs
    return place
