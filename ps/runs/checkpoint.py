"""Checkpoints: the parameters in safetensors, under the names of the model's slots.

::

    metadata  leash_format = "1"; version = the largest over the chunks; optimizer = its name;
              updates = how many each slot has seen; layout = the layout's msgpack form in hex;
              layout_hash = its SHA-256
    tensors   SLOT         parameters and buffers
              STATE/SLOT   the optimizer's buffers, once they have begun, such as momentum/SLOT

docs/checkpoint-format.md is the contract. A file is written beside its place and then moved there,
so that a reader always finds a whole file, the old one or the new one.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from leash.ps._core import Reply
from leash.ps.errors import CheckpointError, LayoutError
from leash.ps.wire.layout import Chunk, Layout, Slot

FORMAT: Final = "1"
# The mend for a buffer in the file that the run's optimizer does not have.
MENDS: Final = {
    "momentum": "give --momentum",
    "max_exp_avg_sq": "give --amsgrad",
    "exp_avg": "give --optimizer adam",
    "exp_avg_sq": "give --optimizer adam",
    "sum": "give --optimizer adagrad",
    "dc_mean_square": "give --delay-compensation adaptive",
}
NUMPY_DTYPES: Final[dict[str, Any]] = {"f32": np.dtype("<f4"), "f64": np.dtype("<f8")}

Slab = npt.NDArray[np.uint8]


class ChunkStore(Protocol):
    """A shard that holds a chunk's numbers, in this process or in another one."""

    def init(self, chunk: int, payload: Any, /) -> bool: ...
    def pull(self, chunk: int, worker: None, out: Any, /) -> tuple[int, list[Reply]]: ...
    def set_version(self, chunk: int, version: int, /) -> None: ...
    def has_state(self, chunk: int, /) -> bool: ...
    def state(self, chunk: int, name: str, out: Any, /) -> None: ...
    def load_state(self, chunk: int, name: str, payload: Any, /) -> None: ...
    def updates(self, chunk: int, /) -> list[int]: ...
    def set_updates(self, chunk: int, updates: list[int], /) -> None: ...


class WholeModel(Protocol):
    """A model whose chunks can all be read and written, wherever they are."""

    @property
    def layout(self) -> Layout: ...
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def state_names(self) -> list[str]: ...
    def shard_of(self, chunk: int) -> ChunkStore: ...


M = TypeVar("M", bound=WholeModel)


