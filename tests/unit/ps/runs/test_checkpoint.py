import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from leash.ps.errors import CheckpointError
from leash.ps.options.server import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.checkpoint import Earlier, check_checkpoint, open_checkpoint, save_checkpoint
from leash.ps.runs.position import Position, SharePosition
from leash.ps.shard.model import ServedModel
from leash.ps.wire.layout import Layout, Slot
from support.sockless import TightDisk

RULE = choose_rule("asp", None)
LAYOUT = Layout(
    [
        Slot("w", "f32", (300, 100)),  # two chunks of 64 KiB
        Slot("b", "f32", ()),
        Slot("d", "f64", (3,)),
        Slot("mean", "f32", (5,), "buffer"),
    ]
)
POSITION = Position(5, 1, {1: SharePosition(1, 20, 50)})
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
    return opened(path, options)[0]


def opened(path: Path, options: ServerOptions = CONFIG) -> tuple[ServedModel, Earlier]:
    return open_checkpoint(str(path), options.optimizer, lambda layout: model_of(layout, options))


def test_a_checkpoint_brings_back_parameters_buffers_and_momentum(tmp_path: Path) -> None:
    model = trained_model()
    save_checkpoint(model, tmp_path / "deep" / "m.safetensors", POSITION)
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
    save_checkpoint(trained_model(options, steps=2), tmp_path / "m.safetensors", POSITION)
    again = resumed(tmp_path / "m.safetensors", options)
    assert again.shard.first_step() == 3
    again.shard.join(1, 2)
    for chunk in again.chunks:
        gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
        again.shard.push(chunk.index, 1, 3, 1, bytearray(gradient.tobytes()), True)
    assert bytes_of(again) == bytes_of(trained_model(options, steps=3))
    assert {again.shard.version(chunk.index) for chunk in again.chunks} == {3}


@every_optimizer
def test_the_optimizers_buffers_stand_under_torchs_names(
    tmp_path: Path, options: ServerOptions
) -> None:
    model = trained_model(options)
    save_checkpoint(model, tmp_path / "m.safetensors", POSITION)
    tensors = load_file(tmp_path / "m.safetensors")
    names = [slot.name for slot in LAYOUT.slots]
    expected = [f"{s}/{n}" for s in model.shard.state_names() for n in names if n != "mean"]
    assert sorted(tensors) == sorted(names + expected)


def test_a_checkpoint_of_another_optimizer_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(trained_model(), path, POSITION)
    assert_refused(path, "this run has adam; give --optimizer sgd", OPTIMIZERS[2])
    save_checkpoint(trained_model(replace(OPTIMIZERS[2], amsgrad=True)), path, POSITION)
    assert_refused(path, "holds max_exp_avg_sq, .* none; give --amsgrad", OPTIMIZERS[2])
    save_checkpoint(trained_model(OPTIMIZERS[2]), path, POSITION)
    assert_refused(path, "has no max_exp_avg_sq/w", replace(OPTIMIZERS[2], amsgrad=True))


def test_compensation_may_begin_with_a_checkpoint_that_knows_nothing_of_it(tmp_path: Path) -> None:
    options = replace(CONFIG, policy="asp", delay_compensation="adaptive")
    save_checkpoint(trained_model(), tmp_path / "m.safetensors", POSITION)
    again = resumed(tmp_path / "m.safetensors", options)
    nbytes = again.chunks[0].nbytes
    momentum, squares = bytearray(nbytes), bytearray(b"\1" * nbytes)
    again.shard.state(0, "momentum", momentum)
    again.shard.state(0, "dc_mean_square", squares)
    assert any(momentum)
    assert not any(squares)


def test_a_checkpoint_with_compensation_says_what_to_do(tmp_path: Path) -> None:
    options = replace(CONFIG, policy="asp", delay_compensation="adaptive")
    save_checkpoint(trained_model(options), tmp_path / "m.safetensors", POSITION)
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
    save_checkpoint(trained_model(), tmp_path / "m.safetensors", POSITION)
    again = resumed(tmp_path / "m.safetensors", replace(CONFIG, chunk_kib=1024))
    assert b"".join(bytes_of(again)[:1]).startswith(bytes_of(trained_model())[0])


def test_the_file_holds_tensors_by_the_names_of_the_slots(tmp_path: Path) -> None:
    save_checkpoint(trained_model(), tmp_path / "m.safetensors", POSITION)
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
    save_checkpoint(model, tmp_path / "m.safetensors", POSITION)
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
    save_checkpoint(trained_model(), path, POSITION)
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(path, "not a readable checkpoint")


