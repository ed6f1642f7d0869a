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


NOT_YET: Final[dict[str, Missing]] = {}


def is_not_yet(case: Case) -> str:
    """What is missing for this case; empty if nothing is."""
    missing = NOT_YET.get(case.habit.name)
    if missing is None or missing.overlap not in (None, case.setting.overlap):
        return ""
    return missing.what
