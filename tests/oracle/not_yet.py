"""The habits that Leash does not honour yet. Whoever mends one deletes its line: a strict xfail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from oracle.cases import Case


@dataclass(frozen=True, slots=True)
class Missing:
    """What is missing, and where it shows.

    Attributes:
        what: will mend the habit.
        overlap: where it shows: with overlap, without, or (None) in both.
    """

    what: str
    overlap: bool | None = None


# What will mend a habit.
ABSENT = "a parameter without a gradient is not stepped"
OUTSIDE = "what is done to a parameter outside step() is noticed"
BY_SERVER = "a group's max_norm=, which the server applies"
KEPT = "a gradient that somebody keeps stays what it was"
USED_UP = "nobody takes gradients that step() has used up for those of torch"
MEMORY = "whatever shares a parameter's memory is noticed"
DTYPE = "a parameter that changes its dtype is noticed"
BUFFERS = "a shared buffer may hold anything, and change until step()"
STATE = "the optimizer's state: loaded, or refused by name"

NOT_YET: Final[dict[str, Missing]] = {
    "has_the_server_limit_the_norm_of_rows": Missing(BY_SERVER),
}


def is_not_yet(case: Case) -> str:
    """What is missing for this case; empty if nothing is."""
    missing = NOT_YET.get(case.habit.name)
    if missing is None or missing.overlap not in (None, case.setting.overlap):
        return ""
    return missing.what
