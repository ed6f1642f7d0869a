"""When a run writes which checkpoint, what it does where one cannot be written, and what it holds.

The server is one without sockets and processes, with a clock that the tests move.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from leash.ps.runs.checkpoint import check_checkpoint, open_checkpoint
from leash.ps.runs.checkpoint_file import Plan
from leash.ps.runs.chunk_states import SavedChunks
from leash.ps.runs.disk import THIS_HOST, Disk, OpenFile, ThisHost, Writing
from leash.ps.runs.position import Position
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import TRY_AGAIN_S
from leash.ps.server.checkpoints import HOLD_S, LET_GO_S, Checkpoints
from leash.ps.wire.messages import Push
from support.sockless import CHUNKS, LAYOUT, SocklessServer, TightDisk, hand

MINUTE = 60.0


class Run:
    """A run that writes checkpoints, and what it says."""

    def __init__(
        self, folder: Path, every: str, policy: str = "asp", *, starts: bool = True,
        disk: Disk = THIS_HOST, **options: Any,
    ) -> None:  # fmt: skip
        self.server = SocklessServer(
            policy, checkpoint_every=every, **{"workers": 2, "shards": 2, **options}
        )
        self.said: list[str] = []
        self.folder = folder / "checkpoints"
        self.checkpoints = Checkpoints(
            self.server.options, RunDir(folder, disk), self.server.coordinator, self.server.shards,
            self.server.metrics, self.said.append, self.server.clock,
        )  # fmt: skip
        self.step = 0
        if starts:
            self.server.start()
            self.checkpoints.tick()

    def train(self, steps: int = 1) -> None:
        """Every worker takes so many steps."""
        for _ in range(steps):
            self.step += 1
            for worker in self.server.members.ranks:
                self.server.push(worker, self.step)

    def wait(self, seconds: float = MINUTE) -> None:
        self.server.clock.skip(seconds)
        self.checkpoints.tick()

    @property
    def names(self) -> list[str]:
        return sorted(path.name.removesuffix(".safetensors") for path in self.folder.glob("*"))

    def version(self, name: str = "latest") -> int:
        """How many updates the newest of this name had seen."""
        return int(check_checkpoint(self.path(name))["version"])

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def chunks(self, name: str) -> SavedChunks:
        nbytes = self.server.options.chunk_nbytes
        return SavedChunks.of(check_checkpoint(self.path(name)), LAYOUT, nbytes)


# When.


def test_one_is_written_a_minute_after_the_start_and_then_one_every_minute_in_its_place(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "60s")
    for version in (2, 4, 6):
        run.train()
        run.wait(59)
        assert run.names == ([] if version == 2 else ["latest"])
        assert version == 2 or run.version() == version - 2
        run.wait(1)
        assert (run.names, run.version()) == (["latest"], version)


def test_none_is_written_while_nothing_changes(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s")
    run.wait(10 * MINUTE)
    assert run.names == []
    run.train()
    run.wait()
    run.path("latest").unlink()
    run.wait(10 * MINUTE)
    assert run.names == []
    run.train()
    run.wait()
    assert run.names == ["latest"]


def test_one_is_written_too_where_the_parameters_of_this_process_are_frozen(tmp_path: Path) -> None:
    """Their version stays, while chunks of other shards are trained."""
    run = Run(tmp_path, "60s", shards=4, workers=1)
    run.train()
    run.wait()
    own, *others = run.server.planes
    for version in (2, 3):
        frozen = Push(1, run.server.incarnation(1), version, 0, "f32", 1, absent=b"\x01")
        for plane in others:
            run.server.push_to(plane, 1, version)
        hand(own, frozen)
        run.wait()
        assert run.version() == version


def test_one_is_written_when_so_many_updates_have_come_since_the_newest(tmp_path: Path) -> None:
    run = Run(tmp_path, "5u")
    run.train(2)
    run.wait()
    assert run.names == []
    run.train()
    run.wait(0)
    assert run.version() == 6
    run.train(2)
    run.wait()
    assert run.version() == 6
    run.train()
    run.wait(0)
    assert run.version() == 12


def test_that_of_each_epoch_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, "1e")
    for epoch in (1, 2, 3):
        run.train()
        run.wait()
        run.server.metrics.complete(epoch)
        run.wait(0)
        run.wait(0)
    assert run.names == ["epoch-1", "epoch-2", "epoch-3"]
    assert [run.version(name) for name in run.names] == [2, 4, 6]


def test_of_every_second_epoch_it_is_the_second(tmp_path: Path) -> None:
    run = Run(tmp_path, "2e")
    for epoch in range(1, 6):
        run.server.metrics.complete(epoch)
        run.wait()
    assert run.names == ["epoch-2", "epoch-4"]


def test_that_of_an_epoch_which_ends_with_the_run_is_written_beside_the_last(
    tmp_path: Path,
) -> None:
    """It may have been completed since the last tick."""
    run = Run(tmp_path, "1e")
    run.train()
    run.server.metrics.complete(1)
    run.checkpoints.begin_final()
    assert run.names == ["epoch-1", "final"]
    assert check_checkpoint(run.path("epoch-1")) == check_checkpoint(run.path("final"))
    assert RunDir(tmp_path).newest_checkpoint == run.path("final")


def test_never_means_at_the_end_and_when_somebody_asks(tmp_path: Path) -> None:
    run = Run(tmp_path, "never")
    for epoch in range(1, 4):
        run.train()
        run.server.metrics.complete(epoch)
        run.wait(100 * MINUTE)
    assert run.names == []
    run.checkpoints.saves.ask(5, has_values=True)
    run.wait(0)
    assert run.names == ["latest"]
    run.checkpoints.begin_final()
    run.checkpoints.saves.close()
    assert run.names == ["final"]


@pytest.mark.parametrize("every", ["60s", "1u", "1e", "never"])
def test_none_is_written_of_a_model_that_has_no_values_or_by_a_server_without_a_folder(
    tmp_path: Path, every: str
) -> None:
    run = Run(tmp_path, every, starts=False)
    run.wait()
    run.checkpoints.begin_final()
    for rank in run.server.members.ranks:  # now there is a model
        run.server.hello(rank)
    run.wait()
    run.checkpoints.begin_final()
    assert run.checkpoints.is_final_possible()
    run.server.init()
    nowhere = Checkpoints(
        run.server.options, None, run.server.coordinator, run.server.shards, run.server.metrics,
        run.said.append, run.server.clock,
    )  # fmt: skip
    run.train()
    run.server.metrics.complete(1)
    run.server.clock.skip(MINUTE)
    nowhere.tick()
    nowhere.begin_final()
    assert list(tmp_path.iterdir()) == []
    assert run.said == []


def test_a_run_that_goes_on_counts_from_where_the_one_before_ended(tmp_path: Path) -> None:
    by_updates, by_epochs = Run(tmp_path / "u", "5u"), Run(tmp_path / "e", "2e")
    by_updates.train(2)  # stands for what was trained before
    by_updates.checkpoints.go_on()
    by_updates.train(2)
    by_updates.wait()
    assert by_updates.names == []
    by_updates.train()
    by_updates.wait()
    assert by_updates.version() == 10
    by_epochs.server.metrics.go_on(Position(0, 3))
    by_epochs.checkpoints.go_on()
    by_epochs.wait()
    assert by_epochs.names == []
    by_epochs.server.metrics.complete(4)
    by_epochs.wait(0)
    assert by_epochs.names == ["epoch-4"]


@pytest.mark.parametrize(("every", "takes_s"), [("1u", 1.0), ("1s", 0.5), ("60s", 9.0)])
def test_workers_wait_for_them_at_most_a_twentieth_of_the_time(
    tmp_path: Path, every: str, takes_s: float
) -> None:
    """They wait for the end of a step, which takes so long here."""
    run, waited_s = Run(tmp_path, every, "bsp"), 0.0
    began_s = run.server.clock()
    while run.server.clock() < began_s + 900:
        run.train()
        run.step += 1
        for plane in run.server.planes:
            run.server.push_to(plane, 1, run.step)
            run.server.push_to(plane, 2, run.step) if plane is not run.server.plane else None
        run.wait(0.5)
        if run.checkpoints.is_aligning:
            run.server.clock.skip(takes_s)
            waited_s += takes_s
        run.server.push_to(run.server.plane, 2, run.step)
        run.checkpoints.advance()
    assert 0.03 * 900 < waited_s <= 0.05 * 900 + takes_s


def test_shards_that_do_not_come_to_one_step_are_let_go_now_and_then(tmp_path: Path) -> None:
    """A worker that has joined meanwhile may have to pull from one before it pushes to another."""
    run = Run(tmp_path, "1u", "bsp")
    own, *others = run.server.planes
    run.train()
    run.step += 1
    for plane in others:
        run.server.push_to(plane, 1, run.step)
        run.server.push_to(plane, 2, run.step)
    run.server.push_to(own, 1, run.step)
    run.wait(0.5)
    for _ in range(3):
        assert run.checkpoints.is_aligning
        run.server.clock.skip(HOLD_S + 0.01)
        run.checkpoints.advance()
        assert not run.checkpoints.is_aligning
        assert not any(plane.is_held for plane in others)
        run.server.clock.skip(LET_GO_S)
        run.checkpoints.advance()
    run.server.push_to(own, 2, run.step)
    run.checkpoints.advance()
    assert run.names == ["latest"]


# While it is being written.


class SlowDisk(ThisHost):
    """A disk whose checkpoints take one part at a time, when a test says so."""

    def __init__(self) -> None:
        self.parts = 0  # how many may still be taken
        self.abandoned = 0

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        return SlowWriting(self, super().begin(paths, plan, is_urgent=is_urgent))


class SlowWriting:
    def __init__(self, disk: SlowDisk, writing: Writing) -> None:
        self._disk, self._writing = disk, writing

    @property
    def is_over(self) -> bool:
        return self._writing.is_over

    @property
    def failure(self) -> OSError | None:
        return self._writing.failure

    def room(self, nbytes: int) -> memoryview | None:
        return self._writing.room(nbytes) if self._disk.parts else None

    def take(self, array: int, start: int, nbytes: int) -> None:
        self._disk.parts -= 1
        self._writing.take(array, start, nbytes)

    def finish(self) -> None:
        self._writing.finish()

    def open(self) -> OpenFile:
        return self._writing.open()

    def abandon(self) -> None:
        self._disk.abandoned += not self.is_over
        self._writing.abandon()


def values_in(path: Path) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("policy", ["asp", "bsp"])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_workers_go_on_while_one_is_written_and_it_is_of_the_moment_at_which_it_was_begun(
    tmp_path: Path, policy: str, shards: int
) -> None:
    disk = SlowDisk()
    run = Run(tmp_path, "60s", policy, disk=disk, shards=shards, momentum=0.5)
    whole = Run(tmp_path / "whole", "60s", policy, shards=shards, momentum=0.5)
    for each in (run, whole):
        each.train(3)
        each.wait()
    expected = values_in(whole.path("latest"))
    while run.checkpoints.is_writing:
        assert not any(plane.is_held for plane in run.server.planes)
        run.train()
        disk.parts += 1
        run.checkpoints.advance()
    assert run.step > 3 + CHUNKS
    assert values_in(run.path("latest")) == expected
    assert {state.clocks.least for state in run.chunks("latest").states} == {3}
    kept = [plane.model.shard.snapshot_nbytes for plane in run.server.planes if plane.model]
    assert kept == [0] * shards


def test_while_one_is_written_no_other_is_begun_and_who_asks_gets_the_next(tmp_path: Path) -> None:
    disk = SlowDisk()
    run = Run(tmp_path, "1u", disk=disk)
    saves = run.checkpoints.saves
    run.train()
    run.wait(0)
    assert run.checkpoints.is_writing
    run.train()
    assert saves.ask(5, has_values=True) is None
    run.wait()
    assert run.names == ["latest.safetensors.unfinished"]
    disk.parts = CHUNKS
    run.checkpoints.advance()
    assert run.version() == 2
    assert saves.ask(5, has_values=True) is None
    disk.parts = CHUNKS
    run.checkpoints.advance()
    assert run.version() == 4
    assert saves.ask(5, has_values=True)
    saves.close()


def test_the_last_one_does_not_wait_for_one_that_is_being_written(tmp_path: Path) -> None:
    disk = SlowDisk()
    run = Run(tmp_path, "60s", disk=disk)
    run.train()
    saves = run.checkpoints.saves
    saves.ask(5, has_values=True)
    run.wait()
    assert run.checkpoints.is_writing
    run.train()
    disk.parts = CHUNKS
    run.checkpoints.begin_final()
    assert (run.checkpoints.has_final, disk.abandoned) == (True, 1)
    assert (run.names, run.version("final")) == (["final"], 4)
    assert saves.read(5, 0) == run.path("final").read_bytes()
    saves.close()


def test_a_shard_that_is_lost_while_one_is_written_is_named(tmp_path: Path) -> None:
    disk = SlowDisk()
    run = Run(tmp_path, "60s", disk=disk)
    run.train()
    run.wait()
    run.server.far.all[0].lose("killed by SIGKILL")
    disk.parts = CHUNKS
    run.checkpoints.advance()
    assert run.said == [
        "no checkpoint latest.safetensors: shard 1 (process 70001) was lost: killed by SIGKILL"
    ]
    assert (run.checkpoints.is_hopeless, run.names) == (True, [])


# For those who ask.


def test_whoever_asks_gets_one_of_the_state_by_then(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s")
    run.train()
    run.wait()
    run.train(2)
    saves = run.checkpoints.saves
    assert saves.ask(5, has_values=True) is None
    run.wait(0.0)
    assert run.version() == 6
    assert saves.ask(5, has_values=True) == run.path("latest").stat().st_size
    assert saves.read(5, 0) == run.path("latest").read_bytes()
    saves.close()


def test_whoever_asks_at_the_end_gets_the_last_one(tmp_path: Path) -> None:
    run = Run(tmp_path, "never")
    run.train()
    saves = run.checkpoints.saves
    saves.ask(5, has_values=True)
    run.checkpoints.begin_final()
    assert saves.read(5, 0) == run.path("final").read_bytes()
    saves.close()


# The end.


def test_the_last_one_takes_the_place_of_the_latest(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s")
    run.train()
    run.wait()
    assert run.names == ["latest"]
    run.train()
    run.checkpoints.begin_final()
    assert (run.names, run.version("final")) == (["final"], 4)


# Between two steps.


def test_under_bsp_none_is_written_in_the_midst_of_a_step(tmp_path: Path) -> None:
    run = Run(tmp_path, "1u", "bsp")
    own, other = run.server.planes
    run.train(3)
    for worker in (1, 2):
        run.server.push_to(other, worker, 4)  # half of the chunks have applied step 4
    run.wait()
    assert run.names == []
    assert run.checkpoints.is_aligning
    run.server.push_to(own, 1, 4)
    run.checkpoints.advance()
    assert run.names == []
    assert not own.is_held
    assert other.is_held  # it is there already, and takes nothing of step 5
    run.server.push_to(own, 2, 4)
    assert own.is_held
    run.checkpoints.advance()
    assert run.names == ["latest"]
    chunks = run.chunks("latest")
    assert (chunks.step, chunks.is_between_steps, chunks.version) == (4, True, 4)
    assert len(chunks.states) == CHUNKS
    assert not run.checkpoints.is_aligning
    assert not any(plane.is_held for plane in run.server.planes)


def test_under_bsp_one_who_asks_gets_the_state_after_the_step(tmp_path: Path) -> None:
    run = Run(tmp_path, "never", "bsp")
    own, other = run.server.planes
    saves = run.checkpoints.saves
    saves.ask(5, has_values=True)
    run.server.push_to(other, 1, 1)
    run.server.push_to(other, 2, 1)
    run.wait(0)
    assert saves.ask(5, has_values=True) is None
    for worker in (1, 2):
        run.server.push_to(own, worker, 1)
    run.checkpoints.advance()
    assert saves.ask(5, has_values=True)
    assert run.chunks("latest").is_between_steps
    saves.close()


def test_a_push_that_waits_for_others_is_pushed_again_under_its_number_where_the_run_goes_on(
    tmp_path: Path,
) -> None:
    run = Run(tmp_path, "1u", "bsp")
    run.train(3)
    for plane in run.server.planes:
        run.server.push_to(plane, 1, 4)
    run.wait()
    assert run.chunks("latest").states[0].clocks.by_worker == {1: 4, 2: 3}
    again = SocklessServer("bsp", workers=2, shards=2)
    open_checkpoint(str(run.path("latest")), "sgd", again.shards.require_layout)
    assert [again.hello(rank).first_step for rank in (1, 2)] == [4, 4]


def test_the_end_of_a_bsp_run_waits_for_the_end_of_its_step(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s", "bsp")
    own, other = run.server.planes
    run.train()
    for worker in (1, 2):
        run.server.push_to(other, worker, 2)
    assert not run.checkpoints.is_final_possible()
    for worker in (1, 2):
        run.server.push_to(own, worker, 2)
    assert run.checkpoints.is_final_possible()
    run.checkpoints.begin_final()
    assert run.chunks("final").step == 2


@pytest.mark.parametrize("have_left", [False, True])
def test_where_the_last_one_lies_in_a_step_that_between_two_of_them_stays(
    tmp_path: Path, have_left: bool
) -> None:
    run = Run(tmp_path, "60s", "bsp")
    run.train()
    run.wait()
    for worker in (1, 2):
        run.server.push_to(run.server.planes[1], worker, 2)
    assert not run.checkpoints.is_final_possible()
    run.checkpoints.let_go()
    for worker in (1, 2) if have_left else ():
        run.server.bye(worker, "stopped")
    run.wait()  # for none that would take the place of the latest
    run.checkpoints.let_go()
    run.checkpoints.begin_final()
    assert run.names == ["final", "latest"]
    assert not run.chunks("final").is_between_steps
    assert run.chunks("latest").is_between_steps


def test_a_bsp_run_whose_workers_have_all_gone_waits_for_nobody(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s", "bsp")
    run.train()
    for worker in (1, 2):
        run.server.push_to(run.server.planes[1], worker, 2)
    run.wait()
    assert run.checkpoints.is_aligning
    for worker in (1, 2):
        run.server.bye(worker, "failed")
    run.checkpoints.advance()
    assert run.names == []
    assert not run.checkpoints.is_aligning
    assert run.checkpoints.is_final_possible()
    run.checkpoints.begin_final()
    assert run.names == ["final"]


def test_under_other_policies_shards_are_held_where_they_are(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s", "ssp", bound=3)
    run.server.push_to(run.server.plane, 1, 1)
    run.wait()
    assert run.names == ["latest"]
    assert not any(plane.is_held for plane in run.server.planes)
    assert not any(shard.is_held for shard in run.server.far.all)


# Failures.


WARNING = (
    "WARNING: cannot write checkpoints: {}; the run goes on, keeps what was written before, "
    "and tries again"
)


def test_a_failure_is_said_once_and_tried_again_and_the_run_goes_on(tmp_path: Path) -> None:
    disk = TightDisk()
    run = Run(tmp_path, "60s", disk=disk)
    run.train()
    run.wait()
    good = run.path("latest").read_bytes()
    disk.room = 0
    run.train()
    run.wait()
    for tries in (2, 3, 4):
        assert run.checkpoints.has_failed
        assert (run.names, run.path("latest").read_bytes()) == (["latest"], good)
        run.train()
        run.wait(TRY_AGAIN_S - 0.1)
        assert disk.tries == tries
        run.wait(0.2)
    assert run.said == [WARNING.format("No space left on device")]
    disk.room = None
    run.wait(TRY_AGAIN_S + 0.1)
    assert not run.checkpoints.has_failed
    assert run.version() == 2 * run.step
    assert run.said[1:] == ["can write checkpoints again"]
    disk.room = 0
    run.train()
    run.wait()
    assert len(run.said) == 3  # it was mended in between, so it is said again


def test_of_an_epoch_that_could_not_be_written_the_newest_state_is_kept_as_soon_as_possible(
    tmp_path: Path,
) -> None:
    disk = TightDisk(room=0)
    run = Run(tmp_path, "1e", disk=disk)
    run.train()
    run.server.metrics.complete(1)
    run.wait(0)
    assert run.names == []
    disk.room = None
    run.train()
    run.wait(TRY_AGAIN_S + 0.1)
    assert (run.names, run.version()) == (["latest"], 4)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, "60s")
    run.folder.write_bytes(b"a file")
    run.train()
    run.wait()
    run.checkpoints.begin_final()
    assert run.said == [WARNING.format("File exists")]
    assert (run.checkpoints.has_failed, run.checkpoints.has_final) == (True, False)


@pytest.mark.parametrize("has_ended", [False, True])
def test_who_asks_while_the_disk_is_full_gets_a_file_in_memory(
    tmp_path: Path, has_ended: bool
) -> None:
    disk = TightDisk(room=0)
    run, good = Run(tmp_path, "60s", disk=disk), Run(tmp_path / "good", "60s")
    for each in (run, good):
        each.train()
        if has_ended:
            for worker in (1, 2):
                each.server.bye(worker, "done")
        each.checkpoints.begin_final()
    saves = run.checkpoints.saves
    assert saves.ask(5, has_values=True) is None
    run.checkpoints.advance()
    nbytes = saves.ask(5, has_values=True)
    assert nbytes is not None
    (tmp_path / "fetched").write_bytes(saves.read(5, 0))
    assert (tmp_path / "fetched").read_bytes() == good.path("final").read_bytes()
    assert (run.names, saves.times_fetched) == ([], 1)
    saves.close()


@pytest.mark.parametrize("policy", ["asp", "bsp"])
def test_a_run_that_has_lost_a_shard_has_no_more_checkpoints_and_says_why(
    tmp_path: Path, policy: str
) -> None:
    run = Run(tmp_path, "60s", policy)
    run.train()
    run.server.far.all[0].lose("killed by SIGKILL")
    assert run.checkpoints.is_final_possible()
    run.checkpoints.begin_final()
    assert run.said == [
        "no checkpoint final.safetensors: shard 1 (process 70001) was lost: killed by SIGKILL"
    ]
    assert run.checkpoints.has_failed
    assert not run.server.plane.is_held
