from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from ps.checkpoint import open_checkpoint, save_checkpoint
from ps.config import ServerConfig
from ps.errors import CheckpointError
from ps.layout import Layout, Slot
from ps.model import ServedModel
from ps.policy import choose_rule

RULE = choose_rule("asp", None)
LAYOUT = Layout(
    [
        Slot("w", "f32", (300, 100)),  # two chunks of 64 KiB
        Slot("b", "f32", ()),
        Slot("d", "f64", (3,)),
        Slot("mean", "f32", (5,), "buffer"),
    ]
)
CONFIG = ServerConfig(lr=0.5, momentum=0.9, chunk_kib=64)


def model_of(layout: Layout, config: ServerConfig) -> ServedModel:
    return ServedModel(layout, config.chunk_kib * 1024, config, RULE)


def trained_model(config: ServerConfig = CONFIG, steps: int = 2) -> ServedModel:
    """Counts up as first values, then some steps."""
    model = model_of(LAYOUT, config)
    values = np.arange(40_000)
    for chunk in model.chunks:
        model.shard.init(chunk.index, values[: chunk.values].astype(_dtype(chunk.dtype)).tobytes())
    model.shard.join(1, 0)
    for step in range(1, steps + 1):
        for chunk in model.chunks:
            gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
            model.shard.push(chunk.index, 1, step, 1, bytearray(gradient.tobytes()), True)
    return model


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype({"f32": "<f4", "f64": "<f8"}[name])


def bytes_of(model: ServedModel) -> list[bytes]:
    """All parameters, buffers and, where there is any, momentum."""
    found = []
    for chunk in model.chunks:
        out = bytearray(chunk.nbytes)
        model.shard.pull(chunk.index, None, out)
        found.append(bytes(out))
        if model.shard.has_momentum(chunk.index):
            model.shard.momentum(chunk.index, out)
            found.append(bytes(out))
    return found


def resumed(path: Path, config: ServerConfig = CONFIG) -> ServedModel:
    return open_checkpoint(str(path), lambda layout: model_of(layout, config))


def test_a_checkpoint_brings_back_parameters_buffers_and_momentum(tmp_path: Path) -> None:
    model = trained_model()
    save_checkpoint(model, tmp_path / "deep" / "m.safetensors")
    again = resumed(tmp_path / "deep" / "m.safetensors")
    assert again.layout.slots == LAYOUT.slots
    assert again.initialized
    assert bytes_of(again) == bytes_of(model)
    assert len(bytes_of(again)) == 2 * 3 + 1  # every chunk has momentum but the buffer's


def test_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    save_checkpoint(trained_model(steps=2), tmp_path / "m.safetensors")
    again = resumed(tmp_path / "m.safetensors")
    again.shard.join(1, 0)
    for chunk in again.chunks:
        gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
        again.shard.push(chunk.index, 1, 1, 1, bytearray(gradient.tobytes()), True)
    assert bytes_of(again) == bytes_of(trained_model(steps=3))


def test_another_size_of_chunks_reads_the_same_values(tmp_path: Path) -> None:
    save_checkpoint(trained_model(), tmp_path / "m.safetensors")
    again = resumed(tmp_path / "m.safetensors", replace(CONFIG, chunk_kib=1024))
    assert b"".join(bytes_of(again)[:1]).startswith(bytes_of(trained_model())[0])


def test_the_file_holds_tensors_by_the_names_of_the_slots(tmp_path: Path) -> None:
    save_checkpoint(trained_model(), tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {
        "w": (300, 100), "b": (), "d": (3,), "mean": (5,),
        "momentum/w": (300, 100), "momentum/b": (), "momentum/d": (3,),
    }  # fmt: skip
    assert tensors["momentum/w"][0, 0] == np.float32(0.25 * 1.9)  # as torch.optim.SGD has it
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, momentum=0.0)])
def test_before_the_first_update_and_without_momentum_there_is_none(
    tmp_path: Path, config: ServerConfig
) -> None:
    steps = 0 if config.momentum else 2
    model = trained_model(config, steps)
    save_checkpoint(model, tmp_path / "m.safetensors")
    assert not [name for name in load_file(tmp_path / "m.safetensors") if "momentum" in name]
    assert bytes_of(resumed(tmp_path / "m.safetensors", config)) == bytes_of(model)


def assert_refused(path: Path, text: str, config: ServerConfig = CONFIG) -> None:
    """In one line."""
    with pytest.raises(CheckpointError, match=text) as raised:
        resumed(path, config)
    assert "\n" not in str(raised.value)


def test_no_file_is_one_line(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "none.safetensors: there is no such file")


def test_a_folder_is_one_line(tmp_path: Path) -> None:
    assert_refused(tmp_path, "--resume")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 2000, -1])
def test_a_truncated_file_is_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(trained_model(), path)
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(path, "not a readable checkpoint")


def test_safetensors_of_somebody_else_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path)
    assert_refused(path, "not a checkpoint of Leash, format 1")


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"w": np.zeros(3, np.float32)}, "w: expected f32"),
        ({"other": np.zeros((2, 2), np.float32)}, "has no w"),
        ({"w": np.zeros((2, 2), np.float64)}, "w: expected f32"),
        ({"w": np.zeros((2, 2), np.float32), "momentum/v": np.zeros(1)}, "has no momentum/w"),
    ],
)
def test_tensors_that_are_not_the_layouts_are_one_line(
    tmp_path: Path, tensors: dict[str, npt.NDArray[Any]], text: str
) -> None:
    path = tmp_path / "m.safetensors"
    layout = Layout([Slot("w", "f32", (2, 2))]).pack().hex()
    save_file(tensors, path, {"leash_format": "1", "layout": layout, "version": "0"})
    assert_refused(path, text)


def test_momentum_for_a_run_without_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(trained_model(), path)
    assert_refused(path, "chunk 0 has no momentum", replace(CONFIG, momentum=0.0))
