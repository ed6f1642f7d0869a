"""Makes the command line of `leash launch` from arguments of a Python function."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from leash.ps.cli import parse
from leash.ps.datafiles.required import require_data
from leash.ps.errors import UsageError
from leash.ps.options.base import flag
from leash.ps.options.launch import LaunchOptions
from leash.ps.words import did_you_mean

# A name that Leash knows, "module:function", or a function of an importable module.
Task: TypeAlias = str | Callable[[], object] | None

OTHER_NAMES: Final = {"data": "dataset"}
WRITE_FILE: Final = "begin its cell with %%writefile {name}.py, and then: from {name} import {name}"


def words_for_launch(arguments: Mapping[str, Any]) -> list[str]:
    """Makes the words behind `leash launch`, and checks them as the command does.

    Args:
        arguments: by the names of its options, with underscores; those that are None are left out.
            A file of settings, `config`, counts less than all others.

    Raises:
        UsageError: an argument is unknown, or has a value that it cannot have.
    """
    given = [(name, value) for name, value in arguments.items() if value is not None]
    given.sort(key=lambda argument: argument[0] != "config")  # what comes later wins
    words = [word for name, value in given
             for word in _words_of(OTHER_NAMES.get(name, name), name, value)]  # fmt: skip
    _, options = parse(["launch", *words])
    assert isinstance(options, LaunchOptions)
    options.check()
    require_data(options)
    return words


def _words_of(option: str, name: str, value: Any) -> list[str]:
    fields = {field.name: field for field in dataclasses.fields(LaunchOptions)}
    if option in ("model", "dataset"):
        return [f"{flag(option)}={reference_of(value, name)}"]
    if option not in (*fields, "config") or option == "state_fd":
        known = [*OTHER_NAMES, *fields]
        hint = did_you_mean(name, {other: f"{other}=" for other in known})
        raise UsageError(f"{name}=: leash launch has no such option; {hint}"
                         "leash launch --help has all")  # fmt: skip
    if option in fields and isinstance(fields[option].default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{name}={value!r}: give True or False")
        return [flag(option) if value else "--no-" + option.replace("_", "-")]
    if isinstance(value, list | tuple):
        return [f"{flag(option)}={','.join(map(str, value))}"]
    if not isinstance(value, str | int | float | os.PathLike):
        raise UsageError(f"{name}={value!r}: give a text, a number or a list of them")
    return [f"{flag(option)}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]


def reference_of(task: Task, name: str) -> str:
    """Names a model or a data set so that another process finds it.

    Args:
        task: a name, "module:function", or a function.
        name: of the argument, for the error's text.

    Raises:
        UsageError: another process cannot import this function.
    """
    if isinstance(task, str):
        return task
    module, function = getattr(task, "__module__", None), getattr(task, "__qualname__", None)
    if not callable(task) or not isinstance(function, str) or not isinstance(module, str):
        raise UsageError(f"{name}={task!r}: give a name, 'module:function', or a function; workers "
                         "are processes, which make their own model and data")  # fmt: skip
    if not function.isidentifier():
        raise UsageError(f"{name}=: {function} has no name of its own in a module, so worker "
                         "processes cannot import it; give a function of a module")  # fmt: skip
    if module == "__main__":
        raise UsageError(f"{name}=: {function} is defined in this notebook or script, which worker "
                         "processes cannot import; put it into a file: "
                         f"{WRITE_FILE.format(name=function)}")  # fmt: skip
    if getattr(sys.modules.get(module), function, None) is not task:
        raise UsageError(f"{name}=: {module} has no function {function} that is this one, so "
                         "worker processes cannot import it")  # fmt: skip
    return f"{module}:{function}"


def search_path() -> str:
    """Where this process finds modules, for the processes of a run; they search there last."""
    places = [os.path.abspath(place or os.getcwd()) for place in sys.path]
    return os.pathsep.join(dict.fromkeys(place for place in places if os.path.isdir(place)))
