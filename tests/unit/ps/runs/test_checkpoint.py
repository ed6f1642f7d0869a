from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from leash.ps.errors import CheckpointError
from leash.ps.options.server import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.checkpoint import open_checkpoint, save_checkpoint
from leash.ps.shard.model import ServedModel
from leash.ps.wire.layout import Layout, Slot

RULE = choose_rule("asp", None)
LAYOUT = Layout(
    [
        Slot("w", "f32", (300, 100)),  # two chunks of 64 KiB
        Slot("b", "f32", ()),
        Slot("d", "f64", (3,)),
        Slot("mean", "f32", (5,), "buffer"),
    ]
)
CONFIG = ServerOptions(lr=0.5, momentum=0.9, chunk_kib=64)


def model_of(layout: Layout, options: ServerOptions) -> ServedModel:
    return ServedModel(layout, options.chunk_nbytes, options, RULE, softened=options)


def trained_model(options: ServerOptions = CONFIG, steps: int = 2) -> ServedModel:
    """Counts up as first values, then some steps."""
    model = model_of(LAYOUT, options)
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
    """All parameters, buffers and, where they have begun, buffers of the optimizer."""
    found = []
    for chunk in model.chunks:
        out = bytearray(chunk.nbytes)
        model.shard.pull(chunk.index, None, out)
        found.append(bytes(out))
        for state in model.shard.state_names() if model.shard.has_state(chunk.index) else ():
            model.shard.state(chunk.index, state, out)
            found.append(bytes(out))
    return found


def resumed(path: Path, options: ServerOptions = CONFIG) -> ServedModel:
    return open_checkpoint(str(path), options.optimizer, lambda layout: model_of(layout, options))


def test_a_checkpoint_brings_back_parameters_buffers_and_momentum(tmp_path: Path) -> None:
    model = trained_model()
    save_checkpoint(model, tmp_path / "deep" / "m.safetensors")
    again = resumed(tmp_path / "deep" / "m.safetensors")
    assert again.layout.slots == LAYOUT.slots
    assert again.initialized
    assert bytes_of(again) == bytes_of(model)
    assert len(bytes_of(again)) == 2 * 3 + 1  # every chunk has momentum but the buffer's


OPTIMIZERS = [
    CONFIG,
    replace(CONFIG, momentum=0.0, lr_schedule="step", lr_step_size=1, warmup_updates=2),
    ServerOptions(chunk_kib=64, optimizer="adam", lr_schedule="cosine", lr_total_updates=4),
    ServerOptions(chunk_kib=64, optimizer="adamw", amsgrad=True),
    ServerOptions(chunk_kib=64, optimizer="adagrad", lr_decay=0.1, initial_accumulator_value=0.5),
    replace(
        CONFIG, policy="asp", delay_compensation="adaptive", lr_schedule="step", lr_step_size=3
    ),
]
every_optimizer = pytest.mark.parametrize(
    "options", OPTIMIZERS, ids=lambda options: f"{options.optimizer}-{options.lr_schedule}"
)


@every_optimizer
def test_training_goes_on_as_if_it_had_not_been_interrupted(
    tmp_path: Path, options: ServerOptions
) -> None:
    options.check()
    save_checkpoint(trained_model(options, steps=2), tmp_path / "m.safetensors")
    again = resumed(tmp_path / "m.safetensors", options)
    again.shard.join(1, 0)
    for chunk in again.chunks:
        gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
        again.shard.push(chunk.index, 1, 1, 1, bytearray(gradient.tobytes()), True)
    assert bytes_of(again) == bytes_of(trained_model(options, steps=3))
    assert {again.shard.version(chunk.index) for chunk in again.chunks} == {3}


