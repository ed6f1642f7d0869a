"""How a run ends and what it leaves, decided without sockets, processes and time.

Messages come as bytes, other shards are inside this process, and time passes when a test says so.
"""

import errno
import io
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from leash.ps.errors import CheckpointError
from leash.ps.interrupt import GIVE_UP
from leash.ps.options.server import ServerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.audit import audit_run
from leash.ps.runs.checkpoint import check_checkpoint
from leash.ps.runs.checkpoint_file import Bytes, Plan
from leash.ps.runs.disk import ThisHost, Writing, WritingNow
from leash.ps.runs.journal import COUNT_S, read_journal
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import TRY_AGAIN_S
from leash.ps.server.coordinator import ALL_DONE, ALL_GONE
from leash.ps.server.ending import ALIGN_S, GRACE_S
from leash.ps.server.evaluator_process import EvaluatorFailure
from leash.ps.server.results import FETCHED_S
from leash.ps.server.run_engine import ALIGN_TICK_S, LAST_IS_LOST, TICK_S, RunEngine
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.messages import (
    TEXT_MAX,
    Beat,
    Beaten,
    Error,
    Hello,
    Message,
    Ok,
    Push,
    Read,
    Remember,
    Report,
    Save,
    Saved,
    Set,
    Status,
    Stop,
)
from leash.ps.words import WORKERS_FAILED
from support.sockless import (
    LAYOUT,
    OWN_PORT,
    FarShards,
    SocklessServer,
    StillClock,
    TightDisk,
    hand,
)

PACKED = LAYOUT.pack()


class PlayedRun(SocklessServer):
    """A run and its drivers: what they do is done when a test says so."""

    def __init__(
        self, policy: str = "asp", run_dir: RunDir | None = None, disk: Any = None,
        address: str = "", **options: Any,
    ) -> None:  # fmt: skip
        self.options = ServerOptions(chunk_kib=64, policy=policy, **{"workers": 2, **options})
        self.options.check()
        self.clock, self.uptime = StillClock(), StillClock()
        self.sent: list[Message] = []
        self.said: list[str] = []
        self.evaluator_failure: EvaluatorFailure | None = None
        self.far = FarShards(self.options, self.clock, self._send)
        self.engine = RunEngine(
            self.options, run_dir, self.far, OWN_PORT, self._send, say=self.said.append,
            disk=disk or ThisHost(), address=address,
            evaluator_failure=lambda: self.evaluator_failure, now=self.clock,
            uptime=self.uptime, wall_time_us=lambda: 1000,
        )  # fmt: skip
        self.members, self.metrics = self.engine.members, self.engine.metrics
        self.plane, self.shards = self.engine.data, self.engine.shards
        self.coordinator = self.engine.coordinator
        self.answers: list[bytes] = []

    def ask(self, message: Message, payload: bytes | None = None) -> Message:
        return self.ask_for(message, payload)[0]

    def ask_for(self, message: Message, payload: bytes | None = None) -> tuple[Message, Any]:
        """The answer with its payload."""
        asked = encode(message), [] if payload is None else [payload]
        route, header, answer = self.engine.answer(b"its route", *asked)
        assert route == b"its route"
        self.answers += [header, answer or b""]
        return decode(header, REPLIES), answer

    def wait(self, seconds: float = TICK_S) -> None:
        """So much time passes, in which the loop goes on."""
        self.clock.skip(seconds)
        self.uptime.skip(min(seconds, TICK_S))
        self.engine.advance()

    def end(self) -> int:
        """The loop ends; the exit status."""
        assert self.engine.is_over
        self.engine.finish()
        self.engine.write_results()
        assert not self.engine.is_writing
        self.engine.close()
        return self.engine.status

    def train(self, *steps: int) -> None:
        for step in steps:
            for worker in self.members.ranks:
                self.push(worker, step)
                self.engine.advance()

    def push_some(self, worker: int, step: int, chunks: Iterable[int]) -> None:
        """Those chunks of a step, which go to their shards."""
        for plane in self.planes:
            assert plane.model is not None
            for chunk in plane.model.own:
                if chunk.index in chunks:
                    fields = worker, self.incarnation(worker), step, chunk.index, chunk.dtype, 1
                    hand(plane, Push(*fields), bytes(chunk.nbytes))

    def state(self) -> dict[str, Any]:
        """How the run stands, as people are told."""
        state: dict[str, Any] = msgpack.unpackb(self.ask_for(Status())[1])
        return state

    def told(self, worker: int = 1) -> str:
        """Why the run ends, as this worker hears it."""
        return self.beat(worker).stopping


