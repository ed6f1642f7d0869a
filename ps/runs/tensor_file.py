"""The form of a safetensors file, whose header is known before any of its tensors is.

::

    nbytes of the header   u64, little-endian
    header                 JSON: "__metadata__", and for each tensor its dtype, shape and place;
                           spaces behind it, so that the tensors begin at a multiple of 8
    tensors                those of the widest dtype first, then by name, without gaps

The safetensors library reads it, and would have written the same. This module imports little: the
process that writes checkpoints begins with it.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

DTYPES: Final = {"f64": "F64", "f32": "F32"}  # the layout's name ▸ the format's
ITEM_NBYTES: Final = {"f64": 8, "f32": 4}
_ALIGNED_TO: Final = 8


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
