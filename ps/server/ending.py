"""Decides when a run ends, and goes with it from there until everybody has left.

::

    stop ──▸ bsp: the end of the step, for ALIGN_S at most ──▸ all members are told of it
                                   they say bye, within GRACE_S ──▸ is_over ──▸ finish

A run that nobody stops is over when its workers have left, and its observers too.
"""

import math
import signal
from collections.abc import Callable
from typing import Final

from leash.ps.interrupt import GIVE_UP
from leash.ps.options.server import ServerOptions
from leash.ps.server.checkpoints import Checkpoints
from leash.ps.server.coordinator import ALL_GONE, Coordinator
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT
from leash.ps.words import DONE, FAILED, INCOMPLETE, TIMED_OUT, WORKERS_FAILED

# The end of a bsp run waits so long for the end of a step, so that its last checkpoint is at one.
ALIGN_S: Final = 1.0
GRACE_S: Final = 2.0  # once the server is stopping, the others have so long to say bye


class Ending:
    """Knows why a run ends, how far its end is, and what word and status it comes to.

    Attributes:
        ended: the word for it, as in summary.json.
        status: the exit status of the server.
        signal: the first that has asked for it; 0 for none.
        has_begun: whether the run is to end before its workers have left by themselves.
        has_final: whether the last checkpoint was begun when the step had ended.
    """

    def __init__(
        self, options: ServerOptions, coordinator: Coordinator, members: Members, metrics: Metrics,
        shards: Shards, checkpoints: Checkpoints, say: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:  # fmt: skip
        """Begins with a run that goes on.

        Args:
            options: what the server was started with.
            coordinator: tells the members.
            members: who takes part.
            metrics: the counts of the run.
            shards: all shards as one.
            checkpoints: of the run.
            say: shows a line.
            now: seconds on a clock that never goes back.
        """
        self.ended: str = FAILED  # until the run ends as it should
        self.status: int = 0
        self.signal: int = 0
        self.has_begun: bool = False
        self.has_final: bool = False
        self._coordinator: Final = coordinator
        self._members: Final = members
        self._metrics: Final = metrics
        self._shards: Final = shards
        self._checkpoints: Final = checkpoints
        self._say: Final = say
        self._now: Final = now
        self._until_s = math.inf if options.timeout_s is None else options.timeout_s  # of training
        self._signals = 0  # how many came
        self._reason = ""  # once the run is to end: why, with which status, and how long it waits
        self._status_then = 0
        self._step_deadline_s = 0.0
        self._bye_deadline_s: float | None = None  # once all members are told

    # Whether it is time.

    def go_on(self, trained_s: float) -> None:
        """Gives a run its whole time once more that goes on after its time was over.

        Args:
            trained_s: for how long it has trained under the servers before this one.
        """
        if trained_s >= self._until_s:
            self._say(f"its {self._until_s:g} s of --timeout were over; it has as many again")
            self._until_s += trained_s

    def stop_soon(self, number: int) -> None:
        """Ends the run as that signal would. From any thread, or a signal handler."""
        # The next tick acts on it, since a message may be half sent just now. The first one counts;
        # another one ends the wait for a disk.
        self.signal = self.signal or number
        self._signals += 1

    @property
    def is_asked_for(self) -> bool:
        """Whether somebody has asked for it, or it has begun for another reason."""
        return self.has_begun or bool(self.signal or self._coordinator.asked_to_stop)

    @property
    def times_asked(self) -> int:
        """How often somebody has asked for it: by a signal, or by `leash stop`."""
        return self._signals + bool(self._coordinator.asked_to_stop)

    def stop_if_it_is_time(self) -> None:
        """Stops the run if somebody has asked for it, all are gone for good or its time is over."""
        if self.signal == GIVE_UP:
            self.stop(WORKERS_FAILED, 1)
        elif self.signal:
            self.stop(signal.Signals(self.signal).name, 128 + self.signal)
        if self._coordinator.asked_to_stop:
            self.stop(self._coordinator.asked_to_stop, 0)
        if self._coordinator.deserted:
            self.stop(ALL_GONE, 1)
        if self._metrics.train_seconds > self._until_s:
            self.stop(STOPPED_BY_TIMEOUT, 0)

    # From there on.

    def stop(self, reason: str, status: int) -> None:
        """Ends the run soon: tells all members, and gives them a moment to say bye.

        Under bsp it first waits for the end of the step that workers are in.

        Args:
            reason: for people; the first one counts.
            status: the exit status of the server.
        """
        if not self.has_begun:
            self.has_begun = True
            self._reason, self._status_then = reason, status
            self._step_deadline_s = self._now() + ALIGN_S
            self.advance()

    def advance(self) -> None:
        """Goes on with the checkpoint that is due, if it can be; tells all once the step has ended.

        Call it after every message, and every `RunEngine.wait_s` seconds at the latest.
        """
        if not self.has_begun or self._coordinator.stopping:
            self._checkpoints.advance()
        elif self._shards.lost or self._now() > self._step_deadline_s:
            self._tell_all()
        elif self._checkpoints.is_final_possible():
            if self._coordinator.in_lockstep:  # others may push until they hear of the end
                self._metrics.attempt("the last checkpoint is not begun yet", self._begin_final)
            self._tell_all()

    def _begin_final(self) -> None:
        self.has_final = self._checkpoints.begin_final()

    def _tell_all(self) -> None:
        self._metrics.attempt("the shards could not be let go", self._checkpoints.let_go)
        self._coordinator.stopping = self._reason
        self.status = self._status_then
        self._shards.stop(self._reason)
        self._bye_deadline_s = self._now() + GRACE_S

    @property
    def is_over(self) -> bool:
        """Whether all have left, or the grace is over; a good end also waits for its evaluation."""
        if self._coordinator.closed or self._bye_deadline_s is None:
            return self._coordinator.closed
        waits_for_evaluation = self.status == 0 and not self._members.any_live
        return self._now() > self._bye_deadline_s and not waits_for_evaluation

    def finish(self) -> None:
        """Notes that the run has ended as it should, and how. REQUIRES: it is over."""
        self.ended = self._coordinator.stopping or self._own_end()

    def _own_end(self) -> str:
        """The word for the end of a run whose workers have all left by themselves."""
        unfinished = self._coordinator.unfinished()
        if not unfinished:
            return DONE
        if all(part.state == TIMED_OUT for part in unfinished):
            return TIMED_OUT
        self.status = 1
        return INCOMPLETE