def summary(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
    return told


# The end by itself.


@pytest.mark.parametrize("shards", [1, 3])
def test_a_run_is_over_when_all_workers_have_said_bye_and_leaves_its_results(
    tmp_path: Path, shards: int
) -> None:
    run = PlayedRun(run_dir=RunDir(tmp_path), shards=shards)
    run.start()
    run.train(1, 2)
    run.bye(1)
    assert not run.engine.is_over
    run.bye(2)
    assert run.end() == 0
    assert (summary(tmp_path)["ended"], summary(tmp_path)["steps"]) == ("done", 4)
    assert summary(tmp_path)["refused_messages"] == 0
    assert check_checkpoint(tmp_path / "checkpoints" / "final.safetensors")["version"] == "4"
    lines = (tmp_path / "events.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["event"] for line in lines][:3] == ["joined", "joined", "started"]
    assert run.said[-1] == "ended after 4 steps"


def test_an_observer_is_waited_for_too() -> None:
    run = PlayedRun()
    run.start()
    observer = run.hello(0)
    for worker in (1, 2):
        run.bye(worker)
    assert not run.engine.is_over
    run.bye(0, incarnation=observer.incarnation)
    assert run.engine.is_over


def test_a_run_that_lacks_training_ends_incomplete_with_status_1(tmp_path: Path) -> None:
    run = PlayedRun(run_dir=RunDir(tmp_path))
    run.start()
    run.train(1)
    run.bye(1, "done")
    run.bye(2, "failed")
    assert run.end() == 1
    assert summary(tmp_path)["ended"] == "incomplete"
    assert [part["worker"] for part in summary(tmp_path)["unfinished"]] == [2]
    assert run.said[-1].startswith("to go on: leash server --config")


def test_who_comes_while_the_results_are_written_hears_that_all_is_done() -> None:
    run = PlayedRun(workers=1)
    run.start()
    run.bye(1)
    run.engine.finish()
    run.engine.write_results()
    assert run.refusal(Hello("worker", 1, "late"), PACKED).text == ALL_DONE
    run.engine.close()


# The end before that.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_at_the_next_tick_and_the_first_one_counts(
    tmp_path: Path, number: signal.Signals
) -> None:
    run = PlayedRun(run_dir=RunDir(tmp_path))
    run.start()
    run.train(1)
    run.engine.stop_soon(number)
    run.engine.stop_soon(signal.SIGUSR1)
    assert run.told() == ""
    run.wait()
    run.engine.advance()
    assert run.told() == number.name
    for worker in (1, 2):
        run.bye(worker, "stopped")
    assert run.end() == 128 + number
    assert summary(tmp_path)["ended"] == number.name


def test_a_launch_whose_workers_failed_gives_up_its_run(tmp_path: Path) -> None:
    run = PlayedRun(run_dir=RunDir(tmp_path))
    run.start()
    run.train(1)
    run.engine.stop_soon(GIVE_UP)
    run.wait()
    run.engine.advance()
    assert run.told() == WORKERS_FAILED
    for worker in (1, 2):
        run.bye(worker, "failed")
    assert run.end() == 1
    assert summary(tmp_path)["ended"] == WORKERS_FAILED


def test_who_does_not_say_bye_is_not_waited_for_beyond_the_grace() -> None:
    run = PlayedRun()
    run.start()
    run.engine.stop("a reason", 3)
    run.engine.advance()
    run.wait(GRACE_S)
    assert (run.told(), run.engine.is_over) == ("a reason", False)
    run.wait(TICK_S)
    assert run.engine.is_over
    assert run.end() == 3


def test_the_first_reason_to_stop_is_the_one_that_counts() -> None:
    run = PlayedRun()
    run.start()
    run.engine.stop("the first", 3)
    run.engine.stop("the second", 4)
    run.wait()
    assert (run.told(), run.engine.status) == ("the first", 3)


def test_a_run_whose_time_is_over_ends_well_and_waits_for_its_evaluation() -> None:
    run = PlayedRun(timeout_s=60.0)
    run.start()
    observer = run.hello(0)
    for _ in range(int(61 / 3)):
        run.wait(3.0)
        run.beat(1), run.beat(2)
        run.beat(0, observer.incarnation)
        assert run.told() == ("timeout" if run.clock.now_s - 100 > 60 else "")
    for worker in (1, 2):
        run.bye(worker, "timeout")
    run.wait(GRACE_S + 1)
    assert not run.engine.is_over  # the observer evaluates once more
    run.ask(Report(0, observer.incarnation, "evaluation", 3, 0, 8, 1.0, 0.75, 0.0, 0.0))
    run.bye(0, incarnation=observer.incarnation)
    assert run.end() == 0
    assert run.said[-2] == "test accuracy 75.00 % after epoch 3"  # it came behind the last look


@pytest.mark.parametrize("reason", ["", "too dear"])
def test_a_run_that_somebody_stops_ends_well_leaves_its_results_and_waits_for_its_evaluation(
    tmp_path: Path, reason: str
) -> None:
    run = PlayedRun(run_dir=RunDir(tmp_path))
    run.start()
    run.train(1)
    observer = run.hello(0)
    for again in (reason, "another reason"):  # a request that is repeated changes nothing
        assert run.ask(Stop(again)) == Ok(0, 0, 0, True)
    run.wait()
    ended = f"stopped: {reason}" if reason else "stopped"
    assert run.told() == ended
    assert run.beat(0, observer.incarnation).stopping == ""
    for worker in (1, 2):
        run.bye(worker, "stopped")
    run.wait(GRACE_S + 1)
    assert not run.engine.is_over
    run.bye(0, incarnation=observer.incarnation)
    assert run.end() == 0
    assert summary(tmp_path)["ended"] == ended
    assert check_checkpoint(tmp_path / "checkpoints" / "final.safetensors")["version"] == "2"


def test_the_reason_of_a_stop_is_one_line_that_fits_into_a_message() -> None:
    run = PlayedRun()
    run.start()
    run.ask(Stop("\x1b[31mtoo\n dear" + "é" * (TEXT_MAX - 15)))
    run.wait()
    assert run.told().startswith("stopped: [31mtoo dearéé")
    assert len(run.told()) == TEXT_MAX


def test_a_run_that_everybody_has_left_for_good_ends_after_a_while() -> None:
    run = PlayedRun(rejoin_s=30.0)
    run.start()
    for worker in (1, 2):
        run.bye(worker, "failed")
    run.wait()
    run.wait(30.0)
    assert not run.engine.is_over
    run.wait()
    assert run.engine.is_over
    assert run.end() == 1
    assert ALL_GONE in run.said[-1]


@pytest.mark.parametrize("has_started", [False, True])
def test_an_evaluator_that_fails_ends_only_a_run_that_has_not_started(has_started: bool) -> None:
    run = PlayedRun()
    run.hello(1)
    if has_started:
        run.start()
    run.evaluator_failure = EvaluatorFailure(2, "no MNIST there\n")
    for _ in range(3):
        run.wait()
    told = "the evaluator ended with status 2: no MNIST there"
    if has_started:
        assert run.told() == ""
        assert run.said.count(f"{told}; the run goes on without it") == 1
    else:
        assert (run.told(), run.engine.status) == (told, 2)


@pytest.mark.parametrize("policy", ["asp", "bsp"])
def test_a_lost_shard_ends_the_run_at_once_and_is_named(tmp_path: Path, policy: str) -> None:
    run = PlayedRun(policy, run_dir=RunDir(tmp_path), shards=3)
    run.start()
    run.train(1)
    run.far.all[1].link.lose("killed by SIGKILL")
    run.engine.attend_shards()
    run.engine.advance()
    lost = "shard 2 (process 70002) was lost: killed by SIGKILL"
    assert (run.told(), run.engine.status) == (lost, 1)
    for worker in (1, 2):
        run.bye(worker, "stopped")
    assert run.end() == 1
    assert summary(tmp_path)["ended"] == lost
    assert f"no checkpoint final.safetensors: {lost}" in run.said


def test_a_shard_that_is_told_to_end_ends_the_run_with_that_signals_status() -> None:
    run = PlayedRun(shards=2)
    run.start()
    shard = run.far.all[0].link
    shard.shard.on_signal(signal.SIGTERM)
    shard.advance()
    run.engine.attend_shards()
    run.engine.advance()
    assert run.told() == "shard 1 (process 70001) was told to end: SIGTERM"
    assert run.engine.status == 128 + signal.SIGTERM


# The end of a step.


@pytest.mark.parametrize("shards", [1, 3])
def test_a_bsp_run_that_is_stopped_comes_to_the_end_of_its_step_first(
    tmp_path: Path, shards: int
) -> None:
    run = PlayedRun("bsp", run_dir=RunDir(tmp_path), shards=shards)
    run.start()
    run.train(1)
    run.push(1, 2)
    run.push_some(2, 2, [3])  # worker 2 is still at it
    run.engine.stop("SIGTERM", 143)
    assert run.engine.wait_s == ALIGN_TICK_S
    run.wait(ALIGN_TICK_S)
    assert (run.told(), run.engine.is_held) == ("", False)
    run.push_some(2, 2, [0, 1, 2])
    assert run.engine.is_held  # the step is complete, and nobody begins the next one
    run.engine.advance()
    assert (run.told(), run.engine.is_held, run.engine.wait_s) == ("SIGTERM", False, TICK_S)
    for worker in (1, 2):
        run.bye(worker, "stopped")
    assert run.end() == 143
    told = check_checkpoint(tmp_path / "checkpoints" / "final.safetensors")
    assert set(json.loads(told["chunks"])["least_clocks"]) == {2}


def test_a_bsp_run_whose_other_shards_tell_late_of_their_values_has_a_last_checkpoint_too(
    tmp_path: Path,
) -> None:
    run = PlayedRun("bsp", run_dir=RunDir(tmp_path), shards=2)
    for rank in run.members.ranks:
        run.hello(rank)
    for plane in run.planes:
        assert plane.model is not None
        for chunk in plane.model.own:
            plane.model.shard.init(chunk.index, bytes(chunk.nbytes))
    run.engine.stop("SIGTERM", 143)  # the coordinator has not heard of the values yet
    for worker in (1, 2):
        run.bye(worker, "stopped")
    assert run.end() == 143
    assert check_checkpoint(tmp_path / "checkpoints" / "final.safetensors")["version"] == "0"


def test_a_step_that_does_not_end_is_not_waited_for_long() -> None:
    run = PlayedRun("bsp")
    run.start()
    run.push(1, 1)
    run.push_some(2, 1, [3])
    run.engine.stop("SIGTERM", 143)
    run.wait(ALIGN_S)
    assert run.told() == ""
    run.wait(ALIGN_TICK_S)
    assert run.told() == "SIGTERM"
    assert [m.code for m in run.sent if isinstance(m, Error)] == ["stopping"] * 3  # who waited


def test_a_checkpoint_that_is_due_holds_the_data_socket_until_it_is_written(
    tmp_path: Path,
) -> None:
    run = PlayedRun("bsp", run_dir=RunDir(tmp_path), checkpoint_every="1u")
    run.start()
    run.push(1, 1)
    run.push_some(2, 1, [3])
    run.ask(Save(5))
    run.wait()
    assert run.engine.wait_s == ALIGN_TICK_S
    run.push_some(2, 1, [0, 1, 2])
    assert run.engine.is_held
    assert run.ask(Save(5)) == Saved(5, False, 0)
    run.engine.advance()
    assert not run.engine.is_held
    saved = run.ask(Save(5))
    assert isinstance(saved, Saved)
    written = (tmp_path / "checkpoints" / "latest.safetensors").read_bytes()
    assert (saved.ready, saved.nbytes) == (True, len(written))
    assert run.ask_for(Read(5, 0))[1] == written
    run.engine.close()


# Who is evicted.


def test_a_worker_that_does_not_read_is_evicted_wherever_that_was_seen() -> None:
    run = PlayedRun(shards=2, workers=3)
    run.start()
    run.far.all[0].link.shard.advance([3])
    run.far.all[0].link.advance()
    run.engine.attend_shards()
    run.engine.advance(unreading=[1])
    assert [member.worker for member in run.members.live] == [2]
    assert run.metrics.evictions == 2


def test_who_is_left_behind_and_who_is_back_is_said_once() -> None:
    run = PlayedRun(evict_s=10.0)
    run.start()
    for _ in range(60):
        run.beat(1)
        run.wait()
    who = str(run.members.workers[2])
    silent = f"{who} has been silent for 10 s: the run goes on without it, until it comes back"
    assert run.said.count(silent) == 1
    run.hello(2)
    run.wait()
    run.wait()
    assert run.said.count(f"{who} is back") == 1
    assert not any("worker 1 " in line for line in run.said)


def test_a_server_that_is_killed_has_left_its_events_to_the_system(tmp_path: Path) -> None:
    run = PlayedRun("asp", RunDir(tmp_path))
    run.start()
    run.push(1, 1)
    run.wait()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][-2:] == ["push", "step"]
    run.engine.close()


