"""`leash launch`: starts a server and its workers on this machine, and watches them to the end.

::

    start the server ─▸ its address, through a pipe ─▸ start the workers ─▸ watch ─▸ result
                                                                           │ ▲ │
    a server that has crashed: start it again, at the same ports         ◄─┘ │ │
                                 └───────────────────────────────────────────┘ │
    whatever happens on the way: SIGTERM to all, SIGKILL to those left       ◄─┘
"""

import json
import math
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import STDOUT, TimeoutExpired
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from leash.ps.commands.live_screen import Screen, screen_for
from leash.ps.commands.restarts import Restarts
from leash.ps.commands.run_table import RunState, result_lines, with_summary
from leash.ps.commands.script import NEVER_JOINED, LogTail, start_copy
from leash.ps.datafiles.required import require_data
from leash.ps.errors import LeashError, ProtocolError, ServerUnreachableError, UsageError
from leash.ps.interrupt import held, received, times_received
from leash.ps.options.addresses import split_address
from leash.ps.options.base import common_options, to_argv
from leash.ps.options.commands import LaunchOptions, data_plan_of
from leash.ps.options.optimizer import with_rates
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.policy import BSP, MAY_STALL, VERSIONS
from leash.ps.processes import (
    ASKED_TO_END,
    FREE_PORT,
    Failure,
    Process,
    ServerProcess,
    are_free,
    error_of,
    failure_of,
    from_outside,
    last_words,
    lasting_address,
    spawn,
    stop_all,
)
from leash.ps.report.writing import require_matplotlib, write_report
from leash.ps.runs.audit import audit_run
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import admin_key, files_for_workers
from leash.ps.wire.messages import Bye, Ok
from leash.ps.words import (
    DONE,
    FAILED,
    GOES_ON_FROM,
    INCOMPLETE,
    NOT_BITWISE,
    TAKES_PART,
    is_good_end,
    why_stopped,
)

POLL_S: Final = 0.5
# What the server says of a checkpoint from which it goes on.
SAID_OF_RESUMING: Final = (GOES_ON_FROM, NOT_BITWISE)
# Workers of a bsp run have so long to end their step before they are told to end.
STEP_END_S: Final = 1.2
STEP_LOOK_S: Final = 0.01
PORT_LOOK_S: Final = 0.05
# The server takes up to 3 s: its workers' byes, its summary, its evaluator. All is down within 5 s.
STOP_GRACE_S: Final = 3.5
AUDIT_MAX_NBYTES: Final = 100 << 20  # to read more would take more than a few seconds
NOWHERE: Final = "tcp://127.0.0.1:1"  # of a server that never listened
NO_WORKER_LEFT: Final = "no worker was left"
WORKER_END_S: Final = 3.0  # a worker may take so long to end after its bye
STOPPING: Final = "StoppingError: "  # begins the end of a script that catches nothing
SHARDS_END_S: Final = 5.0  # the other processes of a server that has crashed, after its end


def run(options: LaunchOptions, *, is_one_of_many: bool = False) -> int:
    """Trains, and returns the exit status.

    Args:
        options: what to train, and how.
        is_one_of_many: an experiment repeats the run if it ends early, so nobody goes on with it.
    """
    if options.report:
        require_matplotlib()
    require_data(options)
    keys = _keys_of_workers(options)
    run_dir = RunDir.at(
        options.run_dir, options.rule.policy.name, goes_on=True, fresh=options.fresh
    )
    # The server works its rates out by the same function; config.yaml notes what they are.
    run_dir.write_config(with_rates(options))
    run_dir.logs.mkdir(exist_ok=True)
    status = Launch(options, run_dir, Console(), is_one_of_many=is_one_of_many, keys=keys).run()
    if options.report:
        print(f"report          {write_report([run_dir.path], run_dir.path)}")
    return status


def _keys_of_workers(options: LaunchOptions) -> list[str]:
    """The files of the workers' keys, by rank; none without keys."""
    if options.keys is None:
        return []
    return files_for_workers(options.keys, options.most_started, options.max_workers)


def planned_epochs(options: LaunchOptions) -> int | None:
    """How many epochs are planned; a script of one's own may not count any."""
    return options.epochs or (1 if options.script is None else None)


