"""Turns SIGINT, SIGTERM and SIGHUP into one exception, raised once, in the main thread."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# By this one a launch gives up its server, for whose run no worker is left.
GIVE_UP: Final = signal.SIGUSR2
AGAIN_S: Final = 0.02

FOLLOWS_PARENT: Final = "LEASH_FOLLOWS_PARENT"  # set in the environment of our own children

_tell: Callable[[str], None] | None = None  # who hears of the first SIGTERM
_received: int | None = None
_times = 0
_held = False


class Interrupted(BaseException):
    """A signal asked this process to end. Like KeyboardInterrupt, it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number: Final = number


class ToldToLeave(SystemExit):  # it is no error
    """A worker was told to go, and goes: by SIGTERM, `leash leave`, or its --preempt-file.

    `PSOptimizer.step` raises it once the step is done. Nobody has to catch it: like SystemExit, of
    which it is one, it ends the process without a traceback. The exit status is 143, as of a
    process that SIGTERM has ended: its work is not done, so that whoever starts processes may start
    it again, and `leash launch` does not count it as a failure.
    """

    def __init__(self, why: str) -> None:
        """Keeps who has told it.

        Args:
            why: in a word, such as ``SIGTERM``.
        """
        super().__init__(128 + signal.SIGTERM)
        self.why: Final = why

    def __str__(self) -> str:
        return self.why


def hand_termination_to(tell: Callable[[str], None] | None) -> None:
    """Lets the first SIGTERM be told to a function, which sees to an orderly end, from now on.

    One that comes after it raises Interrupted, as does any other signal.

    Args:
        tell: takes the name of the signal, in the main thread; None for nobody any more.
    """
    global _tell
    _tell = tell


def raise_on_signals() -> None:
    """Lets the first of these signals raise Interrupted in the main thread, from now on.

    The process ignores those that follow: after the first it cleans up, which takes seconds at
    most, and nothing may cut that short.
    """
    for number in SIGNALS:
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup has the process ignore this signal
        signal.signal(number, _on_signal)
    sys.unraisablehook = _on_unraisable


def end_with_parent() -> None:
    """Sends this process SIGTERM when the process of Leash that started it is gone.

    The parent's end closes the pipe at our standard input, even if `kill -9` ended it.
    """
    if os.environ.pop(FOLLOWS_PARENT, None) is not None:
        threading.Thread(target=_await_parents_end, name="leash-parent", daemon=True).start()


def _await_parents_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)  # to the process, so that it wakes the main thread


@contextmanager
def held() -> Iterator[None]:
    """Holds signals back within this context, for work that must not stop half done."""
    global _held
    before = _received
    _held = True
    try:
        yield
    finally:
        _held = False
    if _received is not None and before is None:
        raise Interrupted(_received)


def received() -> int | None:
    """The number of the signal that came; None if none did."""
    return _received


def times_received() -> int:
    """How many signals have come."""
    return _times


def ignore_signals() -> None:
    """Ignores signals from now on: the exit status is decided, and the interpreter is ending."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _on_signal(number: int, _: FrameType | None) -> None:
    global _received, _tell, _times
    if number == signal.SIGTERM and _tell is not None and _received is None:
        tell, _tell = _tell, None
        tell(signal.Signals(number).name)
        return
    _times += 1
    if _received is None:
        _received = number
        if not _held:
            raise Interrupted(number)


def _on_unraisable(lost: "sys.UnraisableHookArgs") -> None:
    """Raises Interrupted again if it came up where Python swallows exceptions, as in a __del__."""
    global _received
    if isinstance(lost.exc_value, Interrupted):
        _received = None
        # Not here: this is such a place, too.
        main_thread = threading.main_thread().ident
        again = threading.Timer(AGAIN_S, signal.pthread_kill, (main_thread, lost.exc_value.number))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