def test_the_silence_of_others_is_excused_while_the_engine_itself_was_held_up() -> None:
    run = PlayedRun(evict_s=10.0)
    run.start()
    for clock in (run.clock, run.uptime):
        clock.skip(60.0)
    run.engine.advance()
    assert [member.worker for member in run.members.live] == [1, 2]
    run.wait(11.0)  # in which it could have heard them
    assert run.members.live == []


@pytest.mark.parametrize("pause_s", [0.9, 20.0])
@pytest.mark.parametrize("reads_first", [False, True])
def test_after_a_pause_nobody_is_evicted_whose_beats_wait_to_be_read(
    reads_first: bool, pause_s: float
) -> None:
    run = PlayedRun(evict_s=1.0, shards=2)
    run.start()
    for _ in range(3):  # a beat every fifth of the time, then a pause
        run.wait(0.2)
    for clock in (run.clock, run.uptime):
        clock.skip(pause_s)
    if reads_first:
        for worker in (1, 2):
            run.ask(Beat(worker, run.incarnation(worker)))
    run.engine.attend_shards()  # of which the other was stopped too, and has told nothing since
    run.engine.advance()
    assert [member.worker for member in run.members.live] == [1, 2]
    assert run.shards.lost == ""
    run.far.all[0].link.advance()
    for _ in range(7):  # a pause is no licence to be silent for longer afterwards
        run.wait(0.2)
    assert run.members.live == []


