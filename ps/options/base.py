"""The parts of which a command's options are made.

A command's options are one frozen dataclass, which inherits from groups of options. A field's
metadata holds its help, its other names on the command line, and the word that stands for its value
in `--help`. parser.py makes a parser of these fields, and `to_argv` makes a command line of the
dataclass again.
"""

import dataclasses
import inspect
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from leash.ps.errors import UsageError
from leash.ps.wire.messages import U63_MAX

T = TypeVar("T")

DEFAULT_SEED: Final = 1  # for a run, a prediction or a study without --seed


def option(
    default: T, help: str, *aliases: str, metavar: str | None = None,  # noqa: A002
    several: bool = False, is_path: bool = False,
) -> T:  # fmt: skip
    """Makes a dataclass field that is an option of the command line.

    Args:
        default: what the field holds where the option is not given.
        help: what `--help` says of it.
        aliases: other flags for it.
        metavar: stands for its value in `--help`.
        several: the value is a list with commas, which may also be several words.
        is_path: the value names a file or a folder, so that ``~`` in it stands for the home.
    """
    metadata = {"help": help, "aliases": aliases, "metavar": metavar, "several": several,
                "path": is_path}  # fmt: skip
    made: T = field(default=default, metadata=metadata)
    return made


def argument(default: T, help: str, *, is_path: bool = False) -> T:  # noqa: A002
    """Makes a dataclass field whose value is one word of the command line without a flag."""
    metadata = {"help": help, "aliases": (), "metavar": None, "positional": True, "path": is_path}
    made: T = field(default=default, metadata=metadata)
    return made


def program(help: str) -> str | None:  # noqa: A002
    """Makes a dataclass field that takes the first word without a flag, and whatever follows it.

    The field holds these words as a shell would take them: ``"train.py --lr 0.1"``.
    """
    metadata = {"help": help, "aliases": (), "metavar": '"SCRIPT ARGUMENT ..."', "program": True}
    made: str | None = field(default=None, metadata=metadata)
    return made


def arguments(help: str, *, is_path: bool = False) -> tuple[str, ...]:  # noqa: A002
    """Makes a dataclass field that takes all words of the command line without a flag."""
    metadata = {"help": help, "aliases": (), "metavar": None, "positional": True, "many": True,
                "path": is_path}  # fmt: skip
    made: tuple[str, ...] = field(default=(), metadata=metadata)
    return made


def is_program(f: "dataclasses.Field[Any]") -> bool:
    """Whether this field takes its first word and all words behind it, options among them."""
    return bool(f.metadata.get("program"))


def takes_many(f: "dataclasses.Field[Any]") -> bool:
    """Whether this field takes all words without a flag."""
    return bool(f.metadata.get("many"))


def is_argument(f: "dataclasses.Field[Any]") -> bool:
    """Whether this field takes words without a flag."""
    return bool(f.metadata.get("positional"))


def is_path(f: "dataclasses.Field[Any]") -> bool:
    """Whether this field's value names a file or a folder."""
    return bool(f.metadata.get("path"))


def expand_home(path: str) -> str:
    """Puts the home directory for ``~`` at the beginning: no shell does so behind ``=``."""
    return os.path.expanduser(path)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The base of a group of options, and of a command's options, which are several groups."""

    def __post_init__(self) -> None:
        for f in filter(is_path, dataclasses.fields(self)):
            value = getattr(self, f.name)
            if isinstance(value, tuple):
                object.__setattr__(self, f.name, tuple(map(expand_home, value)))
            elif value is not None:
                object.__setattr__(self, f.name, expand_home(value))

    def check(self) -> None:
        """Raises UsageError for a value that no run can have, before anything heavy is imported."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int) and abs(value) > U63_MAX:  # what a message can carry
                raise UsageError(f"{flag(f.name)} {value}: give at most {U63_MAX}")


def groups(options: type[Any]) -> Iterator[tuple[str, list[dataclasses.Field[Any]]]]:
    """Yields the groups of a command's options, as (title, fields), in the order of its bases."""
    own = [base for base in (options, *options.__mro__[1:]) if "title" in vars(base)]
    order = [base for base in options.__bases__ if base in own] or own
    for base in order:
        title: str = vars(base)["title"]
        names = inspect.get_annotations(base).keys()
        yield title, [f for f in dataclasses.fields(options) if f.name in names]


def flag(name: str) -> str:
    """The flag of a field: ``lr_scaling`` ▸ ``--lr-scaling``."""
    return "--" + name.replace("_", "-")


def to_argv(options: Any) -> list[str]:
    """Makes the command line that gives these options; it leaves out those that have their default.

    Args:
        options: a dataclass whose fields `option` and its like have made.
    """
    argv: list[str] = []
    for f in dataclasses.fields(options):
        value = getattr(options, f.name)
        if value == f.default:
            continue
        if takes_many(f):
            argv.extend(map(str, value))
        elif is_argument(f):
            argv.append(str(value))
        elif isinstance(value, bool):
            argv.append(flag(f.name) if value else "--no-" + f.name.replace("_", "-"))
        else:
            argv.append(f"{flag(f.name)}={value}")
    return argv


def common_options(source: Any, target: type[T], **changes: Any) -> T:
    """Makes a `target` with the values of all fields that `source` has too, and with `changes`."""
    names = {f.name for f in dataclasses.fields(source)}
    shared = {
        f.name: getattr(source, f.name)
        for f in dataclasses.fields(target)  # type: ignore[arg-type]
        if f.name in names
    }
    return target(**{**shared, **changes})


def check_positive(options: Any, *names: str) -> None:
    """Raises UsageError for the first of these options that is given and not above 0."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{flag(name)} {value}: give a number above 0")


def check_not_negative(options: Any, *names: str) -> None:
    """Raises UsageError for the first of these options that is given and not 0 or more."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 <= value < math.inf:
            raise UsageError(f"{flag(name)} {value}: give a number from 0")


def make_folder(option_flag: str, folder: Path, mode: int = 0o777) -> None:
    """Makes the folder of an option where it is not there, and sees that it can be written to.

    Args:
        option_flag: the option, for people.
        folder: its value.
        mode: who may do what in it, if it is made now.

    Raises:
        UsageError: it cannot be made, or this process may not write there.
    """
    try:
        folder.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{option_flag} {folder}: cannot make this folder: {error.strerror}; take another"
        ) from error
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{option_flag} {folder}: cannot write there: {error.strerror}; take another"
        ) from error


Number = TypeVar("Number", int, float)


def parse_counts(option_flag: str, text: str) -> list[int]:
    """Reads numbers above 0 from ``1,2,4``. Raises UsageError for anything else."""
    counts = _parse(option_flag, text, int, "whole numbers, such as 1,2")
    if min(counts) < 1:
        raise UsageError(f"{option_flag} {text}: give numbers above 0")
    return counts


def _parse(option_flag: str, text: str, number: Callable[[str], Number], what: str) -> list[Number]:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option_flag} {text}: expected {what}") from None
