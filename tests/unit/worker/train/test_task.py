"""What a process trains: its command line says it; of the server, only catalogued names count."""

import sys
from pathlib import Path
from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.options.catalog import DATASETS, MODELS
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.task import TaskGroup
from leash.ps.options.worker import WorkerOptions
from leash.worker.train.task import difference, resolve_task

OPTIONS = (WorkerOptions, EvaluateOptions)


def told(model: Any = None, dataset: Any = None) -> dict[str, Any]:
    """What a server was started with."""
    return {
        "model": model, "dataset": dataset, "planned_epochs": 2, "seed": 3, "learners": "1-2",
    }  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_server_may_tell_any_name_of_the_catalog(model: str) -> None:
    task = resolve_task(WorkerOptions(), told(model, MODELS[model].dataset))
    assert (task.model, task.dataset) == (model, MODELS[model].dataset)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("model", "dataset", "words"),
    [
        ("os:abort", "digits", "--model=os:abort --dataset=digits"),
        ("linear", "notes:data", "--model=linear --dataset=notes:data"),
        ("notes:build", "notes:data", "--model=notes:build --dataset=notes:data"),
        ("notes:build", None, "--model=notes:build "),
        (None, "notes:data", "--dataset=notes:data "),
        ("a b:$(c)", "digits", "'--model=a b:$(c)' --dataset=digits"),
    ],
)
def test_code_that_a_server_names_is_neither_imported_nor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: type[TaskGroup],
    model: str | None, dataset: str | None, words: str,
) -> None:  # fmt: skip
    (tmp_path / "notes.py").write_text("raise SystemExit('run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.raises(UsageError) as caught:
        resolve_task(options(), told(model, dataset))
    assert f"add {words}" in str(caught.value)
    assert "notes" not in sys.modules


@pytest.mark.parametrize("name", [7, ["os:abort"], {"os:abort": 1}, True, "nothing"])
def test_what_a_server_tells_and_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(UsageError):
        resolve_task(WorkerOptions(), told(name, "digits"))


@pytest.mark.parametrize("settings", [told(), told("notes:build", "notes:data"),
                                      told("other:build", "other:data")])  # fmt: skip
def test_code_on_the_own_command_line_is_taken_whatever_the_server_tells(
    settings: dict[str, Any],
) -> None:
    own = WorkerOptions(model="notes:build", dataset="notes:data")
    task = resolve_task(own, settings)
    assert (task.model, task.dataset) == ("notes:build", "notes:data")


def test_a_process_that_differs_from_its_server_says_in_what() -> None:
    own = WorkerOptions(model="notes:build", dataset="notes:data")
    other = told("mnist_cnn", "mnist")
    line = difference(resolve_task(own, other), other)
    assert line is not None
    assert "notes:build on notes:data" in line
    assert "mnist_cnn on mnist" in line


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_process_that_agrees_with_its_server_says_nothing(dataset: str) -> None:
    settings = told(DATASETS[dataset].model, dataset)
    for options in (WorkerOptions(), WorkerOptions(dataset=dataset)):
        assert difference(resolve_task(options, settings), settings) is None
    assert difference(resolve_task(WorkerOptions(dataset=dataset), told()), told()) is None
