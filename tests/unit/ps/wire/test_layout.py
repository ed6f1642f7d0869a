import hashlib
import math

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import LayoutError, ProtocolError
from leash.ps.wire.layout import (
    DTYPE_NBYTES,
    KINDS,
    MAX_DIMENSIONS,
    MAX_NAME_LENGTH,
    MAX_SLAB_NBYTES,
    MAX_SLOTS,
    Chunk,
    Layout,
    Slot,
    assign,
)

CHUNK_NBYTES = 128  # small, so that small layouts have many

slots = st.lists(
    st.builds(
        Slot,
        st.text(min_size=1, max_size=3),
        st.sampled_from(list(DTYPE_NBYTES)),
        st.lists(st.integers(0, 9), max_size=3).map(tuple),
        st.sampled_from(KINDS),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda slot: slot.name,
)
layouts = slots.filter(lambda given: any(s.values for s in given)).map(Layout)


def naive_offsets(layout: Layout) -> list[int]:
    """Walks byte by byte, as the document says it."""
    offsets, at, group = [], 0, None
    for slot in layout.slots:
        if (slot.kind, slot.dtype) != group:
            group = (slot.kind, slot.dtype)
            while at % 64:
                at += 1
        offsets.append(at)
        at += math.prod(slot.shape) * {"f32": 4, "f64": 8}[slot.dtype]
    return offsets


@given(layouts)
def test_offsets_are_those_of_a_naive_model(layout: Layout) -> None:
    assert list(layout.offsets) == naive_offsets(layout)


@given(slots)
def test_slots_are_ordered_by_group_and_keep_their_order_within(given: list[Slot]) -> None:
    order = ["parameter f32", "parameter f64", "buffer f32", "buffer f64"]
    expected = sorted(given, key=lambda s: order.index(f"{s.kind} {s.dtype}"))
    if any(s.values for s in given):
        assert list(Layout(given).slots) == expected


@given(layouts)
def test_unpack_is_the_inverse_of_pack(layout: Layout) -> None:
    again = Layout.unpack(layout.pack())
    assert again.slots == layout.slots
    assert again.hash == hashlib.sha256(layout.pack()).hexdigest()
    assert layout.first_difference(again) is None


@given(layouts)
def test_chunks_cover_every_value_exactly_once(layout: Layout) -> None:
    covered = [
        (byte, chunk.kind, chunk.dtype)
        for chunk in layout.cut(CHUNK_NBYTES)
        for byte in range(chunk.start, chunk.stop, DTYPE_NBYTES[chunk.dtype])
    ]
    values = [
        (offset + n * DTYPE_NBYTES[slot.dtype], slot.kind, slot.dtype)
        for offset, slot in zip(layout.offsets, layout.slots, strict=True)
        for n in range(slot.values)
    ]
    assert covered == values


def rows_of(layout: Layout) -> list[tuple[int, range]]:
    """The bytes of every row, beside the number of its slot."""
    rows = []
    for number, (slot, begin) in enumerate(zip(layout.slots, layout.offsets, strict=True)):
        count = slot.shape[0] if len(slot.shape) >= 2 else 1
        for row in range(count if slot.values else 0):
            nbytes = slot.nbytes // count
            rows.append((number, range(begin + row * nbytes, begin + (row + 1) * nbytes)))
    return rows


@given(layouts)
def test_chunks_are_numbered_aligned_and_as_long_as_rows_allow(layout: Layout) -> None:
    chunks, rows = layout.cut(CHUNK_NBYTES), rows_of(layout)
    assert [c.index for c in chunks] == list(range(len(chunks)))
    for chunk, after in zip(chunks, (*chunks[1:], None), strict=True):
        assert chunk.start % 64 == 0
        assert 0 < chunk.nbytes <= CHUNK_NBYTES
        full = chunk.start + CHUNK_NBYTES
        if after is None or (after.kind, after.dtype) != (chunk.kind, chunk.dtype):
            continue
        ((slot, next_row),) = [(slot, row) for slot, row in rows if full in row]
        between = [
            row.start for owner, row in rows
            if owner == slot and chunk.start < row.start <= full and row.start % 64 == 0
        ]  # fmt: skip
        is_small = len(next_row) <= CHUNK_NBYTES
        assert chunk.stop == (max(between) if is_small and between else full)


@given(layouts)
def test_slots_of_which_a_row_lies_in_two_chunks_are_found(layout: Layout) -> None:
    chunks = layout.cut(CHUNK_NBYTES)
    expected = {
        slot for slot, row in rows_of(layout)
        if any(row.start < chunk.start <= row[-1] for chunk in chunks)
    }  # fmt: skip
    assert layout.divided(chunks) == expected


@pytest.mark.parametrize("width", [1, 3, 100, 300, 768, 1025])
def test_no_row_of_a_matrix_that_comes_first_is_divided(width: int) -> None:
    layout = Layout([Slot("embed", "f32", (5000, width)), Slot("b", "f32", (7,))])
    chunks = layout.cut(1 << 20)
    assert layout.divided(chunks) == set()
    assert len(chunks) <= 1.1 * layout.nbytes / (1 << 20) + 1


@given(layouts, st.data())
def test_slot_at_finds_the_slot_of_a_value(layout: Layout, data: st.DataObject) -> None:
    chunk = data.draw(st.sampled_from(layout.cut(CHUNK_NBYTES)))
    index = data.draw(st.integers(0, chunk.values - 1))
    slot = layout.slot_at(chunk, index)
    offset = layout.offsets[layout.slots.index(slot)]
    assert offset <= chunk.start + index * DTYPE_NBYTES[chunk.dtype] < offset + slot.nbytes


def test_the_first_slot_that_differs_is_named() -> None:
    ours = Layout([Slot("a", "f32", (2, 3)), Slot("b", "f32", ())])
    assert ours.first_difference(Layout([Slot("a", "f32", (2, 3)), Slot("b", "f32", (1,))])) == (
        "slot 1: expected parameter b f32 scalar, got parameter b f32 1"
    )
    assert ours.first_difference(Layout([Slot("a", "f32", (2, 3))])) == (
        "slot 1: expected parameter b f32 scalar, got none"
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([], "1 to 65536 slots"),
        ([Slot("a", "f32", (0, 5))], "slab of 1 to"),
        ([Slot("a", "f32", (MAX_SLAB_NBYTES // 4 + 1,))], "slab of 1 to"),
        ([Slot("a", "f32", (1,)), Slot("a", "f64", (1,))], "two of this name"),
        ([Slot("", "f32", (1,))], "1 to 512 characters"),
        ([Slot("x" * (MAX_NAME_LENGTH + 1), "f32", (1,))], "1 to 512 characters"),
        ([Slot("a", "f16", (1,))], "dtype f32 or f64, got 'f16'"),
        ([Slot("a", "f32", (1,), "king")], "parameter or buffer, got 'king'"),
        ([Slot("a", "f32", (1,) * (MAX_DIMENSIONS + 1))], "at most 32 dimensions, got 33"),
        ([Slot(str(n), "f32", (1,)) for n in range(MAX_SLOTS + 1)], "1 to 65536 slots"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_cannot_be_a_layout_is_refused(given: list[Slot], text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        Layout(given)


def test_slots_in_another_order_than_their_groups_are_refused() -> None:
    rows = [["m", "f32", [1], "buffer"], ["w", "f32", [1], "parameter"]]
    with pytest.raises(LayoutError, match="in the order of their groups"):
        Layout.unpack(msgpack.packb(rows))


def test_a_longer_form_of_the_same_layout_is_refused() -> None:
    packed = Layout([Slot("w", "f32", (1,))]).pack()
    longer = b"\xdc\x00\x01" + packed[1:]  # a 16 bit length, where 4 bits do
    assert msgpack.unpackb(longer) == msgpack.unpackb(packed)
    with pytest.raises(LayoutError, match="shortest msgpack form"):
        Layout.unpack(longer)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_as_a_layout(data: bytes) -> None:
    with pytest.raises(LayoutError):
        Layout.unpack(data)


@given(layouts, st.data())
def test_a_layout_with_flipped_bits_is_refused_or_one_of_another_name(
    layout: Layout, data: st.DataObject
) -> None:
    flipped = bytearray(layout.pack())
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = Layout.unpack(bytes(flipped))
    except ProtocolError:
        return
    assert other.pack() == bytes(flipped)
    assert other.hash != layout.hash


def chunks_of(*values: int) -> tuple[Chunk, ...]:
    return tuple(Chunk(i, "parameter", "f32", 0, n) for i, n in enumerate(values))


@pytest.mark.parametrize(
    ("values", "shards", "first_chunks"),
    [
        ([9] * 4, 1, [0]),
        ([9] * 4, 2, [0, 2]),
        ([9] * 4, 4, [0, 1, 2, 3]),
        ([9] * 5, 2, [0, 3]),  # the middle one lies on the border
        ([9, 9, 9, 9, 1], 2, [0, 2]),
        ([1, 1, 1, 9], 2, [0, 3]),
        ([9, 1], 2, [0, 1]),
        ([9], 3, [0, 1, 1]),  # chunk 0 is shard 0's, the others have none
        ([9, 9], 4, [0, 1, 1, 2]),
    ],
)
def test_chunks_are_shared_out_by_their_bytes(
    values: list[int], shards: int, first_chunks: list[int]
) -> None:
    assert assign(chunks_of(*values), shards) == first_chunks


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(1, 64))
def test_every_chunk_has_one_shard_and_no_shard_is_a_chunk_too_large(
    values: list[int], shards: int
) -> None:
    chunks = chunks_of(*values)
    first_chunks = assign(chunks, shards)
    ends = [*first_chunks[1:], len(chunks)]
    assert first_chunks[0] == 0
    assert first_chunks == sorted(first_chunks)
    assert len(first_chunks) == shards
    shares = [
        sum(c.nbytes for c in chunks[begin:end])
        for begin, end in zip(first_chunks, ends, strict=True)
    ]
    assert sum(shares) == sum(c.nbytes for c in chunks)
    largest = max(c.nbytes for c in chunks)
    assert max(shares) <= sum(shares) / shards + largest