# Messages.


@pytest.mark.parametrize(
    ("header", "payloads", "code"),
    [
        (b"", [], "bad_header"),
        (b"\xc1", [], "bad_header"),
        (encode(Status()), [b"a payload"], "bad_frames"),
        (encode(Hello("worker", 1, "")), [PACKED, PACKED], "bad_frames"),
    ],
)
def test_a_message_that_is_none_is_answered_with_its_error_and_counted(
    header: bytes, payloads: list[bytes], code: str
) -> None:
    run = PlayedRun()
    route, answer, payload = run.engine.answer(b"r", header, payloads)
    error = decode(answer, REPLIES)
    assert isinstance(error, Error)
    assert (route, error.code, payload) == (b"r", code, None)
    assert run.metrics.own.refusals == {code: 1}
    assert run.hello(1).worker == 1


# Files.


def done_on(disk: ThisHost, folder: Path, **options: Any) -> PlayedRun:
    """A run whose workers are done, and whose files are on this disk."""
    run = PlayedRun(run_dir=RunDir(folder, disk), disk=disk, **options)
    run.start()
    run.train(1)
    for worker in (1, 2):
        run.bye(worker)
    return run


def waiting_on(disk: ThisHost, folder: Path, **options: Any) -> PlayedRun:
    """The same, once it waits for that disk."""
    run = done_on(disk, folder, **options)
    run.engine.finish()
    run.engine.write_results()
    assert run.engine.is_writing
    return run


