"""Checkpoints: all that a run needs to go on, in one safetensors file.

::

    metadata  leash_format = "2"
              version = the largest over the chunks; optimizer = its name
              layout = the layout's msgpack form in hex; layout_hash = its SHA-256
              chunks = version, clocks and counts of updates, chunk by chunk
              position = how far the training is; options = the newest of workers, if they gave any
              checksums = SHA-256 of each tensor; header_checksum = that of all these entries
    tensors   SLOT         parameters and buffers
              STATE/SLOT   the optimizer's buffers, once they have begun, such as momentum/SLOT

docs/checkpoint-format.md is the contract. A file is written beside its place and then moved there,
so that a reader always finds a whole file, the old one or the new one.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from leash.ps._core import Reply
from leash.ps.errors import CheckpointError, LayoutError
from leash.ps.runs.chunk_states import ChunkClocks, ChunkState, SavedChunks
from leash.ps.runs.disk import THIS_HOST, Disk
from leash.ps.runs.position import Position
from leash.ps.runs.tensor_file import bytes_of, pieces_of
from leash.ps.wire.layout import Chunk, Layout, Slot

FORMAT: Final = "2"
FORMERLY: Final = "1"  # it has neither chunks nor position nor checksums
# The mend for a buffer in the file that the run's optimizer does not have.
MENDS: Final = {
    "momentum": "give --momentum",
    "max_exp_avg_sq": "give --amsgrad",
    "exp_avg": "give --optimizer adam",
    "exp_avg_sq": "give --optimizer adam",
    "sum": "give --optimizer adagrad",
    "dc_mean_square": "give --delay-compensation adaptive",
}
UNREADABLE: Final = (
    SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, LayoutError,
)  # fmt: skip
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
    def chunk_nbytes(self) -> int: ...
    @property
    def chunks(self) -> tuple[Chunk, ...]: ...
    @property
    def optimizer(self) -> str: ...
    @property
    def state_names(self) -> list[str]: ...
    def shard_of(self, chunk: int) -> ChunkStore: ...
    def clocks(self, chunk: int) -> ChunkClocks: ...
    def begin_at(self, clock: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the file tells of the run that has written it.

    Attributes:
        path: of the file.
        version: how many updates its parameters had seen; the largest over the chunks.
        step: the one after which it goes on: that of all chunks, or else the largest clock.
        is_between_steps: whether all chunks are at the same step.
        position: how far the run was; None in a file of format 1.
    """

    path: str
    version: int
    step: int
    is_between_steps: bool
    position: Position | None


M = TypeVar("M", bound=WholeModel)


def save_checkpoint(
    model: WholeModel,
    path: Path,
    position: Position,
    options: dict[str, Any] | None = None,
    disk: Disk = THIS_HOST,
) -> SavedChunks:
    """Writes all that a run needs to go on to `path`, atomically.

    Args:
        model: whose numbers to write.
        path: of the file.
        position: how far the training is.
        options: of the optimizer, for people and programs that read the file.
        disk: where to write it.

    Returns:
        The state of the chunks that it has written.
    """
    slab = np.zeros(model.layout.nbytes, np.uint8)
    states = []
    for c in model.chunks:
        version = model.shard_of(c.index).pull(c.index, None, slab[c.start : c.stop].data)[0]
        updates = model.shard_of(c.index).updates(c.index) if c.kind == "parameter" else []
        states.append(ChunkState(version, model.clocks(c.index), updates))
    saved = SavedChunks(model.chunk_nbytes, states)
    tensors = dict(tensors_of(model.layout, slab))
    # A chunk of which no slot has had a gradient yet has none; what it would begin with is saved.
    if any(model.shard_of(c.index).has_state(c.index) for c in _parameter_chunks(model)):
        for state in model.state_names:
            tensors.update(_state_tensors(model, state))
    metadata = {
        "leash_format": FORMAT,
        "version": str(saved.version),
        "optimizer": model.optimizer,
        "layout_hash": model.layout.hash,
        "layout": model.layout.pack().hex(),
        "chunks": saved.as_json(),
        "position": position.as_json(),
        "checksums": json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()}),
    }
    if options is not None:
        metadata["options"] = json.dumps(options)
    metadata["header_checksum"] = _header_checksum(metadata)
    disk.make_folder(path.parent)
    disk.replace(path, pieces_of(tensors, metadata))
    return saved


