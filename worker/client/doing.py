"""What the thread of a worker that trains is doing, for those who wait for it."""

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from leash.ps.wire.messages import STACK_MAX_NBYTES
from leash.ps.words import BACKWARD, BETWEEN, FORWARD, LOADING

# The phases in which a loop may be that has begun a backward since, and has not said so.
BEFORE_BACKWARD: Final = (BETWEEN, LOADING, FORWARD)
# The functions by which torch runs a backward, and their modules. This module imports no torch.
RUNS_BACKWARD: Final = ("backward", "grad", "_engine_run_backward")
OF_AUTOGRAD: Final = ("torch.autograd", "torch.autograd.graph")


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
        # The newest phase in which the stack has shown a backward, and when it did first.
        self._seen: tuple[tuple[str, float] | None, float] = (None, 0.0)

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
        """The phase that the thread is in, and for how many seconds.

        A loop of one's own does not say when its backward begins: the thread's stack does. The
        seconds then count from the first call that has seen it there.
        """
        noted = self._phase
        phase, since_s = noted
        if phase in BEFORE_BACKWARD and self._is_in_backward():
            if self._seen[0] is not noted:
                self._seen = noted, self._now()
            phase, since_s = BACKWARD, self._seen[1]
        return phase, max(0.0, self._now() - since_s)

    def _is_in_backward(self) -> bool:
        """Whether torch computes gradients for this thread, by the frames of its stack."""
        frame = sys._current_frames().get(self._thread)
        while frame is not None:
            module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
            if function in RUNS_BACKWARD and module in OF_AUTOGRAD:
                return True
            frame = frame.f_back
        return False

    def stack(self) -> bytes:
        """The stack of the thread as Python writes it, the newest call last, in UTF-8.

        Returns:
            Its end, where it is longer than a beat may carry; nothing if the thread has ended.
        """
        frame = sys._current_frames().get(self._thread)
        text = "" if frame is None else "".join(traceback.format_stack(frame))
        return text.encode(errors="replace")[-STACK_MAX_NBYTES:].decode(errors="ignore").encode()
