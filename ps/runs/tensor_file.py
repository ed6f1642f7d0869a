"""Writes a safetensors file piece by piece, so that its tensors need not be copied together first.

::

    nbytes of the header   u64, little-endian
    header                 JSON: "__metadata__", and for each tensor its dtype, shape and place;
                           spaces behind it, so that the tensors begin at a multiple of 8
    tensors                those of the widest dtype first, then by name, without gaps

The safetensors library reads it, and would have written the same.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

DTYPES: Final = {"<f8": "F64", "<f4": "F32"}  # numpy's name ▸ the format's
_ALIGNED_TO: Final = 8


def pieces_of(
    tensors: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Gives the content of the file in pieces: the header, then each tensor where it lies.

    Args:
        tensors: f32 or f64, contiguous and little-endian.
        metadata: goes into the header.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[tensor.dtype.str],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % _ALIGNED_TO)
    yield struct.pack("<Q", len(header)) + header
    for name in names:
        yield bytes_of(tensors[name])


def bytes_of(tensor: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous tensor, where they lie."""
    assert tensor.flags.c_contiguous
    return tensor.reshape(-1).view(np.uint8).data
