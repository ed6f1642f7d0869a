"""What Leash says: a line for people, and the same line for `logging`, under the logger "leash".

The logger is silent until somebody gives it, or the root logger, a handler. Where a caller of the
library gives no `say`, a line goes to stderr only as long as there is no such handler, so that none
appears twice.
"""

import logging
import sys
from collections.abc import Callable
from typing import Final, TypeAlias

Say: TypeAlias = Callable[[str], None]

_ROOT: Final = logging.getLogger("leash")


def logged(say: Say, name: str, level: int = logging.INFO) -> Say:
    """Makes a function that shows a line with `say`, and logs it.

    Args:
        say: shows a line to people.
        name: of the logger, such as ``__name__``.
        level: at which the line is logged.

    Returns:
        That function.
    """
    logger = logging.getLogger(name)

    def show_and_log(text: str) -> None:
        logger.log(level, "%s", text)
        say(text)

    return show_and_log


def show_errors(name: str) -> None:
    """Has this process write what is logged as an error below `name` to stderr, with tracebacks.

    For processes of our own, whose stderr is their log: there nothing may be wrong in silence.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    handler.setFormatter(logging.Formatter("leash: %(message)s"))
    logging.getLogger(name).addHandler(handler)


def say_on_stderr(text: str) -> None:
    """Shows a line on stderr, unless a handler of the user's gets it: a library's default `say`."""
    if not _is_routed():
        print(f"leash: {text}", file=sys.stderr, flush=True)


def _is_routed() -> bool:
    """Whether a handler of the user's gets what is logged."""
    handlers = [*_ROOT.handlers, *(logging.getLogger().handlers if _ROOT.propagate else ())]
    return not all(isinstance(handler, logging.NullHandler) for handler in handlers)