def save_checkpoint(model: WholeModel, path: Path) -> None:
    """Writes the parameters, the buffers and the optimizer's own buffers to `path`, atomically."""
    slab = np.zeros(model.layout.nbytes, np.uint8)
    versions = [
        model.shard_of(c.index).pull(c.index, None, slab[c.start : c.stop].data)[0]
        for c in model.chunks
    ]
    tensors = dict(tensors_of(model.layout, slab))
    # A chunk of which no slot has had a gradient yet has none; what it would begin with is saved.
    if any(model.shard_of(c.index).has_state(c.index) for c in _parameter_chunks(model)):
        for state in model.state_names:
            tensors.update(_state_tensors(model, state))
    metadata = {
        "leash_format": FORMAT,
        "version": str(max(versions)),
        "updates": " ".join(map(str, _updates_of(model))),
        "optimizer": model.optimizer,
        "layout_hash": model.layout.hash,
        "layout": model.layout.pack().hex(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    save_file(tensors, unfinished, metadata)
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)


def open_checkpoint(path: str, optimizer: str, serve: Callable[[Layout], M]) -> M:
    """Makes a model with the values that the checkpoint at `path` holds.

    Args:
        path: of the file.
        optimizer: the run's own, whose buffers the checkpoint may hold.
        serve: makes a model of that layout.

    Raises:
        CheckpointError: there is no such file, or it is no whole checkpoint; the text is one line.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("leash_format") != FORMAT:
                raise CheckpointError(
                    f"--resume {path}: not a checkpoint of Leash, format {FORMAT}"
                )
            layout = Layout.unpack(bytes.fromhex(metadata.get("layout", "")))
            _check_optimizer(metadata, path, optimizer)
            model = serve(layout)
            version = _version_in(metadata)
            updates = _updates_in(metadata, len(layout.slots))
            _load(model, version, updates, file.keys(), file.get_tensor)
            return model
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"--resume {path}: there is no such file") from error
    except (SafetensorError, OSError, ValueError, LayoutError) as error:
        raise CheckpointError(f"--resume {path}: not a readable checkpoint: {error}") from error


def tensors_of(layout: Layout, slab: Slab) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Makes a tensor for every slot, as a view of the slab; name ▸ tensor."""
    for slot, offset in zip(layout.slots, layout.offsets, strict=True):
        flat = slab[offset : offset + slot.nbytes].view(NUMPY_DTYPES[slot.dtype])
        yield slot.name, flat.reshape(slot.shape)


def _state_tensors(model: WholeModel, state: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    slab = np.zeros(model.layout.nbytes, np.uint8)
    for chunk in _parameter_chunks(model):
        model.shard_of(chunk.index).state(chunk.index, state, slab[chunk.start : chunk.stop].data)
    kinds = {slot.name: slot.kind for slot in model.layout.slots}
    for name, tensor in tensors_of(model.layout, slab):
        if kinds[name] == "parameter":
            yield f"{state}/{name}", tensor


def _check_optimizer(metadata: dict[str, str], path: str, optimizer: str) -> None:
    name = metadata.get(
        "optimizer", "sgd"
    )  # files of before lack the name, since there was no other optimizer
    if name != optimizer:
        raise CheckpointError(
            f"--resume {path}: it is of --optimizer {name}, and this run has "
            f"{optimizer}; give --optimizer {name}"
        )


def _version_in(metadata: dict[str, str]) -> int:
    version = int(metadata.get("version", "0"))
    if not 0 <= version < 1 << 63:
        raise ValueError(f"version: expected a count, got {version}")
    return version


def _updates_of(model: WholeModel) -> list[int]:
    """How many updates each slot has seen; the most over its parts, where chunks divide it."""
    updates = [0] * len(model.layout.slots)
    for chunk in _parameter_chunks(model):
        counts = model.shard_of(chunk.index).updates(chunk.index)
        for piece, count in zip(model.layout.pieces(chunk), counts, strict=True):
            updates[piece.slot] = max(updates[piece.slot], count)
    return updates


def _updates_in(metadata: dict[str, str], slots: int) -> list[int] | None:
    """Reads the counts of all slots; None from a file of before, which has none."""
    if "updates" not in metadata:
        return None
    updates = [int(count) for count in metadata["updates"].split()]
    if len(updates) != slots or not all(0 <= count < 1 << 63 for count in updates):
        raise ValueError(f"updates: expected a count for each of {slots} slots")
    return updates


def _load(
    model: WholeModel,
    version: int,
    updates: list[int] | None,
    keys: list[str],
    read: Callable[[str], npt.NDArray[Any]],
) -> None:
    names = set(keys)
    values = _slab_of(model.layout, "", names, read)
    for chunk in model.chunks:
        model.shard_of(chunk.index).init(chunk.index, values[chunk.start : chunk.stop].data)
        model.shard_of(chunk.index).set_version(chunk.index, version)
    for state in _states_to_load(model, version, names):
        values = _slab_of(model.layout, state + "/", names, read)
        for chunk in _parameter_chunks(model):
            model.shard_of(chunk.index).load_state(
                chunk.index, state, values[chunk.start : chunk.stop].data
            )
    if updates is None:
        return
    for chunk in _parameter_chunks(model):
        counts = [updates[piece.slot] for piece in model.layout.pieces(chunk)]
        model.shard_of(chunk.index).set_updates(chunk.index, counts)


def _states_to_load(model: WholeModel, version: int, names: set[str]) -> list[str]:
    """The optimizer's buffers that the file must have: all of them, or none."""
    slots = {slot.name for slot in model.layout.slots}
    there = {name.split("/")[0] for name in names - slots}.intersection(MENDS)
    wanted = model.state_names
    for state in sorted(there.difference(wanted)):
        raise ValueError(f"it holds {state}, of which this run has none; {MENDS[state]}")
    # A chunk's buffer of sgd begins with its first update. Those of Adam and Adagrad must have seen
    # every update.
    if model.optimizer == "sgd":
        return [state for state in wanted if state in there]
    return [] if version == 0 and not there else wanted


def _slab_of(
    layout: Layout, prefix: str, names: set[str], read: Callable[[str], npt.NDArray[Any]]
) -> Slab:
    """Reads the values of all slots, or with a prefix of the parameters alone."""
    slab = np.zeros(layout.nbytes, np.uint8)
    views = dict(tensors_of(layout, slab))
    for slot in layout.slots:
        if not prefix or slot.kind == "parameter":
            views[slot.name][...] = _checked(slot, prefix + slot.name, names, read)
    return slab


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
