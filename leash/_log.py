"""What Leash says: a line for people, and the same line for `logging`, under the logger "leash".

The logger is silent until somebody gives it, or the root logger, a handler. A library that was
given no way to show its lines writes them to stderr only as long as nobody has: no line appears
twice.
"""

import logging
import sys
from collections.abc import Callable
from typing import Final, TypeAlias

Say: TypeAlias = Callable[[str], None]

_ROOT: Final = logging.getLogger("leash")


def logged(say: Say, name: str, level: int = logging.INFO) -> Say:
    """A function that shows a line with `say`, and logs it.

    Args:
        name: of the logger, such as ``__name__``.
    """
    logger = logging.getLogger(name)

    def show_and_log(text: str) -> None:
        logger.log(level, "%s", text)
        say(text)

    return show_and_log


def say_on_stderr(text: str) -> None:
    """What a library says that was given no `say`: on stderr, unless logging shows it."""
    if not _is_routed():
        print(f"leash: {text}", file=sys.stderr, flush=True)


def _is_routed() -> bool:
    """Whether a handler of the user's gets what is logged."""
    handlers = [*_ROOT.handlers, *(logging.getLogger().handlers if _ROOT.propagate else ())]
    return not all(isinstance(handler, logging.NullHandler) for handler in handlers)
