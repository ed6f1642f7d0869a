"""Writes a checkpoint's file while its bytes come, in the order of the model's slab.

::

    slab of parameters     ▪▪▪▪▪▪▪▪▪▪▪▪▫▫▫▫▫▫     what has come
    slab of momentum       ▪▪▪▪▪▪▪▪▪▪▪▪▫▫▫▫▫▫
                            │      │
    file   header  b  momentum/b  ...  w          each tensor has its place from the beginning

The header has the checksum of every tensor, so it is written last. Its size does not depend on
them. It is that of a safetensors file::

    nbytes of the header   u64, little-endian
    header                 JSON: "__metadata__", and for each tensor its dtype, shape and place;
                           spaces behind it, so that the tensors begin at a multiple of 8
    tensors                those of the widest dtype first, then by name, without gaps

The safetensors library reads it, and would have written the same. This module imports little: the
process that writes checkpoints begins with it.
"""

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview
DTYPES: Final = {"f64": "F64", "f32": "F32"}  # the layout's name ▸ the format's
ITEM_NBYTES: Final = {"f64": 8, "f32": 4}
_ALIGNED_TO: Final = 8
_NO_CHECKSUM: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file: its name, its dtype as a layout has it, and its shape."""

    name: str
    dtype: str
    shape: Sequence[int]

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return ITEM_NBYTES[self.dtype] * math.prod(self.shape)


def places_of(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Says where each tensor begins, in bytes behind the header; name ▸ place, in their order."""
    places, offset = {}, 0
    for tensor in sorted(tensors, key=lambda t: (-ITEM_NBYTES[t.dtype], t.name)):
        places[tensor.name] = offset
        offset += tensor.nbytes
    return places


def head_of(tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> bytes:
    """Gives everything that stands before the tensors.

    Args:
        tensors: all of the file, in any order.
        metadata: goes into the header.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, place in places_of(tensors).items():
        tensor = by_name[name]
        entries[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNED_TO)
    return struct.pack("<Q", len(header)) + header


class Target(Protocol):
    """A file of which any part can be written."""

    def write_at(self, offset: int, piece: Bytes) -> None:
        """Writes all of the piece there. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint's file will hold.

    Attributes:
        metadata: of the file, without the checksums.
        arrays: of the parameters and of each buffer of the optimizer, the tensors in the order of
            the slab, each with the place in the slab at which it begins.
    """

    metadata: Mapping[str, str]
    arrays: Sequence[Sequence[tuple[Tensor, int]]]

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the file."""
        return [tensor for array in self.arrays for tensor, _ in array]

    def as_json(self) -> str:
        """A form in which it can be handed to another process."""
        arrays = [[[t.name, t.dtype, list(t.shape), start] for t, start in a] for a in self.arrays]
        return json.dumps({"metadata": dict(self.metadata), "arrays": arrays})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Plan":
        """Reads it again."""
        told = json.loads(text)
        return cls(
            told["metadata"],
            [[(Tensor(*tensor), start) for *tensor, start in array] for array in told["arrays"]],
        )


class _Entry:
    """A tensor, where it is in the slab and in the file, and its checksum so far."""

    def __init__(self, tensor: Tensor, start: int, place: int) -> None:
        self.name: Final = tensor.name
        self.start: Final = start
        self.stop: Final = start + tensor.nbytes
        self.place: Final = place
        self.digest: Final = hashlib.sha256()


class CheckpointFile:
    """Puts the bytes of slabs into their places in the file."""

    def __init__(self, plan: Plan, target: Target) -> None:
        """Begins with nothing.

        Args:
            plan: what the file will hold.
            target: the file.
        """
        self._plan: Final = plan
        self._target: Final = target
        self._begins_at: Final = len(self._head(dict.fromkeys(_names(plan), _NO_CHECKSUM)))
        places = places_of(plan.tensors)
        self._arrays: Final = [
            [_Entry(tensor, start, places[tensor.name]) for tensor, start in array]
            for array in plan.arrays
        ]
        self._at: Final = [0] * len(self._arrays)  # the entry at which each array goes on

    def write(self, array: int, start: int, piece: Bytes) -> None:
        """Writes the next bytes of a slab.

        Args:
            array: whose slab.
            start: where in the slab they are. REQUIRES: not before what has come of this array.
            piece: the bytes.
        """
        view = memoryview(piece)
        stop, entries, at = start + len(view), self._arrays[array], self._at[array]
        while at < len(entries) and entries[at].start < stop:
            entry = entries[at]
            first, last = max(start, entry.start), min(stop, entry.stop)
            if first < last:
                part = view[first - start : last - start]
                entry.digest.update(part)
                place = self._begins_at + entry.place + first - entry.start
                self._target.write_at(place, part)
            if entry.stop > stop:
                break
            at += 1
        self._at[array] = at

    def finish(self) -> None:
        """Writes the header. REQUIRES: all bytes of all tensors have come."""
        left = [e for a, at in zip(self._arrays, self._at, strict=True) for e in a[at:]]
        assert all(entry.start == entry.stop for entry in left), "bytes are missing"
        sums = {e.name: e.digest.hexdigest() for entries in self._arrays for e in entries}
        self._target.write_at(0, self._head(sums))

    def _head(self, checksums: Mapping[str, str]) -> bytes:
        metadata = {**self._plan.metadata, "checksums": json.dumps(checksums)}
        metadata["header_checksum"] = header_checksum(metadata)
        return head_of(self._plan.tensors, metadata)


def header_checksum(metadata: Mapping[str, Any]) -> str:
    """The checksum of all entries of the metadata but itself."""
    entries = {name: value for name, value in metadata.items() if name != "header_checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def _names(plan: Plan) -> list[str]:
    return [tensor.name for tensor in plan.tensors]
