"""Knows which files of a run cannot be written, says so once, and says when they can be again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(slots=True)
class _Trouble:
    """What is known of a file that could not be written."""

    why: str
    times: int = 0  # how often that was tried in vain
    lasts: bool = True


class Unwritten:
    """The files of one run that could not be written."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Begins with none.

        Args:
            say: shows a line.
        """
        self._say: Final = say
        self._troubles: Final[dict[str, _Trouble]] = {}

    def fail(self, name: str, error: OSError | MemoryError | str) -> None:
        """Notes that a file could not be written; says so unless the same was said last."""
        why = why_of(error)
        known = self._troubles.get(name)
        is_news = known is None or not known.lasts or known.why != why
        trouble = self._troubles.setdefault(name, _Trouble(why))
        trouble.why, trouble.lasts, trouble.times = why, True, trouble.times + 1
        if is_news:
            self._say(
                f"WARNING: cannot write {name}: {why}; the run goes on, keeps what was written "
                "before, and tries again"
            )

    def done(self, name: str) -> None:
        """Notes that a file was written; says so if it could not be before."""
        trouble = self._troubles.get(name)
        if trouble is not None and trouble.lasts:
            trouble.lasts = False
            self._say(f"can write {name} again")

    def note(self, path: Path, error: OSError | None) -> None:
        """Notes that a file could not be written, or without an error that it was."""
        if error is None:
            self.done(path.name)
        else:
            self.fail(path.name, error)

    @property
    def lasting(self) -> list[str]:
        """A clause for each file that cannot be written now."""
        return [f"{name}: {t.why}" for name, t in self._troubles.items() if t.lasts]

    def as_dict(self) -> dict[str, Any]:
        """The form in which summary.json has them: all that ever could not be written."""
        return {
            name: {"why": t.why, "times": t.times, "lasts": t.lasts}
            for name, t in self._troubles.items()
        }


def why_of(error: OSError | MemoryError | str) -> str:
    """Says in words why something could not be written."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or "there is no memory"
