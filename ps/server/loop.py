"""Runs the first process of a server: carries messages between its sockets and the run's engine.

The loop takes messages of two ROUTER sockets in turn: control messages are few and small, and a
sign of life that waits behind gradients would look like silence. One thread does all of it; the
core releases the GIL. Further shards are processes of their own: see leash.ps.server.shards. What
the run comes to, leash.ps.server.run_engine decides.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import count
from types import FrameType
from typing import Final

import zmq

from leash._log import logged, show_errors
from leash.ps import interrupt
from leash.ps.datafiles.required import require_data
from leash.ps.errors import LeashError
from leash.ps.options.addresses import address_of, split_address
from leash.ps.options.catalog import choose_task
from leash.ps.options.optimizer import with_rates
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.processes import keep_memory, say_line
from leash.ps.runs.background.disk import BackgroundDisk
from leash.ps.runs.checkpoint import newest_whole
from leash.ps.runs.demo_logs import DemoLogs
from leash.ps.runs.disk import THIS_HOST, Disk
from leash.ps.runs.journal import Memory, begin_journal
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import why_of
from leash.ps.server.announcement import how_they_come_and_go, how_to_join
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.evaluator_process import EvaluatorProcess, has_evaluator, lacks_key
from leash.ps.server.page import LivePage
from leash.ps.server.run_engine import RunEngine
from leash.ps.server.shards.remote_shards import OnNotice, RemoteShard, RemoteShards
from leash.ps.server.shards.shard_process import ShardProcess
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.identities import NOBODY
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import require_threads
from leash.ps.shard.router import DataRouter, send
from leash.ps.trackers.beside_server import TrackersProcess
from leash.ps.wire import hosts
from leash.ps.wire.curve import Doorman
from leash.ps.wire.intake import Frames, Intake, PeerLimits, open_intake
from leash.ps.wire.keys import Keyring
from leash.ps.wire.sockets import (
    CONTROL_INCOMING,
    CONTROL_MAX_NBYTES,
    CONTROL_QUEUE,
    make_router,
)
from leash.ps.words import PAGE_IS_AT

HANG_UP_S: Final = 1.0  # who has had an answer to its last message has so long to hang up
HANG_UP_LOOK_MS: Final = 2
LOOK_S: Final = 1.0  # so often a server that cannot begin looks whether its disk takes a journal
SHARD_RESTARTS: Final = 3  # so often the processes of a server begin again, when one is lost


def _say(text: str) -> None:
    say_line(f"leash server: {text}")


class Server:
    """The server of one run. It binds its sockets when made; `run` serves until the run is over."""

    def __init__(
        self,
        options: ServerOptions,
        run_dir: RunDir | None,
        *,
        evaluator: EvaluatorProcess | None = None,
        trackers: TrackersProcess | None = None,
        demo_logs: DemoLogs | None = None,
        say: Callable[[str], None] = _say,
        now: Callable[[], float] = time.monotonic,
        may_begin_again: bool = False,
        port: int = 0,
        memory: Memory | None = None,
        has_lane: bool | None = None,
        page: LivePage | None = None,
    ) -> None:
        """Binds the sockets and starts the further shards; `run` serves.

        Args:
            options: what the server was started with.
            run_dir: where the run leaves its files; None for nowhere.
            evaluator: the observer to start once the server listens, and to wait for.
            trackers: their process, to start once the run has a file of events.
            demo_logs: where the run also leaves the demo's logs.
            say: shows a line of progress.
            now: seconds on a clock that never goes back.
            may_begin_again: whether another one takes this one's place where a shard is lost.
            port: for control messages; 0 for the one that the options name.
            memory: what the run remembers of earlier servers; by default that is read here.
            has_lane: whether messages may move without Python, by the clock of ``time.monotonic``;
                by default if `now` is that.
            page: is given snapshots.

        Raises:
            OSError: the disk takes no journal.
            UsageError: a setting cannot be, a port is taken, threads cannot start, keys are wrong.
            ShardLostError: a process of the server did not come up.
        """
        require_threads(options.threads)
        self._options: Final = options
        self._run_dir: Final = run_dir
        self._evaluator: Final = evaluator
        self._page: Final = page
        self._trackers: Final = trackers
        self._say: Final = logged(say, __name__)
        self._now: Final = now
        keyring = Keyring(options.keys) if options.keys is not None else None
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self._shard_processes: Final[list[ShardProcess]] = []
        self._doorman: Final = Doorman(self._context, keyring) if keyring else None
        self._has_lane: Final = now is time.monotonic if has_lane is None else has_lane
        self.address: Final = self._listen(port)
        try:
            self._engine: Final = RunEngine(
                options,
                run_dir,
                self._remote,
                self.data_port,
                self._data_router.send,
                say=self._say,
                evaluator_failure=evaluator.failure if evaluator else lambda: None,
                trackers_news=trackers.news if trackers else lambda: (),
                demo_logs=demo_logs,
                address=self.address,
                now=now,
                keyring=keyring,
                may_begin_again=may_begin_again,
                memory=memory,
            )
        except BaseException:
            self._remote.close()
            self._destroy(linger_ms=0)
            raise
        self._disk: Final[Disk] = run_dir.disk if run_dir is not None else THIS_HOST
        self._writers: set[int] = set()  # of the disk's descriptors, those that the poller has
        self._takes_data = True  # whether the poller has the data socket
        self.members: Final[Members] = self._engine.members
        self.metrics: Final[Metrics] = self._engine.metrics
        self.data: Final[DataDesk] = self._engine.data
        self._data_router.serve(self.data)
        self.shards: Final[Shards] = self._engine.shards
        self.coordinator: Final[Coordinator] = self._engine.coordinator

    # Life.

    @property
    def rule(self) -> Rule:
        """The rule that the run goes by now."""
        return self._engine.rule

    def _listen(self, control_port: int) -> str:
        """Makes and binds the sockets; returns the address at which a local process finds us."""
        options = self._options
        host, port = split_address(address_of(options.bind, options.ps_ip, options.ps_port))
        self._control = make_router(
            self._context, CONTROL_QUEUE, CONTROL_MAX_NBYTES, CONTROL_INCOMING, self._doorman
        )
        members = len(options.ranks)
        limits = PeerLimits.of(members, CONTROL_MAX_NBYTES, CONTROL_INCOMING)
        self._intakes: list[Intake] = []
        try:
            self._intake = open_intake(
                self._context, self._control, host, control_port or port, limits
            )
            self._intakes.append(self._intake)
            self._control_port = self._intake.port
            self._data_router = DataRouter(
                self._context, options, host, port + 1 if port else 0, self._doorman,
                has_lane=self._has_lane,
            )  # fmt: skip
            self._intakes.append(self._data_router.intake)
            self.data_port = self._data_router.port
            self._remote = RemoteShards(options, port + 2 if port else 0, self._start_shard)
        except BaseException:
            self._destroy(linger_ms=0)
            raise
        self._poller = self._data_router.poller
        self._asking = {intake.fd: intake for intake in self._intakes if intake.fd is not None}
        for fd in self._asking:
            self._poller.register(fd, zmq.POLLIN)
        newcomers = [self._doorman.socket] if self._doorman else []
        for socket in (self._control, self._data_router.socket, *newcomers):
            self._poller.register(socket, zmq.POLLIN)
        for process in self._shard_processes:
            self._poller.register(process.fd, zmq.POLLIN)
        self._host = host
        return f"tcp://{hosts.local(host)}:{self._control_port}"

    def _start_shard(self, index: int, on_notice: OnNotice) -> RemoteShard:
        process = ShardProcess()
        self._shard_processes.append(process)
        return RemoteShard(index, process, on_notice)

    def run(self) -> int:
        """Serves until the run is over; returns the exit status.

        Where it `is_abandoned`, it leaves no results, and another server has to go on.
        """
        engine = self._engine
        if self._evaluator and not self._evaluator.is_started:
            self._evaluator.start(self.address)
        if self._trackers is not None:
            engine.note_trackers(self._trackers.start())
        try:
            while not engine.is_over and not engine.is_abandoned:
                self._take_turn()
            if not engine.is_abandoned:
                engine.finish()
        finally:
            self._close()
        return engine.status

    @property
    def is_abandoned(self) -> bool:
        """Whether a shard was lost, and nothing of the run has been ended."""
        return self._engine.is_abandoned

    @property
    def port(self) -> int:
        """At which it takes control messages."""
        return self._control_port

    @property
    def unwritten(self) -> bytes:
        """The lines of its journal that the disk has not taken, for the server after it."""
        return self._engine.unwritten

    @property
    def signal(self) -> int:
        """The first signal that has asked it to end; 0 for none."""
        return self._engine.signal

    def _take_turn(self) -> None:
        """Waits for what comes, and a moment at most; has the engine do what is due then."""
        engine = self._engine
        self._poll_writers()
        for source, _ in self._poller.poll(int(engine.wait_s * 1000)):
            self._serve(source)
        if self._doorman:
            self._doorman.attend()
        self._count_closed()
        engine.advance(self._data_router.take_unreading())
        self._show_page()
        self._poll_data_unless_held()

    def _show_page(self) -> None:
        if self._page is None:
            return
        try:
            self._page.attend(self.coordinator.state)
        except Exception as error:
            self.metrics.fail("the page could not be told how the run stands", error)

    def announce(self) -> None:
        """Says where the server listens and how to join, or tells the descriptor of --ready-fd."""
        shards = f", {self._options.shards} shards" if self._options.shards > 1 else ""
        ranks, port = self.members.ranks, self._control_port
        self._say(
            f"listening at tcp://{self._host}:{port}, {_counted(self._options)} workers, "
            f"{self.rule}{shards}"
        )
        for line in how_they_come_and_go(self._options, self.rule):
            self._say(line)
        if self._options.ready_fd is not None:
            os.write(self._options.ready_fd, self.address.encode())
            os.close(self._options.ready_fd)
            return
        for line in how_to_join(self._options, ranks, self._host, port):
            self._say(line)
        if self._run_dir:
            self._say(f"run directory {self._run_dir.path}")

    def stop_on_signals(self) -> None:
        """Lets SIGINT, SIGTERM and SIGHUP end the run from now on, with status 130, 143 and 129.

        By one more signal its launch gives it up, with status 1.
        """

        def on_signal(number: int, _: FrameType | None) -> None:
            self.stop_soon(number)

        for number in (*interrupt.SIGNALS, interrupt.GIVE_UP):
            signal.signal(number, on_signal)

    def stop_soon(self, number: int) -> None:
        """Ends the run as that signal would. From any thread, or a signal handler."""
        self._engine.stop_soon(number)

    def stop(self, reason: str, status: int) -> None:
        """Ends the run soon, with this exit status: see `RunEngine.stop`."""
        self._engine.stop(reason, status)

    def _close(self) -> None:
        is_abandoned = self._engine.is_abandoned
        try:
            if not is_abandoned:
                self._engine.write_results()
                while self._engine.is_writing:
                    self._take_turn()
                self._answer_the_last()
                self._see_out()
        finally:
            self._engine.close()
            self._destroy(linger_ms=0 if is_abandoned else 200)
            self._remote.close()
            if self._evaluator and not is_abandoned:
                self._evaluator.stop()
            if self._trackers is not None:  # after the last event was written
                self._trackers.stop(has_time=not is_abandoned and not self._engine.signal)

    def _destroy(self, linger_ms: int) -> None:
        for intake in self._intakes:
            intake.close()
        if self._doorman:
            self._doorman.close()
        self._context.destroy(linger=linger_ms)

    # Messages.

    def _serve(self, source: zmq.Socket[bytes] | int) -> None:
        """Takes what has come: to a socket, or on the links of the other shards."""
        try:
            if isinstance(source, int) and source in self._asking:
                self._asking[source].attend()
            elif isinstance(source, int) and source in self._writers:
                self._disk.attend()  # the engine's turn comes next
            elif isinstance(source, int):
                self._engine.attend_shards()
                if self.shards.lost:
                    self._ignore_links()
            elif source is self._control:
                if frames := self._intake.receive():
                    self._on_control(frames)
            elif source is self._data_router.socket:
                self._data_router.take(self.data.receive, until=lambda: self._engine.is_held)
        except Exception as error:
            self.metrics.fail("what has come could not be handled", error)

    def _on_control(self, frames: Frames) -> None:
        route, header, *payloads = frames
        user = self._intake.user if self._doorman else NOBODY
        answer = self._engine.answer(route, header, payloads, user)
        if self._engine.is_abandoned:
            return
        if not send(self._control, *answer):
            self._intake.close_unread(route)
        self._intake.judge(self._engine.conduct)

    def _answer_the_last(self) -> None:
        """Answers what came while the results were written: nobody shall wait for a closed run."""
        while frames := self._intake.receive():
            self._on_control(frames)

    def _see_out(self) -> None:
        """Waits until those hang up whose last message was answered, for a moment at most.

        ZeroMQ drops an answer that a peer has not taken yet when its connection ends.
        """
        until_s = self._now() + HANG_UP_S
        while any(map(self._intake.is_connected, self._engine.leaving)):
            if self._now() >= until_s:
                return
            for source, _ in self._poller.poll(HANG_UP_LOOK_MS):
                self._serve(source)

    def _count_closed(self) -> None:
        for intake in self._intakes:
            self.metrics.count_closed(*intake.take_closed())
            self.metrics.count_strangers(intake.take_refused())

    def _poll_data_unless_held(self) -> None:
        if self._takes_data == self._engine.is_held:
            self._takes_data = not self._engine.is_held
            self._poller.register(self._data_router.socket, zmq.POLLIN if self._takes_data else 0)

    def _poll_writers(self) -> None:
        """Has the poller know those who write files, which come and go."""
        writers = set(self._disk.descriptors)
        for fd in self._writers - writers:
            self._poller.unregister(fd)
        for fd in writers - self._writers:
            self._poller.register(fd, zmq.POLLIN)
        self._writers = writers

    def _ignore_links(self) -> None:
        """Stops polling the links: one that has ended would keep the loop awake."""
        for process in self._shard_processes:
            if process.fd in self._poller:
                self._poller.unregister(process.fd)


def serve(options: ServerOptions) -> int:
    """Runs `leash server`: serves one run, and returns the exit status."""
    show_errors("leash.ps.shard")
    keep_memory(logged(_say, __name__))
    rule = options.rule
    spelled = options.model
    model, dataset = choose_task(options.model, options.dataset)
    options = with_rates(replace(options, model=model, dataset=dataset))
    if has_evaluator(options):
        require_data(options, ("test",))
    disk = BackgroundDisk()
    run_dir = RunDir.at(
        options.run_dir, rule.policy.name, disk=disk, goes_on=True, fresh=options.fresh
    )
    if options.resume is None:
        options = replace(options, resume=_newest(run_dir))
    if options.ready_fd is None:  # a program that starts a server with one writes it itself
        with suppress(OSError):  # the engine tries it again, and says so
            run_dir.write_config(options)
    evaluator = EvaluatorProcess.for_task(options, run_dir.path)
    if evaluator is not None:
        options = replace(options, observers=options.observers + 1)
    if lacks_key(options):
        _say(f"no evaluator: {options.keys} has no file of an observer's key")
    if risk := options.risk:
        _say(f"warning: {risk}")
    demo_logs = DemoLogs(run_dir.path, spelled or model or "", disk) if options.demo_logs else None
    before: Server | None = None
    with ExitStack() as at_the_end:
        at_the_end.callback(disk.close)
        page, say = _page_of(options, run_dir, at_the_end)
        for lost in count():
            server = Server(
                options, run_dir, evaluator=evaluator, demo_logs=demo_logs, say=say, page=page,
                trackers=TrackersProcess(run_dir.path, options.trackers, say),
                may_begin_again=lost < SHARD_RESTARTS, port=before.port if before else 0,
                memory=_begin_journal(run_dir, options.patience, before),
            )  # fmt: skip
            server.stop_on_signals()
            if before is not None and before.signal:  # it came while this one was made
                server.stop_soon(before.signal)
            if before is None:
                server.announce()
            status = server.run()
            if not server.is_abandoned:
                return status
            say(
                f"{server.shards.lost}; all processes of the server begin again, "
                f"{lost + 1} of {SHARD_RESTARTS}"
            )
            before = server
            options = replace(options, resume=_newest(run_dir))
    raise AssertionError("it counts for ever")


def _page_of(
    options: ServerOptions, run_dir: RunDir, at_the_end: ExitStack
) -> tuple[LivePage | None, Callable[[str], None]]:
    """Starts the live page, if there is to be one; returns it, and what says a line."""
    if not options.has_page:
        return None, _say
    page = LivePage(options, run_dir.path, _say)
    at_the_end.callback(page.close)
    page.say(f"{PAGE_IS_AT} {page.address}")
    return page, page.say


def _begin_journal(
    run_dir: RunDir, patience_s: float, before: Server | None,
    now: Callable[[], float] = time.monotonic, wait: Callable[[float], None] = time.sleep,
) -> Memory:  # fmt: skip
    """Begins the journal of the next server, once the disk takes it.

    Args:
        run_dir: of the run.
        patience_s: for so long it is tried.
        before: the server before, if it was one of this process.
        now: seconds on a clock that never goes back.
        wait: lets so many seconds pass.

    Raises:
        UsageError: the file is no journal.
        LeashError: the disk has not taken it in time, or somebody has told the server to end.
    """
    unwritten = before.unwritten if before is not None else b""
    until_s, told = now() + patience_s, ""
    while True:
        try:
            return begin_journal(run_dir.journal, run_dir.disk, unwritten)
        except OSError as error:
            why = f"cannot write {run_dir.journal}: {why_of(error)}"
            if now() >= until_s or (before is not None and before.signal):
                raise LeashError(f"{why}; no server begins without it") from error
            if why != told:
                _say(f"{why}; the server begins as soon as it can: make room there")
            told = why
        wait(LOOK_S)


def _newest(run_dir: RunDir) -> str | None:
    """The checkpoint from which a run goes on in its folder; None if there is none."""
    newest = newest_whole(run_dir.checkpoints, _say)
    return None if newest is None else str(newest)


def _counted(options: ServerOptions) -> str:
    """How many workers take part, for people."""
    if options.max_workers is None:
        return str(len(options.ranks))
    return f"{options.workers} to {options.max_workers}"
