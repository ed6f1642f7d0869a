"""A worker's two slabs, in memory that a server on the same host may map."""

import ctypes
import itertools
import mmap
import os
import secrets
from typing import Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from leash.ps.wire.segment import NONCE_NBYTES, SLABS, SegmentMap, create_segment

Slab = npt.NDArray[np.uint8]

_MAP_FIXED: Final = 0x10
_SHARED: Final["WeakSet[SlabMemory]"] = WeakSet()  # what a child of a fork must not write to


class SlabMemory:
    """Two slabs, and an outbox for payloads that a codec wrote; all bytes are zero at first.

    Attributes:
        map: says where slabs and outbox lie in the memory.
        nbytes: the size of all of it.
        fd: the descriptor under which a server can map it; None if no other process can.
        why_private: why no other process can map it; empty if one can.
        slabs: the two slabs, as views.
        whole: all of the memory, as a view.
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
        self.whole: Final = whole
        self._pipes: Final[dict[int, tuple[int, int]]] = {}  # shard ▸ its ends
        _SHARED.add(self)

    def pipe(self, shard: int) -> tuple[int, int]:
        """The pipe by which this process wakes a shard: where that reads, and where this writes."""
        if shard not in self._pipes:
            self._pipes[shard] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return self._pipes[shard]

    def _allocate(self) -> mmap.mmap:
        try:
            self.fd, memory = create_segment(self.nbytes, self._nonce)
        except OSError as error:
            self.why_private = str(error)
            memory = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return memory

    @property
    def nonce(self) -> str:
        """The bytes, in hex, that a server reads in this memory and sends back as a proof."""
        return self._nonce.hex()

    def close(self) -> None:
        """Closes the descriptor; the memory itself lives as long as somebody uses it.

        From then on it is this process's alone.
        """
        if self.fd is not None:
            self.part()
            _SHARED.discard(self)
            os.close(self.fd)
            self.fd = None
        for end in itertools.chain(*self._pipes.values()):
            os.close(end)
        self._pipes.clear()

    def part(self) -> None:
        """Makes what this process writes here from now on its own, which nobody else sees.

        The memory stays where it is, with what is in it.

        Raises:
            OSError: the system has no more memory.
        """
        assert self.fd is not None
        place, protection = _address_of(self.whole), mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        if _map(place, self.nbytes, protection, flags, self.fd, 0) != place:
            raise OSError(ctypes.get_errno(), "this process cannot have the memory to itself")


def _address_of(slab: Slab) -> int:
    place: int = slab.__array_interface__["data"][0]  # a tenth of what `ctypes.data` costs
    return place


def _part_in_child() -> None:
    """Keeps a forked child from writing to the memory of its parent."""
    for memory in list(_SHARED):
        if memory.fd is not None:
            memory.part()


_map = ctypes.CDLL(None, use_errno=True).mmap
_map.restype = ctypes.c_void_p
_map.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
os.register_at_fork(after_in_child=_part_in_child)
