"""Has a run's checkpoints written: when it is time, when somebody asks, and at the end.

::

    checkpoints/latest.safetensors    every 60 s, or what --checkpoint-every says; each replaces
                                      the one before it
                epoch-N.safetensors   with --checkpoint-every 1e
                final.safetensors     at the end; latest then goes, unless final lies in the midst
                                      of a step

    wanted ──all chunks at one step──▸ snapshot opened ──▸ fed to its writing ──▸ in its place
           workers go on            held for an instant    workers go on

Under bsp all chunks are brought to the same step first, which takes a part of a step: see
leash.ps.shard.alignment. Under other policies workers are at different steps in any case, and the
shards are held where they are. What cannot be written is tried again.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import LeashError, ProtocolError
from leash.ps.options.optimizer import optimizer_settings
from leash.ps.options.server import IN_EPOCHS, IN_SECONDS, IN_UPDATES, NEVER, ServerOptions
from leash.ps.policy import BSP
from leash.ps.runs.chunk_states import SavedChunks
from leash.ps.runs.disk import THIS_HOST, Disk, Writing
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.snapshot import Feed, plan_of
from leash.ps.runs.unwritten import TRY_AGAIN_S, Unwritten, why_of
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.saves import Saves
from leash.ps.server.shards.shards import Shards, SharedModel
from leash.ps.shard.metrics import Metrics

LATEST: Final = "latest"
FINAL: Final = "final"
HOLD_S: Final = 1.0  # shards that do not come to one step are held for no longer at a time
LET_GO_S: Final = 0.2  # and are let go for so long then
NAMELESS: Final = ""  # a file in memory, for those who have asked
CHECKPOINTS: Final = "checkpoints"  # what people hear of that cannot be written
MOST_OF_THE_TIME: Final = 0.05  # so much of a run may workers wait for such as replace one another


@dataclass(slots=True)
class _Underway:
    """A checkpoint that is being written."""

    names: Sequence[str]  # none: in memory
    numbers: Sequence[int]  # of those who have asked for one
    model: SharedModel
    writing: Writing
    feed: Feed
    saved: SavedChunks
    is_bsp: bool
    is_fed: bool = False  # the writing has all of it, and the snapshot is closed


class Checkpoints:
    """Knows which checkpoints are due, and has them written. For the thread of the server's loop.

    Attributes:
        saves: those that somebody has asked for.
        has_failed: whether the newest could not be written.
        has_final: whether the last one is in its place, or there is nothing to write.
        is_hopeless: whether none can be written any more, since a shard is lost.
    """

    def __init__(
        self, options: ServerOptions, run_dir: RunDir | None, coordinator: Coordinator,
        shards: Shards, metrics: Metrics, say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic, unwritten: Unwritten | None = None,
    ) -> None:  # fmt: skip
        self._disk: Final[Disk] = run_dir.disk if run_dir is not None else THIS_HOST
        self.saves: Final = Saves(now, is_possible=run_dir is not None)
        self.has_failed: bool = False
        self.has_final: bool = run_dir is None
        self.is_hopeless: bool = False
        self._options: Final = options
        self._every: Final = options.checkpoints
        self._run_dir: Final = run_dir
        self._coordinator: Final = coordinator
        self._shards: Final = shards
        self._metrics: Final = metrics
        self._say: Final = say
        self._now: Final = now
        self._unwritten: Final = unwritten if unwritten is not None else Unwritten(say)
        self._wanted: str | None = None  # the name of the next one, which has not been begun yet
        self._is_held = False  # whether shards are held for it, or are to be
        self._held_s = 0.0  # since when
        self._align_at_s = -math.inf  # shards are held for it no sooner
        self._earlier_s = 0.0  # for how long they were held before, for the one that is wanted
        self._ready_s: float | None = None  # before it no `latest` is written without being asked
        self._again_s: float | None = None  # after a failure: when the next attempt is due
        self._underway: _Underway | None = None
        self._in_memory = False  # those who ask get a file in memory
        self._told: str = ""  # what was said last of a lost shard
        # Of the newest: how many updates and steps there were, and how many epochs were complete.
        self._version = self._steps = self._epoch = 0

    def go_on(self) -> None:
        """Counts updates and epochs from where the run goes on. REQUIRES: it knows them."""
        self._version, self._epoch = self._shards.version, self._metrics.epoch

    def tick(self) -> None:
        """Looks whether a checkpoint is due. Call it a few times a second."""
        if self._run_dir is not None and self._is_possible:
            self._want_epoch()
            if self._wanted is None and (self._is_due() or self._is_due_again()):
                self._wanted = LATEST
        self.advance()

    def advance(self) -> None:
        """Begins the checkpoint that is due once it can be, and goes on with one that is begun.

        Call it after every message, and when the disk's descriptors tell something.
        """
        self._go_on_writing()
        if self._run_dir is None or not self._is_possible or self._underway is not None:
            return
        if self._wanted is None and self.saves.awaited:
            self._wanted = NAMELESS if self._in_memory else LATEST
        is_for_some = self._coordinator.trains and self._wanted != NAMELESS
        if self._wanted in (LATEST, NAMELESS) and not (is_for_some or self.saves.awaited):
            self._wanted = None  # who has left in the midst of a step has left that alone
            self.let_go()
        if self._wanted is not None and self._comes_to_stand():
            name, self._wanted = self._wanted, None
            self._begin(*([] if name == NAMELESS else [name]))
            self._go_on_writing()

    @property
    def is_aligning(self) -> bool:
        """Whether shards are on their way to a common step, or are held there."""
        return self._is_held

    @property
    def is_writing(self) -> bool:
        """Whether one is being written."""
        return self._underway is not None

    def is_final_possible(self) -> bool:
        """Whether the last checkpoint can be begun as it should be; call it until it can."""
        return not self._is_possible or self._comes_to_stand()

    def begin_final(self) -> bool:
        """Begins the last checkpoint, whatever the state of the chunks; see `has_final`.

        Before it that of an epoch which has been completed since the last tick, if it is kept: the
        same file has both names. One that is being written, and is none of these, is given up.

        Returns:
            Whether there is anything to write.
        """
        if self._underway is not None:
            self._give_up(self._underway)
        if self._run_dir is None or not self._is_possible:
            self.has_final = True
            return False
        self.has_final = False
        self._want_epoch()
        name, self._wanted = self._wanted, None
        self._begin(*([] if name in (None, LATEST, NAMELESS) else [name]), FINAL)
        self._go_on_writing()
        return True

    def let_go(self) -> None:
        """Lets shards go on that are held for a checkpoint."""
        if self._is_held:
            self._is_held = False
            self._shards.go_on()

    def close(self) -> None:
        """Lets go of everything: what is not finished by now never will be."""
        if self._underway is not None:
            self._give_up(self._underway)
        self.saves.close()

    # How it is done.

    @property
    def _is_possible(self) -> bool:
        """Whether there is a model, and all of it has values."""
        return self._shards.model is not None and self._shards.initialized

    def _is_due(self) -> bool:
        if not self._coordinator.trains:
            return False
        if self._ready_s is None:
            self._ready_s = self._now() + self._every_s
        if self._now() < self._ready_s:
            return False
        if self._every.unit == IN_SECONDS:
            # A step without any gradient is no update, and moves samples and clocks all the same.
            newest = self._version, self._steps
            return (self._shards.version, self._metrics.steps) != newest
        return (
            self._every.unit == IN_UPDATES
            and self._shards.version >= self._version + self._every.count
        )

    def _is_due_again(self) -> bool:
        """Whether another attempt is due, after one that has failed."""
        is_late = self._again_s is not None and self._now() >= self._again_s
        return is_late and self._coordinator.trains and self._every.unit != NEVER

    @property
    def _every_s(self) -> float:
        return self._every.count if self._every.unit == IN_SECONDS else 0.0

    def _want_epoch(self) -> None:
        every, epoch = self._every.count, self._metrics.epoch
        if self._every.unit == IN_EPOCHS and epoch // every > self._epoch // every:
            self._epoch = epoch
            self._wanted = f"epoch-{epoch}"

    def _comes_to_stand(self) -> bool:
        """Whether nobody changes the model now in a way that a checkpoint must not show."""
        if not self._coordinator.in_lockstep:
            return True
        now_s = self._now()
        if now_s < self._align_at_s:
            return False
        if not self._is_held:
            self._is_held, self._held_s = True, now_s
        try:
            stands = self._shards.align()
        except ProtocolError:
            return True  # a shard is lost, and the attempt to write says so
        if not stands and now_s - self._held_s > HOLD_S:
            # A worker that has just joined may have to pull from a shard that is held, before it
            # pushes to the one that is waited for.
            self._earlier_s += now_s - self._held_s
            self._align_at_s = now_s + LET_GO_S
            self.let_go()
        return stands

    def _begin(self, *names: str) -> None:
        """Opens a snapshot of the state that there is now, and begins to write it to all of these.

        Workers wait until it is open, and no longer.
        """
        model = self._shards.model
        assert self._run_dir is not None
        assert model is not None
        began_s = self._held_s if self._is_held else self._now()
        numbers = self.saves.take_up()
        options = {**optimizer_settings(self._options), **self._metrics.options_of_groups}
        paths = [self._run_dir.checkpoint(name) for name in names]
        try:
            with self._shards.held():
                moments = model.open_snapshot()
                position = self._coordinator.continuation.position()
                plan, saved = plan_of(model, moments, position, options)
                writing = self._disk.begin(paths, plan, is_urgent=FINAL in names or bool(numbers))
            self._underway = _Underway(
                names, numbers, model, writing, Feed(model, writing, plan), saved,
                self._coordinator.rule.policy is BSP,
            )  # fmt: skip
        except ProtocolError as error:
            self._lose(names, numbers, error)
        finally:
            self.let_go()
            waited_s, self._earlier_s = self._earlier_s + self._now() - began_s, 0.0
            self._ready_s = began_s + max(self._every_s, waited_s / MOST_OF_THE_TIME)
            self._version, self._steps = self._shards.version, self._metrics.steps

    def _go_on_writing(self) -> None:
        underway = self._underway
        if underway is None:
            return
        try:
            if not underway.writing.is_over and not underway.is_fed:
                underway.is_fed = underway.feed.go_on()
        except ProtocolError as error:
            self._give_up(underway)
            self._lose(underway.names, underway.numbers, error)
            return
        except MemoryError as error:
            self._give_up(underway)
            self._fail(underway, error)
            return
        if underway.writing.is_over:
            self._end(underway)

    def _end(self, underway: _Underway) -> None:
        """Takes what a writing has come to."""
        writing, failure = underway.writing, underway.writing.failure
        try:
            if failure is None:
                is_last = FINAL in underway.names  # also for those who have asked meanwhile
                numbers = [*underway.numbers, *(self.saves.take_up() if is_last else ())]
                self.saves.serve(numbers, writing.open)
        except OSError as error:  # too many files are open, or it was removed already
            failure = error
        self._give_up(underway)
        if failure is not None:
            self._fail(underway, failure)
            return
        if not underway.names:
            return
        self.has_failed, self._again_s, self._in_memory = False, None, False
        self._unwritten.done(CHECKPOINTS)
        if FINAL in underway.names:
            self.has_final = True
            if underway.saved.is_between_steps or not underway.is_bsp:
                self._remove_latest()

    def _remove_latest(self) -> None:
        assert self._run_dir is not None
        path = self._run_dir.checkpoint(LATEST)
        try:
            self._disk.remove(path)
        except OSError as error:
            self._say(f"cannot remove {path.name}: {why_of(error)}")

    def _give_up(self, underway: _Underway) -> None:
        """Lets go of a writing; those who have asked wait for another, unless they were served."""
        self._underway = None
        if not underway.is_fed:
            underway.model.close_snapshot()
        underway.writing.abandon()
        self.saves.put_back(underway.numbers)

    def _fail(self, underway: _Underway, error: OSError | MemoryError) -> None:
        """Notes that a file could not be written; those who wait get one in memory instead."""
        if not underway.names:
            told = f"no checkpoint in memory: {why_of(error)}"
            self.saves.fail(underway.numbers, LeashError(told))
            return
        self.has_failed = self._in_memory = True
        self._again_s = self._now() + TRY_AGAIN_S
        self._unwritten.fail(CHECKPOINTS, error)

    def _lose(self, names: Sequence[str], numbers: Sequence[int], error: ProtocolError) -> None:
        """Says that a shard is lost, and with it a part of the model."""
        self.has_failed = self.is_hopeless = True
        name = names[-1] if names else LATEST
        told = f"no checkpoint {name}.safetensors: {error}"
        self.saves.fail(numbers, LeashError(told))
        if told != self._told:
            self._told = told
            self._say(told)
