"""Segments: what is where, and everything that is not one."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leash.ps.errors import SegmentError
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.segment import (
    HUGE_PAGE_NBYTES,
    NONCE_NBYTES,
    PAGE_NBYTES,
    SEALS,
    SegmentMap,
    create_segment,
    nonce_of,
    open_segment,
)

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
NBYTES = 3 * PAGE_NBYTES
NONCE = bytes(range(NONCE_NBYTES))


@pytest.fixture
def descriptor() -> Iterator[int]:
    fd, _ = create_segment(NBYTES, NONCE)
    yield fd
    os.close(fd)


def test_both_mappings_are_the_same_memory() -> None:
    fd, mine = create_segment(NBYTES, NONCE)
    theirs = open_segment(os.getpid(), fd, NBYTES)
    os.close(fd)
    assert nonce_of(theirs) == NONCE.hex()
    theirs[PAGE_NBYTES] = 7
    assert mine[PAGE_NBYTES] == 7


@pytest.mark.skipif(not HUGE_PAGES.exists(), reason="this kernel has no huge pages")
@pytest.mark.parametrize(("nbytes", "asks"), [(64_000_000, True), (1_000_000, False)])
def test_who_maps_a_large_segment_asks_for_huge_pages(nbytes: int, asks: bool) -> None:
    fd, mine = create_segment(nbytes, NONCE)
    theirs = open_segment(os.getpid(), fd, nbytes)
    file = os.fstat(fd).st_ino
    os.close(fd)
    flags: list[tuple[int, bool]] = []  # of each stretch of it in memory: its size, and whether
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            begin, end = (int(word, 16) for word in words[0].split("-"))
            size, is_ours = end - begin, words[4] == str(file)
        elif words[0] == "VmFlags:" and is_ours:
            flags.append((size, "hg" in words))
    advised = sum(size for size, is_advised in flags if is_advised)
    assert advised == (2 * (nbytes // HUGE_PAGE_NBYTES * HUGE_PAGE_NBYTES) if asks else 0)
    assert len(mine) == len(theirs) == nbytes


def test_a_segment_cannot_change_its_size(descriptor: int) -> None:
    for nbytes in (PAGE_NBYTES, 4 * PAGE_NBYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, nbytes)
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) == SEALS


@pytest.mark.parametrize("nbytes", [NBYTES - 1, NBYTES + PAGE_NBYTES, 1, 2**50])
def test_another_size_is_refused(descriptor: int, nbytes: int) -> None:
    with pytest.raises(SegmentError, match=rf"expected a segment of {nbytes} bytes, got {NBYTES}"):
        open_segment(os.getpid(), descriptor, nbytes)


@pytest.mark.parametrize("seals", [0, 2 | 4, 1 | 2, SEALS | 0x8, SEALS | 0x10])
def test_memory_that_could_change_underneath_is_refused(seals: int) -> None:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, NBYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        with pytest.raises(SegmentError, match="expected memory of a fixed size"):
            open_segment(os.getpid(), fd, NBYTES)
    finally:
        os.close(fd)


def test_what_is_gone_is_refused(descriptor: int) -> None:
    fd, _ = create_segment(NBYTES, NONCE)
    os.close(fd)
    with pytest.raises(SegmentError, match="cannot be opened here"):
        open_segment(os.getpid(), fd, NBYTES)
    with pytest.raises(SegmentError, match="cannot be opened here"):
        open_segment(2**31 - 1, descriptor, NBYTES)


def test_a_pipe_is_refused_unopened() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(SegmentError, match="another kind of file"):
            open_segment(os.getpid(), reader, NBYTES)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("values", [1, 3, 16384, 16385, 1_000_000])
def test_every_payload_has_room_in_the_outbox_and_none_overlap(values: int) -> None:
    slots = [Slot("a", "f32", (values,)), Slot("b", "f64", (5,)), Slot("m", "f32", (9,), "buffer")]
    layout = Layout(slots)
    places = SegmentMap(layout.nbytes, has_outbox=True)
    end = places.slab(1) + layout.nbytes
    for chunk in layout.cut(65536):
        begin = places.outbox(chunk.index, chunk.start)
        assert begin >= end
        end = begin + chunk.nbytes + 64  # more than any codec takes
    assert end <= places.states
    assert SegmentMap(layout.nbytes, has_outbox=False).states == places.slab(2)


@pytest.mark.parametrize("row", [1, 7, 40_000, 65_532, 65_536, 300_000])
def test_there_is_a_state_for_each_chunk_however_the_rows_lie(row: int) -> None:
    slots = [Slot(f"w{n}", "f32", (100, row // 4 or 1)) for n in range(3)]
    layout = Layout([*slots, Slot("m", "f64", (9,), "buffer")])
    places = SegmentMap(layout.nbytes, has_outbox=False)
    chunks = len(layout.cut(65536))
    assert places.states % 4096 == places.nbytes % 4096 == 0
    assert chunks * 8 <= places.nbytes - places.states