def fetch(run: PlayedRun, number: int = 5) -> bytes:
    """What `leash save` gets, once it is there."""
    assert run.ask(Save(number)) == Saved(number, False, 0)
    run.wait()
    saved = run.ask(Save(number))
    assert isinstance(saved, Saved)
    content = b""
    while len(content) < saved.nbytes:
        content += run.ask_for(Read(number, len(content)))[1]
    run.wait()
    return content


unwritable = pytest.mark.parametrize(
    "name", ["final.safetensors", "summary.json", "everything"]
)  # fmt: skip


# A disk that is full, and one that is broken.
failing = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=os.strerror)


def disk_without(name: str, error: int = errno.ENOSPC) -> TightDisk:
    if name == "everything":
        return TightDisk(room=0, error=error)
    return TightDisk(full=[name], error=error)


def mend(disk: TightDisk) -> None:
    disk.room = None
    disk.full.clear()


@failing
@unwritable
def test_what_cannot_be_written_at_the_end_is_said_and_written_once_that_is_possible(
    tmp_path: Path, name: str, error: int
) -> None:
    disk = disk_without(name, error)
    run = waiting_on(disk, tmp_path, address="tcp://host:29500")
    (line,) = (line for line in run.said if "leash save" in line)
    lacking = {
        "final.safetensors": "the last checkpoint", "summary.json": "summary.json",
        "everything": "the last checkpoint and summary.json",
    }  # fmt: skip
    assert line.startswith(f"WARNING: cannot write {lacking[name]} to {tmp_path}: ")
    assert "leash save --server tcp://host:29500 FILE" in line
    assert "for 600 s; Ctrl-C ends it at once" in line
    for _ in range(3):
        run.wait(60)
        assert run.engine.is_writing
    assert sum("leash save" in line for line in run.said) == 1
    mend(disk)
    run.wait(TRY_AGAIN_S)
    assert not run.engine.is_writing
    run.engine.close()
    assert (run.engine.status, summary(tmp_path)["ended"]) == (0, "done")
    assert check_checkpoint(tmp_path / "checkpoints" / "final.safetensors")["version"] == "2"
    told = summary(tmp_path)["not_written"]
    file = "checkpoints" if name == "final.safetensors" else "summary.json"
    assert (told[file]["why"], told[file]["lasts"]) == (os.strerror(error), False)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("joined") == 2
    assert summary(tmp_path)["events_missing"] == 0


@unwritable
def test_whoever_fetches_the_model_ends_the_wait_with_status_1(tmp_path: Path, name: str) -> None:
    done_on(ThisHost(), tmp_path / "good").end()
    good = (tmp_path / "good" / "checkpoints" / "final.safetensors").read_bytes()
    run = waiting_on(disk_without(name), tmp_path / "full")
    assert run.ask(Status()) is not None
    assert fetch(run) == good
    run.wait(FETCHED_S / 2)
    assert run.ask_for(Read(5, 0))[1] == good  # by somebody to whom it has not come
    run.wait(FETCHED_S / 2)
    assert run.engine.is_writing
    run.wait(TICK_S)
    assert not run.engine.is_writing
    assert run.engine.status == 1
    run.engine.close()


def test_what_was_fetched_before_ends_no_wait(tmp_path: Path) -> None:
    disk = TightDisk()
    run = PlayedRun(run_dir=RunDir(tmp_path, disk), disk=disk)
    run.start()
    run.train(1)
    assert fetch(run)
    disk.room = 0
    for worker in (1, 2):
        run.bye(worker)
    run.engine.finish()
    run.engine.write_results()
    run.wait(60)
    assert run.engine.is_writing
    run.engine.close()