def test_safetensors_of_somebody_else_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path)
    assert_refused(path, "not a checkpoint of Leash, format 2 or 1")


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
    save_checkpoint(trained_model(), path, POSITION)
    assert_refused(
        path,
        "it holds momentum, of which this run has none; give --momentum",
        replace(CONFIG, momentum=0.0),
    )


# What else goes on: versions, clocks and counts, chunk by chunk.


def uneven_model(chunk_kib: int = 64) -> ServedModel:
    """Every chunk has seen another number of steps, of two workers."""
    model = trained_model(replace(CONFIG, chunk_kib=chunk_kib), steps=0)
    model.shard.join(2, 0)
    for chunk in model.chunks:
        for step in range(1, 2 + chunk.index):
            for worker in (1, 2)[: 2 if step < 3 else 1]:
                gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
                model.shard.push(
                    chunk.index, worker, step, 1, bytearray(gradient.tobytes()), True
                )  # fmt: skip
    return model


def states_of(model: ServedModel) -> list[tuple[int, list[int]]]:
    """The version of each chunk, and how many updates each of its pieces has seen."""
    shard = model.shard
    return [
        (shard.version(c.index), shard.updates(c.index) if c.kind == "parameter" else [])
        for c in model.chunks
    ]


def test_every_chunk_gets_its_own_version_and_counts_back(tmp_path: Path) -> None:
    model, path = uneven_model(), tmp_path / "m.safetensors"
    save_checkpoint(model, path, POSITION)
    # Of the chunks 0 to 3: one step of each worker, two, then two of both and more of the first.
    assert states_of(model) == [(2, [2]), (4, [4, 4]), (5, [5]), (6, [])]
    assert states_of(resumed(path)) == states_of(model)