def options_of_server(
    options: LaunchOptions, run_dir: RunDir, bind: str = FREE_PORT
) -> ServerOptions:
    """Makes the options of the server that a launch starts.

    Args:
        options: of the launch.
        run_dir: where the run leaves its files.
        bind: where the server listens.
    """
    return common_options(
        options, ServerOptions, bind=bind, run_dir=str(run_dir.path), fresh=False,
        epochs=planned_epochs(options),
        threads=options.server_threads,  # a launch's `threads` are torch's
        data_plan=data_plan_of(options),
    )  # fmt: skip


def options_of_workers(
    options: LaunchOptions, address: str, keys: Sequence[str] = ()
) -> list[WorkerOptions]:
    """Makes the options of the workers that a launch starts, by rank.

    Args:
        options: of the launch.
        address: of the server.
        keys: the files of the workers' keys, by rank; none without keys.
    """
    by_worker = zip(options.slownesses, options.ratios, strict=True)
    return [
        common_options(
            options, WorkerOptions, server=address, rank=rank, slow=slowness.text,
            heterogeneity=str(ratio), timeout_s=None,  # the server ends the run in time
            key=keys[rank - 1] if keys else None,
        )
        for rank, (slowness, ratio) in enumerate(by_worker, start=1)
    ]  # fmt: skip


def audit_text(run_dir: RunDir) -> str:
    """Re-checks the bound and the order of steps from the run's events."""
    if run_dir.events.stat().st_size > AUDIT_MAX_NBYTES:
        return "no: events.jsonl is too long for now; leash.ps.runs.audit takes any length"
    try:
        violations = audit_run(run_dir.path)
    except json.JSONDecodeError as error:  # its end may be missing, where the power went
        return f"no: events.jsonl cannot be read to its end: {error}"
    except (OSError, ValueError) as error:
        return f"no: {error}"
    if violations:
        return f"{len(violations)} violations in events.jsonl, the first: {violations[0]}"
    return "from events.jsonl: the bound was kept, and every step taken once and in order"


def _is_told_of_a_good_end(words: str) -> bool:
    """Whether a script has ended with the error by which it was told of a good end of the run."""
    _, told, reason = words.partition(STOPPING)
    return bool(told) and is_good_end(reason)


