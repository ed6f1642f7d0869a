"""A user's own model or data: finds what ``module:function`` on the command line names."""

import importlib
import os
import sys
from collections.abc import Callable

from leash.ps.errors import UsageError
from leash.ps.processes import SEARCH_VARIABLE


def call(reference: str, kind: str) -> object:
    """Calls the function at ``module:function`` without arguments.

    Args:
        reference: ``module:function``.
        kind: "model" or "dataset", for the error's text.

    Returns:
        What it returns.

    Raises:
        UsageError: anything has failed on the way; its text is one line, and the cause is chained
            to it.
    """
    function = resolve(reference, kind)
    try:
        return function()
    except Exception as error:
        raise UsageError(f"{kind} {reference}: the call failed with {one_line(error)}") from error


def resolve(reference: str, kind: str) -> Callable[[], object]:
    """Finds the function that ``module:function`` names. The working directory is searched last.

    Args:
        reference: ``module:function``.
        kind: "model" or "dataset", for the error's text.

    Returns:
        The function.

    Raises:
        UsageError: there is no such module, it does not import, or it has no such function.
    """
    module_name, _, function_name = reference.partition(":")
    if not module_name or not function_name:
        raise UsageError(f"{kind} {reference!r}: expected module:function, for example nets:build")
    _search_working_directory()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{kind} {reference}: {_import_failure(module_name, error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        where = getattr(module, "__file__", None) or module_name
        raise UsageError(f"{kind} {reference}: no function {function_name!r} in {where}")
    return function  # type: ignore[no-any-return]


def one_line(error: BaseException) -> str:
    """Shortens an error to its type and the first line of its text, for a one-line message."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _search_working_directory() -> None:
    # `python -m worker` searches it, the `leash` command does not; both shall find the user's file.
    # It comes last, so that a file there that is named like a library's module does not hide it.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    # Where a program that has launched this run finds its modules.
    places = os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)
    sys.path += [place for place in places if place and place not in sys.path]


def _import_failure(module_name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and (module_name == missing or module_name.startswith(f"{missing}.")):
        return (
            f"no module {module_name!r} in the working directory {os.getcwd()} or on PYTHONPATH; "
            "start there, or add its folder to PYTHONPATH"
        )
    return f"importing {module_name!r} failed with {one_line(error)}"