@pytest.mark.parametrize("patience", [5.0, 30.0, 600.0])
def test_it_waits_for_a_disk_as_long_as_its_patience(tmp_path: Path, patience: float) -> None:
    run = done_on(TightDisk(room=0), tmp_path, patience=patience)
    run.engine.finish()
    run.engine.write_results()
    run.wait(patience)
    assert run.engine.is_writing
    run.wait(0.1)
    assert (run.engine.is_writing, run.engine.status) == (False, 1)
    run.engine.close()
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("has_ended_by_it", [False, True])
def test_a_signal_ends_the_wait_at_once(tmp_path: Path, has_ended_by_it: bool) -> None:
    """A second one, where the first has ended the run."""
    disk = TightDisk(room=0)
    run = PlayedRun(run_dir=RunDir(tmp_path, disk), disk=disk)
    run.start()
    run.train(1)
    if has_ended_by_it:
        run.engine.stop_soon(signal.SIGINT)
        run.wait()
    for worker in (1, 2):
        run.bye(worker, "stopped" if has_ended_by_it else "done")
    run.engine.finish()
    run.engine.write_results()
    run.wait(60)
    assert run.engine.is_writing
    run.engine.stop_soon(signal.SIGINT)
    run.wait()
    assert not run.engine.is_writing
    assert run.engine.status == (130 if has_ended_by_it else 1)
    run.engine.close()


def test_who_stops_a_run_that_is_over_ends_the_wait_too(tmp_path: Path) -> None:
    run = done_on(TightDisk(room=0), tmp_path, patience=600.0)
    run.engine.finish()
    run.engine.write_results()
    run.wait(60)
    assert run.engine.is_writing
    run.ask(Stop())
    run.wait()
    assert (run.engine.is_writing, run.engine.status) == (False, 1)
    run.engine.close()


def test_two_signals_before_the_end_leave_nothing_to_wait_for(tmp_path: Path) -> None:
    disk = TightDisk(room=0)
    run = PlayedRun(run_dir=RunDir(tmp_path, disk), disk=disk)
    run.start()
    run.train(1)
    for _ in range(2):
        run.engine.stop_soon(signal.SIGINT)
    run.wait()
    for worker in (1, 2):
        run.bye(worker, "stopped")
    assert run.end() == 130


@failing
def test_what_cannot_be_written_while_a_run_goes_on_is_in_its_status_until_it_can(
    tmp_path: Path, error: int
) -> None:
    disk = TightDisk(room=0, error=error)
    run_dir = RunDir(tmp_path, disk)
    with pytest.raises(OSError, match=os.strerror(error)):
        run_dir.write_config(ServerOptions())
    run = PlayedRun(run_dir=run_dir, disk=disk, checkpoint_every="1u", evict_s=900.0)
    run.start()
    run.train(1)
    for _ in range(30):
        run.wait()
    no_space = f": {os.strerror(error)}"
    assert sorted(run.state()["not_written"]) == [
        f"{name}{no_space}" for name in ("checkpoints", "config.yaml", "events.jsonl")
    ]
    assert len([line for line in run.said if line.startswith("WARNING")]) == 3
    disk.room = None
    for _ in range(60):
        run.wait()
    assert run.state()["not_written"] == []
    assert {"config.yaml", "events.jsonl"} <= set(os.listdir(tmp_path))
    for worker in (1, 2):
        run.bye(worker)
    assert run.end() == 0
    assert {name: told["lasts"] for name, told in summary(tmp_path)["not_written"].items()} == {
        "events.jsonl": False, "config.yaml": False, "checkpoints": False
    }  # fmt: skip
    assert audit_run(tmp_path) == []


def test_a_run_goes_on_from_a_checkpoint_on_its_disk(tmp_path: Path) -> None:
    done_on(ThisHost(), tmp_path).end()
    final = str(tmp_path / "checkpoints" / "final.safetensors")
    run = PlayedRun(resume=final, shards=2)
    assert run.said == [f"goes on from {final}, version 2, after step 1"]
    assert run.hello(1).first_step == 2
    with pytest.raises(CheckpointError, match="there is no such file"):
        PlayedRun(resume=str(tmp_path / "none"))


class KeptWriting(WritingNow):
    """Writes to memory of this process, and keeps it there."""

    def __init__(
        self, files: dict[Path, io.BytesIO], paths: Sequence[Path], plan: Plan
    ) -> None:  # fmt: skip
        super().__init__([], plan)
        self._files, self._names = files, paths

    def finish(self) -> None:
        super().finish()
        with_content = self.open()
        for path in self._names:
            self._files[path] = io.BytesIO(with_content.read(0, with_content.nbytes))
        with_content.close()


