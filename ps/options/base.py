"""What a command's options are made of.

A command's options are one frozen dataclass, put together from groups. A field's metadata holds
its help, its other names on the command line, and the word that stands for its value in `--help`;
parser.py makes options of them, and `to_argv` makes a command line of a dataclass again.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from leash.ps.errors import UsageError

T = TypeVar("T")

DEFAULT_SEED: Final = 1  # of a run, a prediction or a study that is given none


def option(
    default: T, help: str, *aliases: str, metavar: str | None = None, several: bool = False  # noqa: A002
) -> T:  # fmt: skip
    """A dataclass field that is an option of the command line.

    Args:
        several: a text of values with commas between them, which on the command line may be words
            of their own.
    """
    metadata = {"help": help, "aliases": aliases, "metavar": metavar, "several": several}
    made: T = field(default=default, metadata=metadata)
    return made


def argument(default: T, help: str) -> T:  # noqa: A002
    """A dataclass field that is a word of its own on the command line, without a flag."""
    metadata = {"help": help, "aliases": (), "metavar": None, "positional": True}
    made: T = field(default=default, metadata=metadata)
    return made


def arguments(help: str) -> tuple[str, ...]:  # noqa: A002
    """A dataclass field that is all words of the command line that have no flag."""
    metadata = {"help": help, "aliases": (), "metavar": None, "positional": True, "many": True}
    made: tuple[str, ...] = field(default=(), metadata=metadata)
    return made


def takes_many(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("many"))


def is_argument(f: "dataclasses.Field[Any]") -> bool:
    return bool(f.metadata.get("positional"))


@dataclass(frozen=True, kw_only=True)
class Options:
    """One group of options, or all groups of a command."""

    def check(self) -> None:
        """Raises UsageError for a value that cannot be: before anything heavy is imported."""


def groups(options: type[Any]) -> Iterator[tuple[str, list[dataclasses.Field[Any]]]]:
    """The option groups of a command, as (title, fields), in the order of its bases."""
    own = [base for base in (options, *options.__mro__[1:]) if "title" in vars(base)]
    order = [base for base in options.__bases__ if base in own] or own
    for base in order:
        title: str = vars(base)["title"]
        names = inspect.get_annotations(base).keys()
        yield title, [f for f in dataclasses.fields(options) if f.name in names]


def flag(name: str) -> str:
    """The option of a field: ``lr_scaling`` ▸ ``--lr-scaling``."""
    return "--" + name.replace("_", "-")


def to_argv(options: Any) -> list[str]:
    """The command line that gives these options: what differs from the defaults, as --name=value.

    Args:
        options: one of the dataclasses of this module.
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
    """A `target` with every field that `source` has too, and these changes."""
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


Number = TypeVar("Number", int, float)


def parse_counts(option_flag: str, text: str) -> list[int]:
    """Numbers above 0, from ``1,2,4``. Raises UsageError for anything else."""
    counts = _parse(option_flag, text, int, "whole numbers, such as 1,2")
    if min(counts) < 1:
        raise UsageError(f"{option_flag} {text}: give numbers above 0")
    return counts


def _parse(option_flag: str, text: str, number: Callable[[str], Number], what: str) -> list[Number]:
    try:
        return [number(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option_flag} {text}: expected {what}") from None