@every_optimizer
def test_the_optimizers_buffers_stand_under_torchs_names(
    tmp_path: Path, options: ServerOptions
) -> None:
    model = trained_model(options)
    save_checkpoint(model, tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    names = [slot.name for slot in LAYOUT.slots]
    expected = [f"{s}/{n}" for s in model.shard.state_names() for n in names if n != "mean"]
    assert sorted(tensors) == sorted(names + expected)


def test_a_checkpoint_of_another_optimizer_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(trained_model(), path)
    assert_refused(path, "this run has adam; give --optimizer sgd", OPTIMIZERS[2])
    save_checkpoint(trained_model(replace(OPTIMIZERS[2], amsgrad=True)), path)
    assert_refused(path, "holds max_exp_avg_sq, .* none; give --amsgrad", OPTIMIZERS[2])
    save_checkpoint(trained_model(OPTIMIZERS[2]), path)
    assert_refused(path, "has no max_exp_avg_sq/w", replace(OPTIMIZERS[2], amsgrad=True))


def test_compensation_may_begin_with_a_checkpoint_that_knows_nothing_of_it(tmp_path: Path) -> None:
    options = replace(CONFIG, policy="asp", delay_compensation="adaptive")
    save_checkpoint(trained_model(), tmp_path / "m.safetensors")
    again = resumed(tmp_path / "m.safetensors", options)
    nbytes = again.chunks[0].nbytes
    momentum, squares = bytearray(nbytes), bytearray(b"\1" * nbytes)
    again.shard.state(0, "momentum", momentum)
    again.shard.state(0, "dc_mean_square", squares)
    assert any(momentum)
    assert not any(squares)


def test_a_checkpoint_with_compensation_says_what_to_do(tmp_path: Path) -> None:
    options = replace(CONFIG, policy="asp", delay_compensation="adaptive")
    save_checkpoint(trained_model(options), tmp_path / "m.safetensors")
    assert_refused(
        tmp_path / "m.safetensors", "holds dc_mean_square, .* give --delay-compensation adaptive",
        CONFIG,
    )  # fmt: skip


def test_adam_does_not_go_on_without_its_buffers(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    layout = Layout([Slot("w", "f32", (2, 2))]).pack().hex()
    metadata = {"leash_format": "1", "layout": layout, "version": "5", "optimizer": "adam"}
    save_file({"w": np.zeros((2, 2), np.float32)}, path, metadata)
    assert_refused(path, "has no exp_avg/w", OPTIMIZERS[2])


@pytest.mark.parametrize("version", ["-1", "99999999999999999999", "one"])
def test_a_version_that_is_no_count_is_one_line(tmp_path: Path, version: str) -> None:
    path = tmp_path / "m.safetensors"
    layout = Layout([Slot("w", "f32", (2, 2))]).pack().hex()
    save_file({"w": np.zeros((2, 2), np.float32)}, path,
              {"leash_format": "1", "layout": layout, "version": version})  # fmt: skip
    assert_refused(path, "not a readable checkpoint")


def test_a_file_from_before_there_were_other_optimizers_is_of_sgd(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    layout = Layout([Slot("w", "f32", (2, 2))]).pack().hex()
    tensor = np.ones((2, 2), np.float32)
    save_file({"w": tensor, "momentum/w": tensor}, path,
              {"leash_format": "1", "layout": layout, "version": "7"})  # fmt: skip
    again = resumed(path)
    assert (again.shard.version(0), again.shard.has_state(0)) == (7, True)


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


@pytest.mark.parametrize("options", [CONFIG, replace(CONFIG, momentum=0.0)])
def test_before_the_first_update_and_without_momentum_there_is_none(
    tmp_path: Path, options: ServerOptions
) -> None:
    steps = 0 if options.momentum else 2
    model = trained_model(options, steps)
    save_checkpoint(model, tmp_path / "m.safetensors")
    assert not [name for name in load_file(tmp_path / "m.safetensors") if "momentum" in name]
    assert bytes_of(resumed(tmp_path / "m.safetensors", options)) == bytes_of(model)


def assert_refused(path: Path, text: str, options: ServerOptions = CONFIG) -> None:
    """In one line."""
    with pytest.raises(CheckpointError, match=text) as raised:
        resumed(path, options)
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
    assert_refused(
        path,
        "it holds momentum, of which this run has none; give --momentum",
        replace(CONFIG, momentum=0.0),
    )