class InMemory(ThisHost):
    """A disk without any file of this host."""

    def __init__(self) -> None:
        self.files: dict[Path, io.BytesIO] = {}

    def replace(self, path: Path, pieces: Iterable[Bytes]) -> None:
        self.files[path] = io.BytesIO(b"".join(pieces))

    def create(self, path: Path) -> Any:
        file = self.files[path] = io.BytesIO()
        return SimpleNamespace(write=file.write, close=lambda: None)

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        return KeptWriting(self.files, paths, plan)

    def append(self, path: Path) -> Any:
        file = self.files.setdefault(path, io.BytesIO())
        nothing = {name: lambda: None for name in ("flush", "force_soon", "close")}
        return SimpleNamespace(write=file.write, **nothing)

    @contextmanager
    def local_name(self, path: Path) -> Iterator[str]:
        fd = os.memfd_create(path.name)
        try:
            os.write(fd, self.files[path].getvalue())
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def exists(self, path: Path) -> bool:
        return path in self.files

    def make_folder(self, folder: Path) -> None:
        """There are none."""

    def require_folder(self, option_flag: str, folder: Path) -> None:
        """Likewise."""

    def files_in(self, folder: Path) -> list[tuple[Path, int]]:
        return [(path, 0) for path in self.files if path.parent == folder]


def test_a_run_has_no_file_but_on_its_disk_and_goes_on_from_there() -> None:
    disk, folder = InMemory(), Path("/nowhere/run")
    done_on(disk, folder).end()
    names = {str(path.relative_to(folder)) for path in disk.files}
    assert names == {
        "events.jsonl", "journal.jsonl", "summary.json", "checkpoints/final.safetensors",
    }  # fmt: skip
    assert json.loads(disk.files[folder / "summary.json"].getvalue())["steps"] == 2
    final = folder / "checkpoints" / "final.safetensors"
    run = PlayedRun(resume=str(final), disk=disk, shards=3)
    assert run.hello(1).first_step == 2
    assert not folder.parent.exists()


# Going on where an earlier server was killed.


def killed(folder: Path, shards: int) -> None:
    """Two workers train by shares, of whom one is done; then the server is killed."""
    run = PlayedRun(
        "bsp", RunDir(folder), epochs=2, shards=shards, checkpoint_every="1s", step_events=1
    )
    run.start()
    for worker in (1, 2):
        plan = Report(worker, run.incarnation(worker), "plan", 2, 0, 2, 0.0, 0.0, 0.0, 0.0)
        run.ask(plan)
    run.train(1, 2, 3)
    run.push(2, 4)
    run.push(1, 4)
    run.bye(2)
    run.ask(Set("ssp", 3))
    run.wait(2.0)  # a checkpoint is written
    run.push(1, 5)
    run.engine.close()  # it lets its files go, as the operating system does


@pytest.mark.parametrize("shards", [1, 3])
def test_a_server_that_was_killed_goes_on_under_the_rule_that_was_set_and_awaits_nobody_who_is_done(
    tmp_path: Path, shards: int
) -> None:
    killed(tmp_path, shards)
    run_dir = RunDir(tmp_path, goes_on=True)
    run = PlayedRun(
        "bsp", run_dir, epochs=2, shards=shards, resume=str(run_dir.newest_checkpoint)
    )  # fmt: skip
    assert run.engine.generation == 2
    assert run.engine.rule == choose_rule("ssp", 3)
    assert "it goes by ssp(3), as was set" in run.said
    assert run.members.missing == [1]
    assert run.hello(1).heals
    assert not run.metrics.started
    assert run.ask(Remember(1, run.incarnation(1), 1, 0, 0, 0)) == Ok(1, 0, 0, True)
    assert run.metrics.started
    beaten = run.ask(Beat(1, run.incarnation(1)))
    assert isinstance(beaten, Beaten)
    assert beaten.first_step == 5
    run.push(1, 5)
    run.push(1, 6)  # nobody else is waited for
    assert run.answered(1) == [5, 6]
    run.bye(1)
    run.wait()
    run.end()
    told = summary(tmp_path)
    assert (told["generations"], told["policy"], told["bound"]) == (2, "ssp", 3)
    assert (told["healed_chunks"], told["lost_updates"]) == (0, 1)
    assert (tmp_path / "events-1.jsonl").stat().st_size > 0
    assert "goes_on" not in (tmp_path / "events-1.jsonl").read_text()


def test_a_worker_whose_last_steps_are_lost_with_the_server_is_awaited(tmp_path: Path) -> None:
    run = PlayedRun("asp", RunDir(tmp_path), epochs=1, checkpoint_every="1s")
    run.start()
    for worker in (1, 2):
        run.ask(Report(worker, run.incarnation(worker), "plan", 1, 0, 2, 0.0, 0.0, 0.0, 0.0))
    run.train(1)
    run.wait(2.0)
    run.push(2, 2)  # the last of its share
    run.bye(2)
    run.engine.close()
    run_dir = RunDir(tmp_path, goes_on=True)
    run = PlayedRun("asp", run_dir, epochs=1, resume=str(run_dir.newest_checkpoint))
    assert run.members.missing == [1, 2]
    run.engine.close()


