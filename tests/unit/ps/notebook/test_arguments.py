import functools
import os
from pathlib import Path
from typing import Any

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.notebook import handle
from leash.ps.notebook.arguments import reference_of, search_path, words_for_launch
from leash.ps.options.launch import LaunchOptions


def defined_in(module: str) -> Any:
    """A function `net` that says it is of this module."""
    space: dict[str, Any] = {"__name__": module}
    exec("def net(): ...", space)
    return space["net"]


def options_of(**arguments: Any) -> LaunchOptions:
    options = parse(["launch", *words_for_launch(arguments)])[1]
    assert isinstance(options, LaunchOptions)
    return options


def test_arguments_are_the_options_of_the_command() -> None:
    options = options_of(
        workers="2:8", data="digits", model="linear", policy="ssp", bound=4, lr=0.25, overlap=True,
        slow=[0, 0.5], run_dir=Path("a b"), keys=None, momentum=0.5, log="csv",
    )  # fmt: skip
    expected = LaunchOptions(
        workers=2, max_workers=8, dataset="digits", model="linear", policy="ssp", bound=4, lr=0.25,
        overlap=True, slow="0,0.5", run_dir="a b", momentum=0.5, log="csv",
    )  # fmt: skip
    assert options == expected


def test_a_file_of_settings_counts_less_than_all_that_is_given(tmp_path: Path) -> None:
    for script in ("old.py", "new.py"):
        (tmp_path / script).touch()
    config = tmp_path / "config.yaml"
    config.write_text(f"script: {tmp_path}/old.py\nlr: 0.5\nworkers: 3\nstate_fd: null\n")
    given = {"script": f"{tmp_path}/new.py", "lr": 0.25}
    for arguments in ({"config": config, **given}, {**given, "config": config}):
        options = options_of(**arguments)
        assert (options.script, options.lr, options.workers) == (f"{tmp_path}/new.py", 0.25, 3)


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ({}, 2),
        ({"workers": 4}, 4),
        ({"hosts": "box,gpu1:2"}, 3),
        ({"config": "{folder}/config.yaml"}, 3),
    ],
)
def test_two_workers_train_where_nothing_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], workers: int
) -> None:
    (tmp_path / "train.py").touch()
    (tmp_path / "config.yaml").write_text("workers: 3\n")
    started: list[list[str]] = []
    monkeypatch.setattr(handle, "LaunchedRun", started.append)
    told = {name: str(value).format(folder=tmp_path) for name, value in arguments.items()}
    handle.launch(f"{tmp_path}/train.py", **told)
    _, options = parse(["launch", *started[0]])
    assert isinstance(options, LaunchOptions)
    assert options.workers == workers


def test_what_the_command_asks_for_is_asked_for_here() -> None:
    with pytest.raises(UsageError, match="say what to train"):
        words_for_launch({"workers": 2})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"wrokers": 2}, "wrokers=: leash launch has no such option; did you mean workers="),
        ({"state_fd": 3}, "state_fd=: leash launch has no such option"),
        ({"overlap": 1}, "overlap=1: give True or False"),
        ({"lr": "much"}, "--lr"),
        ({"lr": {}}, r"lr=\{\}: give a text, a number or a list of them"),
        ({"log": "sheets"}, "--log sheets: 'sheets' is no tracker"),
        ({"bound": -1}, "--bound"),
        ({"dataset": "digits", "data": 3}, "data=3: give a name, 'module:function', or a function"),
    ],
)
def test_what_cannot_be_is_one_line_that_names_it(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        words_for_launch({"data": "digits", **arguments})
    assert "\n" not in str(raised.value)


def test_a_function_of_a_module_is_named_by_it() -> None:
    assert reference_of(os.path.join, "model") == "posixpath:join"
    assert reference_of("nets:build", "model") == "nets:build"


def in_a_function() -> Any:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (lambda: None, "<lambda> has no name of its own"),
        (in_a_function(), r"in_a_function.<locals>.inner has no name of its own"),
        (functools.partial(os.path.join), "give a name, 'module:function', or a function"),
        (defined_in("nowhere"), "nowhere has no function net that is this one"),
    ],
)
def test_a_function_that_no_other_process_can_import_is_an_error(task: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"^model=.*{says}"):
        reference_of(task, "model")


def test_one_of_the_notebook_itself_is_an_error_that_names_the_mend() -> None:
    with pytest.raises(UsageError, match=r"%%writefile net.py, and then: from net import net"):
        reference_of(defined_in("__main__"), "model")


def test_workers_search_where_this_process_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    monkeypatch.syspath_prepend("below")
    monkeypatch.syspath_prepend("")
    places = search_path().split(os.pathsep)
    assert places[:2] == [str(tmp_path), str(tmp_path / "below")]
    assert len(set(places)) == len(places)
