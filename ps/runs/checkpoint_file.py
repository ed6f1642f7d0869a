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

import errno
import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
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


# On this host.

# So much is written before it is forced to the disk. Otherwise the system would keep gigabytes to
# write, and hold up everybody else's writes on this host.
FORCED_NBYTES: Final = 64 << 20


def unfinished(path: Path) -> Path:
    """The name under which a file is written before it takes its place."""
    return path.with_name(path.name + ".unfinished")


def memory_file() -> int:
    """Makes an empty file in memory, without a name; gives its descriptor."""
    return os.memfd_create("leash-checkpoint", os.MFD_CLOEXEC)


class HostFile:
    """An open file of this host."""

    def __init__(self, fd: int) -> None:
        """Takes over a file descriptor."""
        self._fd: Final = fd
        self.nbytes: Final = os.fstat(fd).st_size

    def read(self, offset: int, nbytes: int) -> bytes:
        return os.pread(self._fd, nbytes, offset)

    def close(self) -> None:
        os.close(self._fd)


class HostTarget:
    """A file that is written beside its places, any part of it, and moved there at the end.

    Its methods raise OSError, but for `discard`.
    """

    def __init__(self, paths: Sequence[Path], memory: int | None = None) -> None:
        """Opens nothing yet.

        Args:
            paths: the places of the file; none for a file in memory.
            memory: the descriptor of such a file, which somebody else has made and keeps.
        """
        self._paths: Final = list(paths)
        self._memory: Final = memory
        self._fd: int | None = None
        self._unforced_nbytes = 0

    def open(self) -> None:
        """Makes the folder where it is not there, and begins an empty file."""
        if not self._paths:
            self._fd = memory_file() if self._memory is None else os.dup(self._memory)
            return
        beside = unfinished(self._paths[-1])
        beside.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(beside, flags, 0o666)

    def write_at(self, offset: int, piece: bytes | bytearray | memoryview) -> None:
        """Writes all of a piece."""
        assert self._fd is not None
        rest = memoryview(piece)
        while rest:
            count = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[count:], offset + count
            self._unforced_nbytes += count
        if self._unforced_nbytes >= FORCED_NBYTES and self._paths:
            self._unforced_nbytes = 0
            os.fdatasync(self._fd)

    def finish(self) -> None:
        """Forces the file to the disk, and moves it to its places."""
        if not self._paths:
            if self._memory is not None:
                self._close()
            return
        assert self._fd is not None
        os.fsync(self._fd)
        beside = unfinished(self._paths[-1])
        if not self._is_still(beside):  # it was given up meanwhile, as while the disk hung
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(beside))
        for path in self._paths[:-1]:
            _name_also(beside, unfinished(path))
            unfinished(path).replace(path)
        beside.replace(self._paths[-1])
        self._close()

    def reopen(self) -> HostFile:
        """Opens the finished file to read from."""
        if self._paths:
            return HostFile(os.open(self._paths[-1], os.O_RDONLY | os.O_CLOEXEC))
        assert self._fd is not None
        return HostFile(os.dup(self._fd))

    def discard(self) -> None:
        """Lets the file go, and removes what is not finished; nothing is left to do after that."""
        for path in self._paths if self._fd is not None else ():
            with suppress(OSError):  # where nothing can be written, there may be nothing to unlink
                if self._is_still(unfinished(path)):
                    unfinished(path).unlink()
        self._close()

    def _is_still(self, path: Path) -> bool:
        """Whether this name is still that of our file: others may have taken its place."""
        assert self._fd is not None
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _name_also(path: Path, other: Path) -> None:
    """Gives a file a second name, or a copy where a file can have only one."""
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)
        with other.open("rb") as copy:
            os.fsync(copy.fileno())
