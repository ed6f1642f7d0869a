"""The names that options had before, and what they stand for now.

`--staleness` once meant two things: how far a worker may be ahead, which is a bound on its lag, and
under policy drop the largest staleness that is applied. It now stands for `--bound`, and under
policy drop for `--max-staleness`. On a command line that is known only when the policy is; in a
file, such as a run's config.yaml, the policy stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from leash.ps.errors import UsageError
from leash.ps.options.base import flag
from leash.ps.policy import DROP

OLD_BOUND: Final = ("staleness", "stale_threshold")
OLD_BOUND_MAX: Final = "staleness_max"
BOUND, BOUND_MAX, MAX_STALENESS = "bound", "bound_max", "max_staleness"


def with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file that any release may have written, by today's names.

    Raises:
        UsageError: a file gives one setting by two of its names.
    """
    of_bound = MAX_STALENESS if settings.get("policy") == DROP.name else BOUND
    new_names = {**dict.fromkeys(OLD_BOUND, of_bound), OLD_BOUND_MAX: BOUND_MAX}
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        new_name = new_names.get(name, name)
        if new_name in renamed:
            raise UsageError(f"{name} {value}: the file says {new_name} {renamed[new_name]}, too; "
                             f"give {new_name} alone")  # fmt: skip
        renamed[new_name] = value
    return renamed


def for_drop(words: Sequence[str]) -> list[str]:
    """The words of a command line whose policy is drop, `--staleness` as `--max-staleness`.

    Raises:
        UsageError: both are given.
    """
    new_flag = flag(MAX_STALENESS)
    flags = [word.partition("=")[0] for word in words]
    for old_flag in map(flag, OLD_BOUND):
        if old_flag in flags and new_flag in flags:
            raise UsageError(f"{old_flag}: under --policy drop it is another name for {new_flag}; "
                             f"give {new_flag} alone")  # fmt: skip
    old_flags = [flag(name) for name in OLD_BOUND]
    return [
        new_flag + word.removeprefix(name) if name in old_flags else word
        for word, name in zip(words, flags, strict=True)
    ]
