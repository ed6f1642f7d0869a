"""A file whose head is made before its tensors are there is the one that the library writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from safetensors import safe_open
from safetensors.numpy import load, save

from leash.ps.runs.checkpoint_file import Tensor, head_of, places_of

Tensors = dict[str, npt.NDArray[Any]]

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
shapes = some.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
dtypes = st.sampled_from([np.dtype("<f4"), np.dtype("<f8")])
values = dtypes.flatmap(lambda dtype: some.arrays(dtype, shapes))
metadata = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.text(max_size=20))


DTYPES = {"float32": "f32", "float64": "f64"}


def content_of(tensors: Tensors, told: dict[str, str]) -> bytes:
    """The whole file."""
    kinds = [Tensor(name, DTYPES[t.dtype.name], t.shape) for name, t in tensors.items()]
    places, body = places_of(kinds), bytearray(sum(t.nbytes for t in tensors.values()))
    for name, tensor in tensors.items():
        body[places[name] : places[name] + tensor.nbytes] = tensor.tobytes()
    return head_of(kinds, told) + body


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a file."""
    nbytes = int.from_bytes(content[:8], "little")
    assert (8 + nbytes) % 8 == 0
    return json.loads(content[8 : 8 + nbytes]), content[8 + nbytes :]


@given(tensors=st.dictionaries(names, values, min_size=1, max_size=5), told=metadata)
def test_it_is_what_the_library_writes(tensors: Tensors, told: dict[str, str]) -> None:
    written = content_of(tensors, told)
    assert split(written) == split(save(tensors, told))
    read = load(written)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert read[name].tobytes() == tensor.tobytes()


def test_the_library_reads_its_metadata(tmp_path: Path) -> None:
    told = {"a": 'ä\n"quoted"', "b": ""}
    (tmp_path / "f").write_bytes(content_of({"w": np.ones(3, np.float32)}, told))
    with safe_open(tmp_path / "f", framework="numpy") as file:
        assert file.metadata() == told
