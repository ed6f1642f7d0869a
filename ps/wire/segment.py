"""Memory that a worker shares with a server on its host.

::

    page 0   nonce   16 random bytes of the worker; the server tells what it reads here
    slab 0   gradients in, parameters out: a chunk's values are swapped where they lie
    slab 1   the same; a worker that changes slabs at every step copies nothing
    outbox   gradients as a codec wrote them, each chunk's at a place of its own; if there is one
    states   a word for each chunk: what lies in its place, for a worker whose server has died
    rings    headers on their way to the first shards and back: see csrc/lane/rings

Each part begins on a page. The worker makes the segment with memfd_create: it has no name, so
nothing stays behind however its processes end. It is sealed: its size is fixed for ever, so no
access to a mapping of it can fail. The server opens it as /proc/PID/fd/FD, which the kernel grants
to processes of the same user in the same process namespace.
"""

import fcntl
import mmap
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import SegmentError

PAGE_NBYTES: Final = 4096
HUGE_PAGE_NBYTES: Final = 2 << 20  # csrc/core/base/slab.h has both numbers too
WORTH_HUGE_PAGES_NBYTES: Final = 4 << 20
NONCE_NBYTES: Final = 16
SLABS: Final = 2
OUTBOX_MARGIN_NBYTES: Final = 64  # a chunk in a codec may be so much longer than in f32
MIN_CHUNK_NBYTES: Final = 64 * 1024
MAX_GROUPS: Final = 4
STATE_NBYTES: Final = 8
SLAB_NBYTES_PER_STATE: Final = 8192  # far less than a chunk has: there are states for all chunks
MORE_STATES: Final = 8
RING_SHARDS: Final = 16  # the first of a run have rings
RING_RECORDS: Final = 64  # of 256 bytes, behind 256 bytes of words
RING_NBYTES: Final = 256 * (1 + RING_RECORDS)
SEALS: Final = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW of linux/fcntl.h
SEALED_AGAINST_WRITING: Final = 0x8 | 0x10


@dataclass(frozen=True, slots=True)
class SegmentMap:
    """The places in the segment of a model whose slab has `slab_nbytes`."""

    slab_nbytes: int
    has_outbox: bool

    def slab(self, index: int) -> int:
        """The offset of slab 0 or 1, or with index 2 of the outbox, which comes after them."""
        return PAGE_NBYTES + index * _pages(self.slab_nbytes)

    def outbox(self, chunk: int, chunk_start: int) -> int:
        """The offset in the segment at which this chunk's payload begins in the outbox."""
        return self.slab(SLABS) + chunk_start + OUTBOX_MARGIN_NBYTES * chunk

    @property
    def outbox_nbytes(self) -> int:
        """The size of the outbox; 0 without one."""
        chunks = self.slab_nbytes // MIN_CHUNK_NBYTES + MAX_GROUPS
        return _pages(self.slab_nbytes + OUTBOX_MARGIN_NBYTES * chunks) if self.has_outbox else 0

    @property
    def states(self) -> int:
        """The offset of the chunks' states."""
        return self.slab(SLABS) + self.outbox_nbytes

    @property
    def rings(self) -> int:
        """The offset of the rings."""
        count = self.slab_nbytes // SLAB_NBYTES_PER_STATE + MORE_STATES
        return self.states + _pages(STATE_NBYTES * count)

    @property
    def nbytes(self) -> int:
        """The size of the segment."""
        return self.rings + PAGE_NBYTES + RING_SHARDS * 2 * RING_NBYTES


def create_segment(nbytes: int, nonce: bytes) -> tuple[int, mmap.mmap]:
    """Makes a sealed segment; gives its file descriptor, and a mapping of it.

    Raises:
        OSError: there is no memory, or the system has no memfd_create.
    """
    assert len(nonce) == NONCE_NBYTES
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memfd_create")
    fd = os.memfd_create("leash", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        memory = _map(fd, nbytes)
    except BaseException:
        os.close(fd)
        raise
    memory[:NONCE_NBYTES] = nonce
    return fd, memory


def open_segment(pid: int, fd: int, nbytes: int) -> mmap.mmap:
    """Maps another process's segment; the mapping stays, whatever that process does.

    Raises:
        SegmentError: there is no such file, we may not open it, it is no sealed segment, or it has
            another size.
    """
    path = f"/proc/{pid}/fd/{fd}"
    try:
        # Its kind is checked before it is opened, since opening a pipe or a device has effects.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise SegmentError(f"expected shared memory, got another kind of file: {path}")
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentError(f"the worker's memory cannot be opened here: {error}") from error
    try:
        return _mapped(handle, nbytes)
    finally:
        os.close(handle)


def open_pipe(pid: int, fd: int) -> int:
    """Opens another process's pipe, to be woken by it; returns the descriptor, which never waits.

    It can be written to as well, so that it does not count as ended when that process has.

    Raises:
        SegmentError: there is no such pipe, or we may not open it.
    """
    path = f"/proc/{pid}/fd/{fd}"
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise SegmentError(f"expected a pipe, got another kind of file: {path}")
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentError(f"the worker's pipe cannot be opened here: {error}") from error


def file_of(pid: int, fd: int) -> tuple[int, int]:
    """What tells a process's segment from all others of this host.

    Raises:
        SegmentError: there is no such file any more.
    """
    try:
        found = os.stat(f"/proc/{pid}/fd/{fd}")
    except OSError as error:
        raise SegmentError(f"the worker's memory is gone: {error}") from error
    return found.st_dev, found.st_ino


def nonce_of(segment: mmap.mmap) -> str:
    """The nonce of a segment in hex, which proves that both sides see the same memory."""
    return segment[:NONCE_NBYTES].hex()


def _mapped(handle: int, nbytes: int) -> mmap.mmap:
    try:
        seals = fcntl.fcntl(handle, fcntl.F_GET_SEALS)
        if seals & SEALS != SEALS or seals & SEALED_AGAINST_WRITING:
            raise SegmentError(f"expected memory of a fixed size, with seals {SEALS}, got {seals}")
        came = os.fstat(handle).st_size
        if came != nbytes:
            raise SegmentError(f"expected a segment of {nbytes} bytes, got {came}")
        return _map(handle, nbytes)
    except (OSError, ValueError) as error:
        raise SegmentError(f"the worker's memory cannot be mapped: {error}") from error


def _map(fd: int, nbytes: int) -> mmap.mmap:
    """Maps a file, on huge pages where the system gives them to shared memory that asks."""
    memory = mmap.mmap(fd, nbytes)
    if nbytes >= WORTH_HUGE_PAGES_NBYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        whole = nbytes // HUGE_PAGE_NBYTES * HUGE_PAGE_NBYTES
        with suppress(OSError):  # this kernel has no huge pages
            memory.madvise(mmap.MADV_HUGEPAGE, 0, whole)
    return memory


def _pages(nbytes: int) -> int:
    return -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES
