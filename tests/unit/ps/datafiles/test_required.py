"""A data set that is not there is refused before anything is started, in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leash.ps.datafiles.cifar10 import BATCHES, BATCHES_DIR
from leash.ps.datafiles.required import FINDERS, require_data
from leash.ps.errors import UsageError
from leash.ps.launch import command as launch
from leash.ps.options.catalog import DATASETS
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.options.task import TaskGroup
from leash.ps.server import loop

IN_MEMORY = ("digits", "synthetic")
MNIST_FILES = [
    f"{prefix}-{kind}"
    for prefix in ("train", "t10k")
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]
# What a folder has to have for each data set.
CONTENTS = {
    "mnist": [f"MNIST/raw/{name}" for name in MNIST_FILES],
    "cifar10": [f"{BATCHES_DIR}/{name}" for names in BATCHES.values() for name in names],
    "imagefolder": ["train/cat/1.jpg", "test/cat/1.jpg"],
}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNIST", raising=False)


def fill(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        require_data(TaskGroup(**options))
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_every_data_set_lies_in_files_or_in_none() -> None:
    assert set(FINDERS) == set(CONTENTS) == set(DATASETS) - set(IN_MEMORY)


@pytest.mark.parametrize("dataset", [*IN_MEMORY, "my:data"])
def test_what_needs_no_files_needs_no_folder(dataset: str) -> None:
    require_data(TaskGroup(model="my:model", dataset=dataset))
    require_data(TaskGroup())


@pytest.mark.parametrize("dataset", CONTENTS)
def test_each_missing_file_is_noticed_and_what_is_complete_is_taken(
    tmp_path: Path, dataset: str
) -> None:
    fill(tmp_path, CONTENTS[dataset])
    options = TaskGroup(dataset=dataset, data_dir=str(tmp_path))
    require_data(options)
    for name in CONTENTS[dataset]:
        path = tmp_path / name
        path.unlink()
        if dataset == "imagefolder":  # of files alone there may be any
            path.parent.rmdir()
            path.parent.parent.rmdir()
        missing = name if dataset != "imagefolder" else name.replace("cat/1.jpg", "CLASS/*")
        line = refusal(dataset=dataset, data_dir=str(tmp_path))
        assert line.startswith(f"dataset {dataset}: no {missing}")
        assert f" in {tmp_path}; give its folder as --data-dir" in line
        fill(tmp_path, CONTENTS[dataset])
    require_data(options)


@pytest.mark.parametrize("dataset", CONTENTS)
def test_a_wrong_place_or_none_is_refused(tmp_path: Path, dataset: str) -> None:
    assert refusal(dataset=dataset).startswith(f"dataset {dataset}: give --data-dir, the folder")
    absent = str(tmp_path / "absent")
    assert f"--data-dir {absent} is not a folder" in refusal(dataset=dataset, data_dir=absent)
    fill(tmp_path / "empty", [])
    assert "no " in refusal(dataset=dataset, data_dir=str(tmp_path / "empty"))


@pytest.mark.parametrize("dataset", CONTENTS)
def test_what_is_to_be_fetched_may_be_missing(tmp_path: Path, dataset: str) -> None:
    place = {"dataset": dataset, "data_dir": str(tmp_path / "absent"), "download": True}
    if dataset == "imagefolder":
        assert "nothing to --download" in refusal(**place)
    else:
        require_data(TaskGroup(**place))
        require_data(TaskGroup(dataset=dataset, download=True))


def test_a_file_is_no_folder_to_fetch_mnist_into(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal(dataset="mnist", data_dir=str(tmp_path / "file"), download=True)
    assert "is not a folder" in line


def test_who_evaluates_needs_the_test_split_alone(tmp_path: Path) -> None:
    fill(tmp_path, CONTENTS["mnist"][2:])
    options = TaskGroup(dataset="mnist", data_dir=str(tmp_path))
    require_data(options, ("test",))
    with pytest.raises(UsageError, match="train-images"):
        require_data(options)


@pytest.mark.parametrize(
    "start",
    [
        lambda **options: launch.run(LaunchOptions(**options)),
        lambda **options: loop.serve(ServerOptions(**options)),
    ],
    ids=["launch", "server"],
)
def test_nothing_is_started_nor_left_where_the_data_are_not(
    tmp_path: Path, start: Callable[..., int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="dataset mnist: --data-dir nowhere is not a folder"):
        start(model="mnist_cnn", data_dir="nowhere", run_dir=str(run))
    assert not run.exists()


def test_a_server_without_an_evaluator_needs_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither it nor its host may have PyTorch, or know what its workers train."""
    monkeypatch.setattr(loop, "has_evaluator", lambda _: False)
    (tmp_path / "run").touch()
    with pytest.raises(UsageError, match="--run-dir"):  # it has come as far as that
        loop.serve(ServerOptions(model="mnist_cnn", run_dir=str(tmp_path / "run")))