class Launch:
    """Starts, watches and ends the processes of one run."""

    def __init__(
        self,
        options: LaunchOptions,
        run_dir: RunDir,
        console: Console,
        *,
        is_one_of_many: bool = False,
        keys: Sequence[str] = (),
    ) -> None:
        self._is_one_of_many: Final = is_one_of_many
        self._options: Final = options
        self._keys: Final = keys  # the files of the workers', by rank
        self._run_dir: Final = run_dir
        self._console: Final = console
        self._server: Process | None = None
        self._workers: dict[int, Process] = {}  # by rank
        self._ended: set[int] = set()  # the ranks of workers whose end was noticed
        self._state: RunState | None = None  # the newest answer of the server
        self._tails: dict[int, LogTail] = {}  # by rank, of the copies of a script
        self._address: str = ""  # of the server, once it listens
        self._changes: Final = deque(options.changes)  # of the number of workers, still to come
        self._told: Final[set[int]] = set()  # the ranks of workers that were told to leave
        self._times_told = 0
        self._gave_up = False  # the launcher asked the server to end, because no worker is left
        # An experiment repeats a run whose server has crashed: its figures would tell of that.
        self._restarts: Final = Restarts(0 if is_one_of_many else options.server_restarts)
        self._has_begun = False  # whether the run has, under this server or one before it

    def run(self) -> int:
        """Runs to the end; returns 0, or the server's status if somebody asked the server to end.

        Raises:
            UsageError, LeashError: a process failed; the text is the last line that it printed.
        """
        try:
            with screen_for(self._console) as screen:
                try:
                    self._start_workers(self._start_server(screen), screen)
                    self._watch(screen)
                    self._see_workers_out(screen)
                finally:
                    self._stop()
                    self._relay(screen)
                    self._show_end(screen)
        finally:
            self._print_result()
        return self._status()

    # Start.

    def _start_server(self, screen: Screen) -> str:
        """Starts the server, and waits until it listens; returns its address."""
        shards = f" of {self._options.shards} shards" if self._options.shards > 1 else ""
        workers = "1 worker" if self._options.workers == 1 else f"{self._options.workers} workers"
        screen.say(f"starting a server{shards} and {workers}")
        if self._options.rule.bound_unit == VERSIONS:
            screen.say(MAY_STALL)  # the server says it too, but only in its log
        return self._serve(screen, options_of_server(
            self._options, self._run_dir, lasting_address(self._ports)
        ))  # fmt: skip

    def _serve(self, screen: Screen, options: ServerOptions) -> str:
        """Starts a server, the run's first or a later one; returns its address once it listens."""
        log, is_first = self._log("server"), self._server is None
        said_before = 0 if is_first else log.stat().st_size
        with held():
            server = ServerProcess(to_argv(options), log, again=not is_first)
            before, self._server = self._server, server.process
        if before is not None and before.stdin is not None:
            before.stdin.close()
        address = server.await_address()
        for line in log.read_bytes()[said_before:].decode(errors="replace").splitlines():
            if any(word in line for word in SAID_OF_RESUMING):
                screen.say(line.removeprefix("leash server: "))
        return address

    @property
    def _ports(self) -> int:
        """How many ports the server takes: for control, and for the data of each shard."""
        return 1 + self._options.shards

    def _start_workers(self, address: str, screen: Screen) -> None:
        self._address = address
        for rank in range(1, self._options.workers + 1):
            self._start_worker(rank)
        if self._options.max_workers is not None:
            screen.say(
                f"up to {self._options.max_workers} workers may take part, and join at any time: "
                f"leash worker --server {address} --rank auto"
            )

    def _start_worker(self, rank: int) -> None:
        """Starts the worker of this rank, or the copy of the script that is to be it."""
        options = self._options
        name = f"worker-{rank}"
        log = self._log(name)
        if rank in self._workers:  # it has left, and comes back
            log.rename(log.with_name(f"{name}-before-{self._times_told}.log"))
        self._ended.discard(rank)
        self._told.discard(rank)
        if options.script is None:
            own = options_of_workers(options, self._address, self._keys)[rank - 1]
            with held():
                self._workers[rank] = self._spawn("worker", own, name)
            return
        with held():
            self._workers[rank] = start_copy(
                options, rank, self._address, log, self._keys[rank - 1] if self._keys else None
            )
        self._tails[rank] = LogTail(log)

    def _spawn(self, command: str, options: Any, name: str) -> Process:
        with self._log(name).open("wb") as log:
            return spawn(command, to_argv(options), stdout=log, stderr=STDOUT)

    # Watch.

    def _watch(self, screen: Screen) -> None:
        """Shows how the run stands, until a server has ended that is not started again."""
        self._watch_server(screen)
        while self._starts_again(screen):
            self._watch_server(screen)

    def _starts_again(self, screen: Screen) -> bool:
        """Starts the server again if it has crashed and its workers wait for it; tells if it has.

        Raises:
            UsageError: it cannot be as it was, since its ports are taken, for example.
        """
        while self._is_restart_due():
            assert self._server is not None
            words = last_words(self._log("server").read_text("utf-8", errors="replace"))
            screen.say(self._restarts.note(self._server.wait(), words))
            options = options_of_server(self._options, self._run_dir, self._address)
            if self._run_dir.checkpoints:  # newer than the one that the launch was told to take
                options = replace(options, resume=None)
            self._await_ports()
            try:
                self._serve(screen, options)
            except UsageError:
                raise
            except LeashError:
                continue  # it has crashed again
            return True
        return False

    def _is_restart_due(self) -> bool:
        assert self._server is not None
        summary = self._summary()
        ended = summary["ended"] if summary is not None else None
        waits = any(worker.poll() is None for worker in self._workers.values())
        return waits and self._restarts.is_due(self._server.wait(), ended)

    def _await_ports(self) -> None:
        """Waits for the end of a crashed server's other shards, which end when it has gone."""
        host, port = split_address(self._address)
        deadline_s = time.monotonic() + SHARDS_END_S
        while not are_free(host, port, self._ports) and time.monotonic() < deadline_s:
            time.sleep(PORT_LOOK_S)

    def _watch_server(self, screen: Screen) -> None:
        """Shows how the run stands, again and again, until the server has ended."""
        assert self._server is not None
        keys = self._options.keys
        key = None if keys is None else admin_key(keys)
        with ControlChannel(self._address, key=key) as channel:
            while self._server.poll() is None:
                # Processes first, so that the state that is shown is never older than an end.
                ended = self._newly_ended()
                done = self._without_failure()
                self._relay(screen)
                with suppress(ServerUnreachableError):
                    self._state = request_state(channel, POLL_S)
                    self._has_begun |= bool(self._state["started"])
                    screen.show(self._state)
                    self._require_joined(done)
                    self._resize()
                self._judge(ended, screen, channel)
                with suppress(TimeoutExpired):
                    self._server.wait(POLL_S)

    def _resize(self) -> None:
        """Starts workers, or tells the newest to leave, if it is time for that."""
        assert self._state is not None
        if not self._state["started"] or self._state["stopping"] or self._state["finished"]:
            return
        while self._changes and self._state["train_seconds"] >= self._changes[0].at_s:
            wanted = self._changes.popleft().workers
            here = [
                rank for rank, worker in self._workers.items()
                if worker.poll() is None and rank not in self._told
            ]  # fmt: skip
            for rank in sorted(here)[wanted:]:
                self._told.add(rank)
                self._times_told += 1
                self._workers[rank].terminate()
            absent = [
                rank for rank in range(1, self._options.most_started + 1)
                if rank not in here
                and (rank not in self._workers or self._workers[rank].poll() is not None)
            ]  # fmt: skip
            for rank in absent[: max(0, wanted - len(here))]:
                self._start_worker(rank)

    def _newly_ended(self) -> dict[int, int]:
        """Rank ▸ exit status of the workers that have ended since the last call."""
        statuses = {
            rank: status
            for rank, worker in self._workers.items()
            if rank not in self._ended and (status := worker.poll()) is not None
        }
        self._ended.update(statuses)
        return statuses

    def _without_failure(self) -> list[int]:
        """The ranks of the workers that have ended with status 0."""
        return [rank for rank, worker in self._workers.items() if worker.poll() == 0]

    def _require_joined(self, done: Sequence[int]) -> None:
        """Looks whether a script has ended without a word to the server, which waits for it.

        Args:
            done: had ended before the server said how the run stands.

        Raises:
            LeashError: one has, so that the run would never begin.
        """
        assert self._state is not None
        if done and not self._has_begun and not self._state["stopping"]:
            raise self._error([Failure(f"worker {rank}", NEVER_JOINED, 1) for rank in done])

    def _judge(self, ended: dict[int, int], screen: Screen, channel: ControlChannel) -> None:
        """Decides what the end of these workers means for the run."""
        if self._state is not None and self._state["stopping"]:
            return
        lost = {rank: status for rank, status in ended.items() if status != 0}
        if lost and not self._has_begun:
            # The server waits for all of its workers, so this run would never start.
            raise self._error([self._failure(f"worker-{r}", status) for r, status in lost.items()])
        for rank, status in lost.items():
            if rank in self._told:
                continue  # it has said bye by itself
            how = "was killed" if from_outside(status) else "failed"
            screen.say(f"worker {rank} {how}; the run goes on without it")
            self._say_bye_for(rank, channel)
        if self._nobody_can_go_on() and not self._gave_up:
            assert self._server is not None
            self._gave_up = True
            self._server.terminate()

    def _say_bye_for(self, rank: int, channel: ControlChannel) -> None:
        """Tells the server of a worker that has ended, so that nobody waits for it any more."""
        assert self._state is not None
        incarnations = {row["worker"]: row["incarnation"] for row in self._state["table"]}
        if rank in incarnations:
            # It may have said bye itself, and the server may be about to end.
            with suppress(ProtocolError, ServerUnreachableError):
                channel.request(Bye(rank, incarnations[rank], FAILED), Ok, timeout_s=POLL_S)

    def _nobody_can_go_on(self) -> bool:
        """Whether all workers ended before they were done; the server would wait for them.

        Workers that others have started may go on.
        """
        if any(worker.poll() in (None, 0) for worker in self._workers.values()):
            return False
        rows = self._state["table"] if self._state else []
        return not any(
            row["state"] in TAKES_PART and row["worker"] not in self._workers for row in rows
        )

    # End.

    def _see_workers_out(self, screen: Screen) -> None:
        """Waits, after the server's end, while the workers write their last lines.

        A script may have more to do after its training, and has all the time that it takes.
        """
        assert self._server is not None
        if self._server.returncode in ASKED_TO_END:
            return
        deadline_s = time.monotonic() + (math.inf if self._tails else WORKER_END_S)
        for worker in self._workers.values():
            while worker.poll() is None and time.monotonic() < deadline_s:
                with suppress(TimeoutExpired):
                    worker.wait(min(POLL_S, max(0.0, deadline_s - time.monotonic())))
                self._relay(screen)

    def _relay(self, screen: Screen) -> None:
        """Shows what the copies of a script have printed since the last time."""
        for rank, tail in self._tails.items():
            ended = self._workers[rank].poll() is not None
            for line in tail.new_lines(ended=ended):
                screen.say(f"[{rank}] {line}")

    def _stop(self) -> None:
        with held():
            server = [self._server] if self._server else []
            for process in server:  # which notes the first signal as what has ended the run
                process.send_signal(received() or signal.SIGTERM)
                self._await_final(process)
            deadline_s = time.monotonic() + STOP_GRACE_S
            stop_all(list(self._workers.values()), STOP_GRACE_S)
            for process in server:
                self._see_server_out(process, deadline_s)
            stop_all(server, 0.0)

    def _see_server_out(self, server: Process, deadline_s: float) -> None:
        """Waits for the server's end, for longer while it says that it writes what the run leaves.

        A second signal ends that, or has said before that nobody wants it.
        """
        has_said = False
        with ControlChannel(self._address or NOWHERE) as channel:
            while server.poll() is None:
                if time.monotonic() > deadline_s:
                    if times_received() > 1 or not self._is_writing(channel):
                        return
                    if not has_said:
                        self._console.print(Text(f"writing to {self._run_dir.path}; Ctrl-C again "
                                                 "gives up"), soft_wrap=True)  # fmt: skip
                    has_said = True
                with suppress(TimeoutExpired):
                    server.wait(POLL_S)

    @staticmethod
    def _is_writing(channel: ControlChannel) -> bool:
        try:
            return bool(request_state(channel, POLL_S).get("writing"))
        except LeashError:
            return False

    def _await_final(self, server: Process) -> None:
        """Gives the workers of a bsp run the time to end their step, so that it can be resumed."""
        if self._options.rule.policy is not BSP or not self._workers:
            return
        final, deadline_s = self._run_dir.checkpoint("final"), time.monotonic() + STEP_END_S
        while time.monotonic() < deadline_s and server.poll() is None and not final.exists():
            with suppress(TimeoutExpired):
                server.wait(STEP_LOOK_S)

    def _summary(self) -> dict[str, Any] | None:
        try:
            summary: dict[str, Any] = json.loads(self._run_dir.summary.read_text())
        except FileNotFoundError:
            return None
        # The launcher ended a server that would have waited for workers; SIGTERM is only how.
        return {**summary, "ended": NO_WORKER_LEFT} if self._gave_up else summary

    def _show_end(self, screen: Screen) -> None:
        if self._state and self._has_begun and (summary := self._summary()):
            screen.show(with_summary(self._state, summary))

    def _print_result(self) -> None:
        summary = self._summary()
        lines = (
            result_lines(summary, planned_epochs(self._options))
            if summary and summary["steps"]
            else []
        )
        if lines and self._options.step_events == 1:
            lines.append(f"re-checked      {audit_text(self._run_dir)}")
        number = received()
        if number and not lines:
            why = why_stopped(signal.Signals(number).name)
            lines.append(f"ended early     {why}, before the first step")
        has_trained = summary is None or summary["steps"] > 0
        is_done = summary is not None and summary["ended"] == DONE
        if has_trained and not is_done and not self._is_one_of_many:
            command = self._run_dir.continuing_command("launch")
            lines += [f"to go on        {command}"] if command else []
        for line in (*lines, f"run directory   {self._run_dir.path}"):
            self._console.print(Text(line), soft_wrap=True)

    def _status(self) -> int:
        assert self._server is not None
        status = self._server.wait()
        if status in ASKED_TO_END and not self._gave_up:
            return status
        failures = [self._failure_of_server(status)] if status and not self._gave_up else []
        failures += [
            self._failure(f"worker-{rank}", worker.returncode)
            for rank, worker in self._workers.items()
            if worker.returncode != 0 and (self._gave_up or not from_outside(worker.returncode))
        ]
        if self._tails:  # a script may leave it to Python to say that the run is over
            failures = [f for f in failures if not _is_told_of_a_good_end(f.words)]
        if failures:
            raise self._error(failures)
        return 0

    # What a process printed.

    def _failure_of_server(self, status: int) -> Failure:
        summary = self._summary()
        if summary and summary["ended"] == INCOMPLETE:
            return Failure("not trained", unfinished_text(summary["unfinished"]), status)
        return self._failure("server", status)

    def _failure(self, name: str, status: int) -> Failure:
        return failure_of(
            name.replace("-", " "), status, self._log(name), has_begun=self._has_begun
        )

    def _error(self, failures: Sequence[Failure]) -> LeashError:
        return error_of(failures, self._run_dir.logs)

    def _log(self, name: str) -> Path:
        return self._run_dir.logs / f"{name}.log"