def open_checkpoint(
    path: str, optimizer: str, serve: Callable[[Layout], M], disk: Disk = THIS_HOST
) -> tuple[M, Earlier]:
    """Makes a model with the values that the checkpoint at `path` holds.

    Args:
        path: of the file.
        optimizer: the run's own, whose buffers the checkpoint may hold.
        serve: makes a model of that layout.
        disk: where the file is.

    Returns:
        The model, and what the file tells of the run that has written it.

    Raises:
        CheckpointError: there is no such file, or it is no whole checkpoint; the text is one line.
    """
    if disk.is_folder(Path(path)):
        raise CheckpointError(f"--resume {path}: this is a folder; give a file in it")
    try:
        with disk.local_name(Path(path)) as name, safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            read = _reader(metadata, file.keys(), file.get_tensor)
            layout = Layout.unpack(bytes.fromhex(metadata.get("layout", "")))
            _check_optimizer(metadata, optimizer)
            model = serve(layout)
            saved = SavedChunks.of(metadata, model.layout, model.chunk_nbytes)
            _load(model, saved, file.keys(), read)
            told = metadata.get("position")
            position = None if told is None else Position.from_json(told)
    except FileNotFoundError as error:
        raise CheckpointError(f"--resume {path}: there is no such file") from error
    except CheckpointError as error:
        raise CheckpointError(f"--resume {path}: {error}") from error
    except UNREADABLE as error:
        raise CheckpointError(f"--resume {path}: not a readable checkpoint: {error}") from error
    model.begin_at(saved.step)
    return model, Earlier(path, saved.version, saved.step, saved.is_between_steps, position)


def check_checkpoint(path: Path, disk: Disk = THIS_HOST) -> dict[str, str]:
    """Reads a whole checkpoint, and compares what it holds with its checksums.

    Args:
        path: of the file.
        disk: where it is.

    Returns:
        Its metadata.

    Raises:
        CheckpointError: it is no checkpoint, or was damaged.
    """
    try:
        with disk.local_name(path) as name, safe_open(name, framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            read = _reader(metadata, file.keys(), file.get_tensor)
            for tensor in file.keys():  # noqa: SIM118 - it is no dict
                read(tensor)
            return metadata
    except UNREADABLE as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error


def newest_whole(
    checkpoints: Iterable[Path], say: Callable[[str], None], disk: Disk = THIS_HOST
) -> Path | None:
    """Finds the newest checkpoint that is whole, so that a run can go on from it.

    Args:
        checkpoints: of a run, the newest first.
        say: shows a line about each that is passed over.
        disk: where they are.

    Returns:
        Its path; None if there is none.
    """
    return next((path for path in checkpoints if _is_whole(path, say, disk)), None)


def _is_whole(path: Path, say: Callable[[str], None], disk: Disk) -> bool:
    try:
        check_checkpoint(path, disk)
    except CheckpointError as error:
        say(f"{error}; it is passed over")
        return False
    return True


def _reader(
    metadata: dict[str, str], names: list[str], read: Callable[[str], npt.NDArray[Any]]
) -> Callable[[str], npt.NDArray[Any]]:
    """Checks the header; gives what reads a tensor, and compares it with its checksum."""
    told = metadata.get("leash_format")
    if told == FORMERLY:
        return read
    if told != FORMAT:
        raise CheckpointError(f"not a checkpoint of Leash, format {FORMAT} or {FORMERLY}")
    if _header_checksum(metadata) != metadata.get("header_checksum"):
        raise ValueError("its header was changed since it was written; take another copy")
    checksums = json.loads(metadata["checksums"])
    if sorted(names) != sorted(checksums):
        raise ValueError("it has other tensors than its header tells; take another copy")

    def read_checked(name: str) -> npt.NDArray[Any]:
        tensor = read(name)
        if _checksum(tensor) != checksums.get(name):
            raise ValueError(f"{name} was changed since it was written; take another copy")
        return tensor

    return read_checked


def _checksum(tensor: npt.NDArray[Any]) -> str:
    return hashlib.sha256(bytes_of(np.ascontiguousarray(tensor))).hexdigest()


def _header_checksum(metadata: dict[str, str]) -> str:
    entries = {name: value for name, value in metadata.items() if name != "header_checksum"}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


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


def _check_optimizer(metadata: dict[str, str], optimizer: str) -> None:
    name = metadata.get(
        "optimizer", "sgd"
    )  # files of before lack the name, since there was no other optimizer
    if name != optimizer:
        raise CheckpointError(
            f"it is of --optimizer {name}, and this run has {optimizer}; give --optimizer {name}"
        )


def _load(
    model: WholeModel,
    saved: SavedChunks,
    keys: list[str],
    read: Callable[[str], npt.NDArray[Any]],
) -> None:
    names = set(keys)
    values = _slab_of(model.layout, "", names, read)
    counts = saved.for_model(model.layout, model.chunk_nbytes)
    for chunk, (version, _) in zip(model.chunks, counts, strict=True):
        model.shard_of(chunk.index).init(chunk.index, values[chunk.start : chunk.stop].data)
        model.shard_of(chunk.index).set_version(chunk.index, version)
    for state in _states_to_load(model, saved.version, names):
        values = _slab_of(model.layout, state + "/", names, read)
        for chunk in _parameter_chunks(model):
            model.shard_of(chunk.index).load_state(
                chunk.index, state, values[chunk.start : chunk.stop].data
            )
    for chunk in _parameter_chunks(model):
        model.shard_of(chunk.index).set_updates(chunk.index, counts[chunk.index][1])


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
