"""Writes what a run leaves when it has ended: its summary.json and its last checkpoint.

::

    begin ──▸ both are being written ──▸ summary.json once more, if anything could not be written
                     │       ▲                │                         ──▸ on_end
                     └───────┴── a disk that takes nothing: every TRY_AGAIN_S, until somebody has
                                 fetched the model or has asked for the end, or nobody is patient

While they cannot be written, it waits, so that somebody may fetch the model or make room for it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from leash.ps.runs.disk import Writing
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import TRY_AGAIN_S, Unwritten
from leash.ps.server.checkpoints import Checkpoints
from leash.ps.wire.requester import RETRY_S

# Who has fetched the model asks again for its last piece, if that was lost with a connection.
FETCHED_S: Final = 2 * RETRY_S
LAST_S: Final = 1.0  # after a second signal, what is being written has so long


@dataclass(frozen=True, slots=True)
class _Wait:
    """What was when one began to wait for the disk."""

    began_s: float
    fetched: int  # how often a checkpoint had been
    asked: int  # how often somebody had asked for the end


class Results:
    """Knows what of a run's results is written, and for how long one waits for the rest.

    Attributes:
        is_writing: whether they are being written, or waited for.
        has_given_up: whether one has ended the wait without all of them.
    """

    def __init__(
        self,
        run_dir: RunDir | None,
        checkpoints: Checkpoints,
        unwritten: Unwritten,
        *,
        summary: Callable[[], dict[str, Any]],
        times_asked: Callable[[], int],
        try_again: Callable[[], None],
        on_end: Callable[[], None],
        patience_s: float,
        address: str,
        say: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        """Writes nothing yet.

        Args:
            run_dir: where the run leaves its files; None for nowhere.
            checkpoints: of the run.
            unwritten: hears what cannot be written.
            summary: gives the content of summary.json, as it is now.
            times_asked: says how often somebody has asked for the end.
            try_again: writes what else could not be written, if that can be now.
            on_end: called once, when all is written or nobody waits any longer.
            patience_s: for so long one waits for the disk.
            address: where the server listens, for people who have to fetch the model.
            say: shows a line.
            now: seconds on a clock that never goes back.
        """
        self.is_writing: bool = False
        self.has_given_up: bool = False
        self._run_dir: Final = run_dir
        self._checkpoints: Final = checkpoints
        self._unwritten: Final = unwritten
        self._summarized: Final = summary
        self._times_asked: Final = times_asked
        self._try_again: Final = try_again
        self._on_end: Final = on_end
        self._patience_s: Final = patience_s
        self._address: Final = address
        self._say: Final = say
        self._now: Final = now
        self._attempt_s = 0.0  # when the newest attempt to write them began
        self._again_s = 0.0  # when the next one is due
        self._has_summary = run_dir is None
        self._has_amended = False  # it has been written once more, for the last time
        self._summary: Writing | None = None  # while it is being written
        self._wait: _Wait | None = None  # once one waits until they can be written
        self._fetched_s = math.inf  # when somebody had fetched the model meanwhile

    def begin(self, *, has_final: bool) -> None:
        """Begins to write them.

        Args:
            has_final: whether the last checkpoint was begun before.
        """
        self.is_writing = True
        self._attempt_s = self._now()
        self._write_summary()
        if not has_final or self._checkpoints.has_failed:
            self._checkpoints.begin_final()
        self._again_s = self._now() + TRY_AGAIN_S
        self.advance()

    def advance(self) -> None:
        """Goes on with what the run leaves, until it is written or nobody waits any longer."""
        self._checkpoints.advance()
        if self._attend_summary() or self._checkpoints.is_writing:
            if self._writes_no_longer():
                self.give_up()
            return
        if not self._is_left and self._wait is not None and self._now() >= self._again_s:
            self._attempt_s = self._now()
            self._again_s = self._attempt_s + TRY_AGAIN_S
            self._try_again()
            self._write_summary()
            if not self._checkpoints.has_final:
                self._checkpoints.begin_final()
            self.advance()
            return
        if self._is_left or self._checkpoints.is_hopeless or self._waits_no_longer():
            if self._unwritten.as_dict() and not self._has_amended:
                self._has_amended = True
                self._write_summary()  # which tells what could not be written, and what came of it
                self.advance()
            else:
                self.give_up()

    def give_up(self) -> None:
        """Ends the wait for what cannot be written, if one waits for anything."""
        if self.is_writing:
            self.is_writing = False
            self.has_given_up = not self._is_left
            self._on_end()

    # How it is done.

    @property
    def _is_left(self) -> bool:
        """Whether everything is written that the run is to leave."""
        return self._has_summary and self._checkpoints.has_final

    def _writes_no_longer(self) -> bool:
        """Whether an attempt to write takes too long, or somebody has asked twice for the end."""
        took_s = self._now() - self._attempt_s
        was_asked = self._times_asked() > 1 and took_s > LAST_S
        return was_asked or took_s > max(self._patience_s, LAST_S)

    def _waits_no_longer(self) -> bool:
        """Whether nobody waits for the disk any more; says at first what one waits for."""
        saves = self._checkpoints.saves
        if self._wait is None:
            self._wait = _Wait(self._now(), saves.times_fetched, self._times_asked())
            self._say_for_what()
        wait, asked = self._wait, self._times_asked()
        was_asked = asked > wait.asked or wait.asked > 1
        if saves.times_fetched > wait.fetched and math.isinf(self._fetched_s):
            self._fetched_s = self._now()
        is_fetched = self._now() - self._fetched_s > FETCHED_S
        return was_asked or is_fetched or self._now() - wait.began_s > self._patience_s

    def _say_for_what(self) -> None:
        """Says what cannot be written, and what people may do."""
        assert self._run_dir is not None
        lacking = [] if self._checkpoints.has_final else ["the last checkpoint"]
        lacking += [] if self._has_summary else [self._run_dir.summary.name]
        self._say(
            f"WARNING: cannot write {' and '.join(lacking)} to {self._run_dir.path}: make room "
            f"there, or fetch the model by: leash save --server {self._address} FILE; "
            f"this server waits for it, for {self._patience_s:.0f} s; Ctrl-C ends it at once"
        )

    def _write_summary(self) -> None:
        if self._run_dir is not None:
            self._summary = self._run_dir.begin_summary(self._summarized())
            self._attend_summary()

    def _attend_summary(self) -> bool:
        """Whether summary.json is being written; notes what has come of it once it is not."""
        if self._summary is None:
            return False
        if not self._summary.is_over:
            return True
        failure, self._summary = self._summary.failure, None
        assert self._run_dir is not None
        self._unwritten.note(self._run_dir.summary, failure)
        self._has_summary |= failure is None
        return False
