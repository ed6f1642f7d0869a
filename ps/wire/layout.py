"""The layout of a model: its tensors as slots of one slab, cut into chunks, dealt to shards.

::

    slab   │ parameters f32 ┆ parameters f64 ┆ buffers f32 ┆ buffers f64 │
    slots  │ conv.w │ conv.b │ fc.w ...                                   │
    chunks │ 0      │ 1      │ 2 ...   (1 MiB at most; the last of a group is shorter)

Slots of one kind and dtype form a group, laid end to end in the order in which they were given;
each group begins at a multiple of 64 bytes. A chunk never crosses from one group into the next,
so it holds numbers of one dtype and one kind. It ends between two rows of a tensor where that can
be, since what is done to a whole row, such as limiting its norm, is done within a chunk.
"""

import bisect
import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgpack

from leash.ps.errors import LayoutError, shown

ALIGNMENT_NBYTES: Final = 64
DTYPE_NBYTES: Final = {"f32": 4, "f64": 8}
KINDS: Final = ("parameter", "buffer")
GROUPS: Final = tuple(itertools.product(KINDS, DTYPE_NBYTES))  # the order of groups in the slab

MAX_LAYOUT_NBYTES: Final = 1 << 20  # of the msgpack form, as `hello` carries it
MAX_SLOTS: Final = 1 << 16
MAX_NAME_LENGTH: Final = 512
MAX_DIMENSIONS: Final = 32
MAX_SLAB_NBYTES: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Slot:
    """One named tensor of a model.

    Attributes:
        name: unique in the layout, of 1 to 512 characters.
        dtype: "f32" or "f64", as the server keeps it.
        shape: as the tensor's; () for a scalar.
        kind: "parameter", which is pushed as a gradient; or "buffer", which is pushed as values, of
            which the newest win.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str = "parameter"

    @property
    def values(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes of a slab the tensor takes."""
        return self.values * DTYPE_NBYTES[self.dtype]

    @property
    def row_values(self) -> int:
        """How many numbers a row has; a tensor of less than two dimensions is one row."""
        return math.prod(self.shape[1:]) if len(self.shape) > 1 else self.values

    @property
    def row_nbytes(self) -> int:
        """How many bytes of a slab a row takes."""
        return self.row_values * DTYPE_NBYTES[self.dtype]

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape)) or "scalar"
        return f"{self.kind} {self.name} {self.dtype} {shape}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed range of the slab: the unit of transport, application, clock and deduplication.

    Attributes:
        index: the chunk's place among the layout's chunks, from 0, in the order of the slab.
        kind: "parameter" or "buffer", the kind of all slots in it.
        dtype: "f32" or "f64", the dtype of all slots in it.
        start: the offset of its first byte in the slab.
        values: how many numbers it holds.
    """

    index: int
    kind: str
    dtype: str
    start: int
    values: int

    @property
    def nbytes(self) -> int:
        """How many bytes of the slab the chunk takes."""
        return self.values * DTYPE_NBYTES[self.dtype]

    @property
    def stop(self) -> int:
        """The offset of the first byte in the slab that is behind the chunk."""
        return self.start + self.nbytes


class Piece(NamedTuple):
    """The part of one slot that lies in a chunk.

    Attributes:
        slot: the slot's number in the layout.
        start: the offset of the part's first byte in the slab.
        values: how many numbers it has.
    """

    slot: int
    start: int
    values: int


class Layout:
    """The ordered slots of a model, laid end to end in one flat array of bytes.

    Examples:
        >>> from leash.ps.wire.layout import Layout, Slot
        >>> layout = Layout([Slot("w", "f32", (10, 3)), Slot("mean", "f32", (3,), "buffer")])
        >>> layout.offsets, layout.nbytes
        ((0, 128), 140)

    Attributes:
        slots: the slots in the order of the slab.
        offsets: the byte offset of each slot in the slab.
        nbytes: the size of the slab, up to the end of the last slot.
    """

    def __init__(self, slots: Iterable[Slot]) -> None:
        """Orders the slots by group, and keeps their order within each group.

        Args:
            slots: the tensors of the model, 1 to 65,536 of them, each under a name of its own.

        Raises:
            LayoutError: two slots have one name, a dtype or kind is unknown, there is no value at
                all, or a size is beyond the limits.
        """
        given = tuple(slots)
        _check_slots(given)
        self.slots: Final = tuple(
            slot for group in GROUPS for slot in given if (slot.kind, slot.dtype) == group
        )
        self.offsets: Final = tuple(self._place())
        self.nbytes: Final = max(
            (o + s.nbytes for o, s in zip(self.offsets, self.slots, strict=True)), default=0
        )
        if not 1 <= self.nbytes <= MAX_SLAB_NBYTES:
            raise LayoutError(f"expected a slab of 1 to {MAX_SLAB_NBYTES} bytes, got {self.nbytes}")

    def _place(self) -> Iterable[int]:
        end, group = 0, None
        for slot in self.slots:
            if (slot.kind, slot.dtype) != group:
                group = (slot.kind, slot.dtype)
                end = -(-end // ALIGNMENT_NBYTES) * ALIGNMENT_NBYTES
            yield end
            end += slot.nbytes

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the msgpack form, in hex: the layout's name."""
        return hashlib.sha256(self.pack()).hexdigest()

    def cut(self, chunk_nbytes: int) -> tuple[Chunk, ...]:
        """Cuts the slab into chunks.

        Args:
            chunk_nbytes: the most that a chunk has; a multiple of 64.

        Returns:
            The chunks in the order of the slab. None of them crosses from one group of slots, those
            of one kind and dtype, into the next. Each is as long as may be; but if it would end in
            the middle of a row, it ends at the last multiple of 64 bytes before that at which a row
            of the same slot begins, provided that a chunk can hold such a row and there is one.
        """
        assert chunk_nbytes > 0
        assert chunk_nbytes % ALIGNMENT_NBYTES == 0
        chunks: list[Chunk] = []
        for kind, dtype in GROUPS:
            start, stop = self._group_range(kind, dtype)
            while start < stop:
                end = self._chunk_end(start, chunk_nbytes) if stop - start > chunk_nbytes else stop
                values = (end - start) // DTYPE_NBYTES[dtype]
                chunks.append(Chunk(len(chunks), kind, dtype, start, values))
                start = end
        return tuple(chunks)

    def _chunk_end(self, start: int, chunk_nbytes: int) -> int:
        """Where a chunk ends that is not its group's last."""
        full = start + chunk_nbytes
        number = bisect.bisect_right(self.offsets, full) - 1
        row = self.slots[number].row_nbytes
        if row > chunk_nbytes:
            return full
        begun = full - (full - self.offsets[number]) % row  # the row in which it would end
        first = max(self.offsets[number], start + 1)
        # Whether a row begins at a multiple of 64 repeats itself after so many rows.
        for at in range(begun, first - 1, -row)[:ALIGNMENT_NBYTES]:
            if at % ALIGNMENT_NBYTES == 0:
                return at
        return full

    def divided(self, chunks: Iterable[Chunk]) -> frozenset[int]:
        """Finds the slots of which a row lies in two chunks.

        Args:
            chunks: into which this layout was cut.

        Returns:
            The slots' numbers.
        """
        found = set()
        for chunk in chunks:
            number = bisect.bisect_right(self.offsets, chunk.start) - 1
            slot, into = self.slots[number], chunk.start - self.offsets[number]
            if 0 < into < slot.nbytes and into % slot.row_nbytes:
                found.add(number)
        return frozenset(found)

    def _group_range(self, kind: str, dtype: str) -> tuple[int, int]:
        members = [
            (offset, offset + slot.nbytes)
            for offset, slot in zip(self.offsets, self.slots, strict=True)
            if (slot.kind, slot.dtype) == (kind, dtype)
        ]
        return (members[0][0], members[-1][1]) if members else (0, 0)

    def pieces(self, chunk: Chunk) -> list[Piece]:
        """Finds the slots that have a part in a chunk.

        Args:
            chunk: one of this layout's chunks.

        Returns:
            Their parts, in the order in which they lie in the chunk; together they are all of it.
        """
        first = bisect.bisect_right(self.offsets, chunk.start) - 1
        pieces, width = [], DTYPE_NBYTES[chunk.dtype]
        for number in range(first, bisect.bisect_left(self.offsets, chunk.stop)):
            begin = max(self.offsets[number], chunk.start)
            end = min(self.offsets[number] + self.slots[number].nbytes, chunk.stop)
            if end > begin:
                pieces.append(Piece(number, begin, (end - begin) // width))
        return pieces

    def slot_at(self, chunk: Chunk, index: int) -> Slot:
        """Finds the slot to which one number of a chunk belongs.

        Args:
            chunk: one of this layout's chunks.
            index: of the number within the chunk, from 0.

        Returns:
            That slot.
        """
        at = chunk.start + index * DTYPE_NBYTES[chunk.dtype]
        for offset, slot in zip(self.offsets, self.slots, strict=True):
            if offset <= at < offset + slot.nbytes:
                return slot
        raise AssertionError(f"value {index} of chunk {chunk.index} lies in no slot")

    def first_difference(self, other: "Layout") -> str | None:
        """Says in words in which slot another layout differs from this one first.

        Args:
            other: the layout to compare with this one.

        Returns:
            The slot's position, what this layout has there, and what the other has; None if the two
            are the same.
        """
        pairs = itertools.zip_longest(self.slots, other.slots)
        for position, (mine, theirs) in enumerate(pairs):
            if mine != theirs:
                return f"slot {position}: expected {mine or 'none'}, got {theirs or 'none'}"
        return None

    def pack(self) -> bytes:
        """Writes the layout as msgpack.

        Returns:
            A list of [name, dtype, shape, kind], packed; `hello` and `welcome` carry it.
        """
        rows = [[s.name, s.dtype, list(s.shape), s.kind] for s in self.slots]
        packed: bytes = msgpack.packb(rows)
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> "Layout":
        """Reads what `pack` wrote, and doubts it, since a peer may have sent it.

        Args:
            data: the layout as msgpack, of at most 1 MiB.

        Returns:
            The layout.

        Raises:
            LayoutError: `data` is anything but a well-formed layout, with its slots in the order of
                the groups.
        """
        if len(data) > MAX_LAYOUT_NBYTES:
            raise LayoutError(
                f"expected a layout of at most {MAX_LAYOUT_NBYTES} bytes, got {len(data)}"
            )
        try:
            rows = msgpack.unpackb(
                data,
                max_array_len=MAX_SLOTS,
                max_map_len=0,
                max_ext_len=0,
                max_bin_len=0,
                max_str_len=4 * MAX_NAME_LENGTH,
            )
        except (ValueError, msgpack.UnpackException) as error:
            raise LayoutError(f"expected a layout in msgpack: {error}") from error
        if not isinstance(rows, list):
            raise LayoutError(f"expected a list of slots, got {type(rows).__name__}")
        layout = cls(_slot_from_row(row) for row in rows)
        if layout.pack() != data:
            raise LayoutError(
                "expected slots in the order of their groups, in the shortest msgpack form"
            )
        return layout


def assign(chunks: Sequence[Chunk], shards: int) -> list[int]:
    """Deals chunks to shards; gives the number of each shard's first chunk.

    Shard k begins behind the chunks whose middle lies within the first k/shards of all bytes, but
    not before chunk 1: chunk 0 is shard 0's. A shard may be left without any.
    """
    ends = list(itertools.accumulate(chunk.nbytes for chunk in chunks))
    middles = [2 * end - chunk.nbytes for chunk, end in zip(chunks, ends, strict=True)]  # doubled
    # Only whole numbers, so that every process gets the same result.
    cuts = (2 * k * ends[-1] // shards for k in range(1, shards))
    return [0, *(max(1, bisect.bisect_right(middles, cut)) for cut in cuts)]


def _slot_from_row(row: Any) -> Slot:
    match row:
        case [str(name), str(dtype), list(shape), str(kind)]:
            if len(shape) <= MAX_DIMENSIONS and all(type(n) is int and n >= 0 for n in shape):
                return Slot(name, dtype, tuple(shape), kind)
    raise LayoutError(f"expected [name, dtype, shape, kind], got {shown(row)}")


def _check_slots(slots: tuple[Slot, ...]) -> None:
    if not 1 <= len(slots) <= MAX_SLOTS:
        raise LayoutError(f"expected 1 to {MAX_SLOTS} slots, got {len(slots)}")
    seen: set[str] = set()
    for slot in slots:
        if not 1 <= len(slot.name) <= MAX_NAME_LENGTH:
            raise LayoutError(
                f"expected a name of 1 to {MAX_NAME_LENGTH} characters, got {slot.name!r:.80}"
            )
        if slot.name in seen:
            raise LayoutError(f"slot {slot.name}: there are two of this name")
        if slot.dtype not in DTYPE_NBYTES:
            raise LayoutError(f"slot {slot.name}: expected dtype f32 or f64, got {slot.dtype!r}")
        if slot.kind not in KINDS:
            raise LayoutError(
                f"slot {slot.name}: expected kind parameter or buffer, got {slot.kind!r}"
            )
        if len(slot.shape) > MAX_DIMENSIONS:
            raise LayoutError(
                f"slot {slot.name}: expected at most {MAX_DIMENSIONS} dimensions, "
                f"got {len(slot.shape)}"
            )
        seen.add(slot.name)