def test_a_server_that_dies_when_all_have_left_says_what_is_lost_and_what_to_do(
    tmp_path: Path,
) -> None:
    run = PlayedRun("asp", RunDir(tmp_path), epochs=1, checkpoint_every="1s")
    run.start()
    for worker in (1, 2):
        run.ask(Report(worker, run.incarnation(worker), "plan", 1, 0, 2, 0.0, 0.0, 0.0, 0.0))
    run.train(1)
    run.wait(2.0)
    run.train(2)
    run.bye(1), run.bye(2)
    run.engine.close()  # before it has written its last checkpoint
    run_dir = RunDir(tmp_path, goes_on=True)
    run = PlayedRun("asp", run_dir, epochs=1, resume=str(run_dir.newest_checkpoint))
    assert LAST_IS_LOST in run.said
    assert run.members.missing == [1, 2]
    run.engine.close()


def trained_again(folder: Path, **options: Any) -> PlayedRun:
    """A server that goes on where another was killed, which had trained 8 steps in 6 seconds."""
    often: dict[str, Any] = {"evict_s": 60.0, "checkpoint_every": "1s"}
    run = PlayedRun("asp", RunDir(folder), **often)
    run.start()
    run.train(1, 2, 3)
    run.wait(COUNT_S + 1)
    run.train(4)
    assert read_journal(folder / "journal.jsonl", ThisHost()).trained.steps == 6
    run.engine.close()
    again = RunDir(folder, goes_on=True)
    return PlayedRun("asp", again, resume=str(again.newest_checkpoint), **often, **options)


def come_back(run: PlayedRun) -> None:
    """Both workers go on with another server, and have nothing to offer."""
    for worker in (1, 2):
        assert run.hello(worker).heals
    for worker in (1, 2):
        run.ask(Remember(worker, run.incarnation(worker), 0, 0, 0, 0))
    assert run.metrics.started


def test_steps_and_seconds_are_counted_on_by_the_next_server(tmp_path: Path) -> None:
    run = trained_again(tmp_path)
    come_back(run)
    first = run.ask(Beat(1, run.incarnation(1))).first_step
    run.train(first, first + 1)
    run.wait(2.0)
    run.bye(1), run.bye(2)
    run.wait()
    run.end()
    told = summary(tmp_path)
    assert (told["steps"], told["samples"]) == (8 + 4, 8 + 4)
    assert told["train_seconds"] == pytest.approx(COUNT_S + 1 + 2.0, abs=2 * TICK_S)
    assert any(line.startswith("ended after 12 steps") for line in run.said)
    third = read_journal(tmp_path / "journal.jsonl", ThisHost()).trained
    assert (third.steps, third.samples) == (12, 12)


def test_a_run_whose_server_was_killed_has_the_rest_of_its_time(tmp_path: Path) -> None:
    run = trained_again(tmp_path, timeout_s=COUNT_S + 10)
    come_back(run)
    run.wait(8.0)
    assert run.told() == ""
    run.beat(1), run.beat(2)
    run.wait(2.0)
    assert run.told() == "timeout"
    run.engine.close()


def test_a_run_whose_time_was_over_has_as_much_again(tmp_path: Path) -> None:
    run = trained_again(tmp_path, timeout_s=COUNT_S)
    assert f"its {COUNT_S:g} s of --timeout were over; it has as many again" in run.said
    come_back(run)
    run.wait(COUNT_S - 0.5)
    assert run.told() == ""
    run.wait(1.0)
    assert run.told() == "timeout"
    run.engine.close()


# Replay.


def play(folder: Path) -> tuple[list[Any], dict[str, bytes]]:
    """Everything that a run answers, sends and says, and the files that it leaves."""
    run = PlayedRun("ssp", RunDir(folder), bound=2, shards=2, checkpoint_every="1s", step_events=1)
    run.start()
    for step in range(1, 8):
        run.train(step)
        run.wait(0.3)
        for worker in (1, 2):
            told = Report(
                worker, run.incarnation(worker), "training", 0, step, step, 0.5, 0.0, 1, 1
            )
            run.ask(told)
    run.ask(Beat(1, 1))
    run.ask(Set("asp"))
    run.evict(2)
    run.hello(2)
    run.ask(Status())
    run.engine.stop_soon(signal.SIGINT)
    run.wait()
    run.wait(GRACE_S + TICK_S)
    run.end()
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = [line.replace(str(folder), "FOLDER") for line in run.said]
    return [run.answers, run.sent, said], files


def test_the_same_messages_at_the_same_times_come_to_the_same_bytes(tmp_path: Path) -> None:
    first, files = play(tmp_path / "first")
    again, files_again = play(tmp_path / "again")
    assert first == again
    assert files == files_again
    assert {"events.jsonl", "summary.json", "final.safetensors"} <= files.keys()
    assert any(isinstance(message, Ok) for message in first[1])
