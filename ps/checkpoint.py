"""Checkpoints: the parameters in safetensors, under the names of the model's slots.

::

    metadata  leash_format = "1"; version = the smallest over the chunks; layout = the layout's
              msgpack form in hex; layout_hash = its SHA-256
    tensors   SLOT            parameters and buffers
              momentum/SLOT   the optimizer's momentum, where it has begun

docs/checkpoint-format.md is the contract. A file is written beside its place and then moved there,
so that whoever looks sees the old one or the new one, whole.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ps.errors import CheckpointError, LayoutError
from ps.layout import Chunk, Layout, Slot

FORMAT: Final = "1"
MOMENTUM: Final = "momentum/"
NUMPY_DTYPES: Final[dict[str, Any]] = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8")}

Slab = npt.NDArray[np.uint8]


class ChunkStore(Protocol):
    """Who holds a chunk's numbers: a shard of this process, or of another."""

    def init(self, chunk: int, payload: Any, /) -> bool: ...
    def pull(self, chunk: int, worker: None, out: Any, /) -> int: ...
    def has_momentum(self, chunk: int, /) -> bool: ...
    def momentum(self, chunk: int, out: Any, /) -> None: ...
    def load_momentum(self, chunk: int, payload: Any, /) -> None: ...


class WholeModel(Protocol):
    """A model of which all chunks can be reached."""

    @property
    def layout(self) -> Layout: ...
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...
    def shard_of(self, chunk: int) -> ChunkStore: ...


M = TypeVar("M", bound=WholeModel)


def save_checkpoint(model: WholeModel, path: Path) -> None:
    """Writes the model's parameters, buffers and momentum to `path`, atomically."""
    slab = np.zeros(model.layout.nbytes, np.uint8)
    versions = [
        model.shard_of(c.index).pull(c.index, None, slab[c.start : c.stop].data)
        for c in model.chunks
    ]
    tensors = dict(tensors_of(model.layout, slab))
    if all(model.shard_of(c.index).has_momentum(c.index) for c in _parameter_chunks(model)):
        tensors.update(_momentum_tensors(model))
    metadata = {
        "leash_format": FORMAT,
        "version": str(min(versions)),
        "layout_hash": model.layout.hash,
        "layout": model.layout.pack().hex(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished, metadata)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def open_checkpoint(path: str, serve: Callable[[Layout], M]) -> M:
    """A model with the values that the checkpoint at `path` holds.

    Args:
        serve: makes a model of that layout.

    Raises:
        CheckpointError: no such file, or not a whole checkpoint; the text is one line.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("leash_format") != FORMAT:
                raise CheckpointError(
                    f"--resume {path}: not a checkpoint of Leash, format {FORMAT}"
                )
            layout = Layout.unpack(bytes.fromhex(metadata.get("layout", "")))
            model = serve(layout)
            _load(model, file.keys(), file.get_tensor)
            return model
    except FileNotFoundError as error:
        raise CheckpointError(f"--resume {path}: there is no such file") from error
    except (SafetensorError, OSError, ValueError, LayoutError) as error:
        raise CheckpointError(f"--resume {path}: not a readable checkpoint: {error}") from error


def tensors_of(layout: Layout, slab: Slab) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Name ▸ tensor for every slot, as views of the slab."""
    for slot, offset in zip(layout.slots, layout.offsets, strict=True):
        flat = slab[offset : offset + slot.nbytes].view(NUMPY_DTYPES[slot.dtype])
        yield slot.name, flat.reshape(slot.shape)


def _momentum_tensors(model: WholeModel) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    slab = np.zeros(model.layout.nbytes, np.uint8)
    for chunk in _parameter_chunks(model):
        model.shard_of(chunk.index).momentum(chunk.index, slab[chunk.start : chunk.stop].data)
    kinds = {slot.name: slot.kind for slot in model.layout.slots}
    for name, tensor in tensors_of(model.layout, slab):
        if kinds[name] == "parameter":
            yield MOMENTUM + name, tensor


def _load(model: WholeModel, keys: list[str], read: Callable[[str], npt.NDArray[Any]]) -> None:
    slab = np.zeros(model.layout.nbytes, np.uint8)
    names = set(keys)
    views = dict(tensors_of(model.layout, slab))
    for slot in model.layout.slots:
        views[slot.name][...] = _checked(slot, slot.name, names, read)
    for chunk in model.chunks:
        model.shard_of(chunk.index).init(chunk.index, slab[chunk.start : chunk.stop].data)
    if not any(name.startswith(MOMENTUM) for name in names):
        return
    for slot in model.layout.slots:
        if slot.kind == "parameter":
            views[slot.name][...] = _checked(slot, MOMENTUM + slot.name, names, read)
    for chunk in _parameter_chunks(model):
        model.shard_of(chunk.index).load_momentum(chunk.index, slab[chunk.start : chunk.stop].data)


def _checked(
    slot: Slot, name: str, names: set[str], read: Callable[[str], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    if name not in names:
        raise ValueError(f"it has no {name}, which its layout names")
    tensor = read(name)
    if tensor.shape != slot.shape or tensor.dtype != NUMPY_DTYPES[slot.dtype]:
        raise ValueError(
            f"{name}: expected {slot.dtype} {slot.shape}, got {tensor.dtype} {tensor.shape}"
        )
    return tensor


def _parameter_chunks(model: WholeModel) -> list[Chunk]:
    return [chunk for chunk in model.chunks if chunk.kind == "parameter"]