def test_other_chunks_get_the_largest_version_and_counts_that_any_of_their_slots_had(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(uneven_model(), path, POSITION)
    again = resumed(path, replace(CONFIG, chunk_kib=1024))
    assert states_of(again) == [(6, [4, 4]), (6, [5]), (6, [])]  # w lies in both of the first two


def test_training_goes_on_after_the_largest_clock_and_the_file_tells_that_it_is_in_a_step(
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(uneven_model(), path, POSITION)
    model, earlier = opened(path)
    assert (earlier.version, earlier.step, earlier.is_between_steps) == (6, 4, False)
    assert {model.shard.minimum(chunk.index) for chunk in model.chunks} == {4}
    assert model.shard.workers() == []
    save_checkpoint(trained_model(), path, POSITION)
    _, earlier = opened(path)
    assert (earlier.version, earlier.step, earlier.is_between_steps) == (2, 2, True)


def test_the_clocks_of_all_workers_stand_in_the_file(tmp_path: Path) -> None:
    saved = save_checkpoint(uneven_model(), tmp_path / "m.safetensors", POSITION)
    clocks = [state.clocks for state in saved.states]
    assert [clock.least for clock in clocks] == [1, 2, 2, 2]
    assert [clock.by_worker for clock in clocks] == [
        {1: 1, 2: 1}, {1: 2, 2: 2}, {1: 3, 2: 2}, {1: 4, 2: 2},
    ]  # fmt: skip
    told = json.loads(check_checkpoint(tmp_path / "m.safetensors")["chunks"])
    assert told["least_clocks"] == [1, 2, 2, 2]
    assert told["clocks"] == {"1": [1, 2, 3, 4], "2": [1, 2, 2, 2]}


def test_the_position_and_the_options_are_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(trained_model(), path, POSITION, {"lr": 0.5})
    assert opened(path)[1].position == POSITION
    assert json.loads(check_checkpoint(path)["options"]) == {"lr": 0.5}


def test_a_file_of_format_1_is_still_read_and_tells_no_position(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    values = {
        "w": np.arange(30_000, dtype=np.float32).reshape(300, 100), "b": np.array(2, np.float32),
        "d": np.ones(3), "mean": np.ones(5, np.float32),
    }  # fmt: skip
    metadata = {
        "leash_format": "1", "layout": LAYOUT.pack().hex(), "version": "7", "optimizer": "sgd",
        "updates": "5 6 7 0",
    }  # fmt: skip
    save_file(values, path, metadata)
    model, earlier = opened(path)
    assert earlier == Earlier(str(path), 7, 0, is_between_steps=True, position=None)
    assert states_of(model) == [(7, [5]), (7, [5, 6]), (7, [7]), (7, [])]
    first = np.frombuffer(bytes_of(model)[0], np.float32)
    assert np.array_equal(first, np.arange(len(first)))


@pytest.mark.parametrize("told", ["0", "3", "2.0", ""])
def test_a_file_of_another_format_is_refused_with_the_formats_there_are(
    tmp_path: Path, told: str
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"w": np.zeros(3, np.float32)}, path, {"leash_format": told})
    assert_refused(path, "m.safetensors: not a checkpoint of Leash, format 2 or 1")


# Damage.

SMALL = Layout(
    [Slot("w", "f32", (6, 2)), Slot("d", "f64", (2,)), Slot("mean", "f32", (3,), "buffer")]
)


def small_model() -> ServedModel:
    return model_of(SMALL, CONFIG)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole checkpoint, with momentum, of a model of three chunks."""
    path, model = tmp_path_factory.mktemp("small") / "m.safetensors", small_model()
    for chunk in model.chunks:
        values = np.arange(chunk.values, dtype=_dtype(chunk.dtype))
        model.shard.init(chunk.index, values.tobytes())
    model.shard.join(1, 0)
    for chunk in model.chunks:
        gradient = np.full(chunk.values, 0.25, _dtype(chunk.dtype))
        model.shard.push(chunk.index, 1, 1, 1, bytearray(gradient.tobytes()), True)
    save_checkpoint(model, path, POSITION)
    return path.read_bytes()


def everything_in(path: Path) -> object:
    """All that a server takes from a checkpoint."""
    model, earlier = open_checkpoint(str(path), "sgd", lambda _: small_model())
    return bytes_of(model), states_of(model), replace(earlier, path="")


def outcome_of(read: Callable[[Path], object], path: Path) -> object:
    """What it reads, or how it refuses to."""
    try:
        return read(path)
    except CheckpointError as error:
        return f"refused in {'many lines' if chr(10) in str(error) else 'one line'}"


@pytest.fixture(scope="module")
def damaged_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the test below writes one damaged file after the other."""
    return tmp_path_factory.mktemp("damaged") / "m.safetensors"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_refused_in_one_line_or_changes_nothing(
    small_file: bytes, damaged_path: Path, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(small_file) * 8 - 1))
    damaged = bytearray(small_file)
    damaged[place // 8] ^= 1 << place % 8
    for read in (everything_in, check_checkpoint):
        damaged_path.write_bytes(small_file)
        whole = read(damaged_path)
        damaged_path.write_bytes(damaged)
        assert outcome_of(read, damaged_path) in ("refused in one line", whole)


def test_every_bit_of_every_tensor_is_looked_after(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    begins_at = 8 + int.from_bytes(small_file[:8], "little")
    assert len(small_file) - begins_at == (48 + 16) * 2 + 12  # two have momentum
    for place in range(begins_at, len(small_file)):
        damaged = bytearray(small_file)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="was changed since it was written"):
            everything_in(path)
        with pytest.raises(CheckpointError, match="was changed since it was written"):
            check_checkpoint(path)


@pytest.mark.parametrize("entry", ["version", "chunks", "position", "checksums", "layout_hash"])
def test_an_entry_that_somebody_has_edited_is_refused(
    tmp_path: Path, small_file: bytes, entry: str
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(small_file)
    metadata = check_checkpoint(path)
    save_file(load_file(path), path, {**metadata, entry: metadata[entry] + " "})
    with pytest.raises(CheckpointError, match="its header was changed since it was written"):
        everything_in(path)


def test_a_tensor_that_was_taken_out_or_added_is_refused(tmp_path: Path, small_file: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(small_file)
    metadata, tensors = check_checkpoint(path), load_file(path)
    for others in (
        {name: tensor for name, tensor in tensors.items() if name != "w"},
        {**tensors, "v": tensors["w"]},
    ):
        save_file(others, path, metadata)
        with pytest.raises(CheckpointError, match="other tensors than its header tells"):
            everything_in(path)


@pytest.mark.parametrize("why", ["full", "no folder"])
def test_what_cannot_be_written_leaves_the_file_of_before(tmp_path: Path, why: str) -> None:
    path, model = tmp_path / "m.safetensors", trained_model(steps=3)
    save_checkpoint(trained_model(), path, POSITION)
    before = path.read_bytes()
    disk = TightDisk(full=[path.name] if why == "full" else [])
    to = path if why == "full" else path / "below.safetensors"
    with pytest.raises(OSError, match="No space left" if why == "full" else "File exists"):
        save_checkpoint(model, to, POSITION, disk=disk)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (before, [path.name])
    assert model.shard.snapshot_nbytes == 0
