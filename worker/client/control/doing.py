"""What the thread of a worker that trains is doing, for those who wait for it."""

import faulthandler
import linecache
import re
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Final

from leash.ps.wire.messages import STACK_MAX_NBYTES
from leash.ps.words import BETWEEN

CALL: Final = re.compile(r'File "([^"\n]*)", line (\d+) in (.*)')  # as faulthandler writes it


class Doing:
    """Notes in which phase of a step one thread is; another one tells of it.

    REQUIRES: made by the thread that trains. Any thread may call `told` and `stack`.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begins between two steps.

        Args:
            now: seconds on a clock that never goes back.
        """
        self._now: Final = now
        self._thread: Final = threading.get_ident()
        self._phase = (BETWEEN, now())  # one object, so that no thread sees a half of it

    @property
    def phase(self) -> str:
        """The phase that the thread is in, one of ``leash.ps.words.PHASES``."""
        return self._phase[0]

    def begin(self, phase: str) -> None:
        """Notes that the thread begins a phase, or goes on with it.

        Args:
            phase: one of ``leash.ps.words.PHASES``.
        """
        if phase != self._phase[0]:
            self._phase = phase, self._now()

    def told(self) -> tuple[str, float]:
        """The phase that the thread is in, and for how many seconds."""
        phase, since_s = self._phase
        return phase, max(0.0, self._now() - since_s)

    def stack(self) -> bytes:
        """The stack of the thread as Python writes it, the newest call last, in UTF-8.

        Returns:
            Its end, where it is longer than a beat may carry; nothing if the thread has ended.
        """
        # The interpreter itself writes it: frames of a thread that runs are no objects to look at.
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            threads = file.read().decode(errors="replace").split("\n\n")
        own = next((text for text in threads if f"0x{self._thread:016x}" in text), "")
        text = "".join(map(_with_source, reversed(CALL.findall(own))))
        return text.encode(errors="replace")[-STACK_MAX_NBYTES:].decode(errors="ignore").encode()


def _with_source(call: tuple[str, str, str]) -> str:
    file, line, function = call
    source = linecache.getline(file, int(line)).strip()
    return f'  File "{file}", line {line}, in {function}\n' + (f"    {source}\n" if source else "")
