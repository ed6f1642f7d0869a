"""Writes a run's checkpoints: when it is time, when somebody asks, and at the end.

::

    checkpoints/latest.safetensors    every 60 s, or what --checkpoint-every says; each replaces
                                      the one before it
                epoch-N.safetensors   with --checkpoint-every 1e
                final.safetensors     at the end; latest then goes, unless final lies in the midst
                                      of a step

Under bsp all chunks are brought to the same step first, which takes a part of a step: see
leash.ps.shard.alignment. Under other policies workers are at different steps in any case, and the
shards are held where they are.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from leash.ps.errors import LeashError, ProtocolError
from leash.ps.options.optimizer import optimizer_settings
from leash.ps.options.server import IN_EPOCHS, IN_SECONDS, IN_UPDATES, ServerOptions
from leash.ps.policy import BSP
from leash.ps.runs.checkpoint import save_checkpoint
from leash.ps.runs.disk import THIS_HOST, Disk, unfinished
from leash.ps.runs.rundir import RunDir
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.saves import Saves
from leash.ps.server.shards import Shards, SharedModel
from leash.ps.shard.metrics import Metrics

LATEST: Final = "latest"
FINAL: Final = "final"
MOST_OF_THE_TIME: Final = 0.05  # so much of a run may go into checkpoints that replace one another


class Checkpoints:
    """Knows which checkpoints are due, and writes them. For the thread of the server's loop.

    Attributes:
        saves: those that somebody has asked for.
        has_failed: whether the newest could not be written.
    """

    def __init__(
        self, options: ServerOptions, run_dir: RunDir | None, coordinator: Coordinator,
        shards: Shards, metrics: Metrics, say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._disk: Final[Disk] = run_dir.disk if run_dir is not None else THIS_HOST
        self.saves: Final = Saves(now, is_possible=run_dir is not None, disk=self._disk)
        self.has_failed: bool = False
        self._options: Final = options
        self._every: Final = options.checkpoints
        self._run_dir: Final = run_dir
        self._coordinator: Final = coordinator
        self._shards: Final = shards
        self._metrics: Final = metrics
        self._say: Final = say
        self._now: Final = now
        self._wanted: str | None = None  # the name of the next one, which has not been written yet
        self._is_held = False  # whether shards are held for it, or are to be
        self._ready_s: float | None = None  # before it no `latest` is written without being asked
        # Of the newest: how many updates and steps there were, and how many epochs were complete.
        self._version = self._steps = self._epoch = 0
        self._told: str = ""  # the last failure that was said

    def go_on(self) -> None:
        """Counts updates and epochs from where the run goes on. REQUIRES: it knows them."""
        self._version, self._epoch = self._shards.version, self._metrics.epoch

    def tick(self) -> None:
        """Looks whether a checkpoint is due. Call it a few times a second."""
        if self._run_dir is None or not self._is_possible:
            return
        if self._wanted is None and (self._is_due() or self.saves.awaited):
            self._wanted = LATEST
        self._want_epoch()
        self.advance()

    def advance(self) -> None:
        """Writes the checkpoint that is due once it can be. Call it after every message."""
        if self._wanted == LATEST and not (self._coordinator.trains or self.saves.awaited):
            self._wanted = None  # who has left in the midst of a step has left that alone
            self.let_go()
        if self._wanted is not None and self._comes_to_stand():
            name, self._wanted = self._wanted, None
            self._write(name)

    @property
    def is_aligning(self) -> bool:
        """Whether shards are on their way to a common step, or are held there."""
        return self._is_held

    def is_final_possible(self) -> bool:
        """Whether the last checkpoint can be written as it should be; call it until it can."""
        return not self._is_possible or self._comes_to_stand()

    def write_final(self) -> None:
        """Writes the last checkpoint, whatever the state of the chunks.

        Before it that of an epoch which has been completed since the last tick, if it is kept.
        """
        self._want_epoch()
        name, self._wanted = self._wanted, None
        self._write(*([] if name in (None, LATEST) else [name]), FINAL)

    def let_go(self) -> None:
        """Lets shards go on that are held for a checkpoint."""
        if self._is_held:
            self._is_held = False
            self._shards.go_on()

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
        self._is_held = True
        try:
            return self._shards.align()
        except ProtocolError:
            return True  # a shard is lost, and the attempt to write says so

    def _write(self, *names: str) -> None:
        """Writes the same state to all of these."""
        model = self._shards.model
        if self._run_dir is None or model is None or not self._shards.initialized:
            return
        paths, began_s = [self._run_dir.checkpoint(name) for name in names], self._now()
        try:
            with self._shards.held():
                for path in paths:
                    self._save(model, path)
        except ProtocolError as error:
            self._fail(paths[-1], error)
        finally:
            self.let_go()
            took_s = self._now() - began_s
            self._ready_s = began_s + max(self._every_s, took_s / MOST_OF_THE_TIME)

    def _save(self, model: SharedModel, path: Path) -> None:
        options = {**optimizer_settings(self._options), **self._metrics.options_of_groups}
        try:
            position = self._coordinator.position()
            saved = save_checkpoint(model, path, position, options, self._disk)
        except (ProtocolError, OSError, SafetensorError) as error:
            self._fail(path, error)
            return
        self.has_failed, self._told = False, ""
        self._version, self._steps = self._shards.version, self._metrics.steps
        self.saves.serve(path)
        is_bsp = self._coordinator.rule.policy is BSP
        if path.stem == FINAL and (saved.is_between_steps or not is_bsp):
            self._disk.remove(path.with_stem(LATEST))

    def _fail(self, path: Path, error: Exception) -> None:
        """Says that a checkpoint could not be written, once for each reason."""
        self.has_failed = True
        with suppress(OSError):  # where nothing can be written, there may be nothing to unlink
            self._disk.remove(unfinished(path))
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.saves.fail(LeashError(f"no checkpoint {path.name}: {why}"))
        if why != self._told:
            self._told = why
            self._say(f"no checkpoint {path.name}: {why}")
