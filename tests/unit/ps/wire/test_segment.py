"""Segments: what is where, and everything that is not one."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from leash.ps.errors import SegmentError
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.segment import (
    NONCE_NBYTES,
    PAGE_NBYTES,
    SEALS,
    SegmentMap,
    create_segment,
    nonce_of,
    open_segment,
)

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
