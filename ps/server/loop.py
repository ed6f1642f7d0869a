"""The server's loop: it takes messages from two ROUTER sockets, and calls their handlers.

The loop takes messages of both sockets in turn: control messages are few and small, and a sign of
life that waits behind gradients would look like silence. One thread does all of it; the core
releases the GIL. Further shards are processes of their own: see leash.ps.server.shards. When the
run ends, the loop writes its summary.json and its last checkpoint.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any, Final

import zmq

from leash._log import logged, show_errors
from leash.ps import interrupt
from leash.ps.datafiles.required import require_data
from leash.ps.errors import ProtocolError
from leash.ps.options.addresses import address_of, parse_learners, split_address
from leash.ps.options.catalog import choose_task
from leash.ps.options.optimizer import optimizer_on_server, with_rates
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.processes import keep_memory
from leash.ps.runs.checkpoint import open_checkpoint
from leash.ps.runs.demo_logs import DemoLogs
from leash.ps.runs.events import EventLog
from leash.ps.runs.rundir import RunDir
from leash.ps.server.announcement import how_it_goes_on, how_to_join
from leash.ps.server.checkpoints import Checkpoints
from leash.ps.server.coordinator import ALL_GONE, Coordinator
from leash.ps.server.evaluator_process import EvaluatorProcess, has_evaluator
from leash.ps.server.progress import Progress
from leash.ps.server.remote_shards import RemoteShards
from leash.ps.server.settings import summary_settings
from leash.ps.server.shards import Shards
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.members import Members
from leash.ps.shard.metrics import Metrics
from leash.ps.shard.model import require_threads
from leash.ps.shard.router import DataRouter, send
from leash.ps.wire import hosts
from leash.ps.wire.frames import CONTROL, check_payload_count, decode, encode, error_message
from leash.ps.wire.messages import STOPPED_BY_TIMEOUT, Message
from leash.ps.wire.sockets import (
    CONTROL_MAX_NBYTES,
    CONTROL_QUEUE,
    Payload,
    bind,
    make_router,
    parts,
    receive,
)
from leash.ps.words import (
    DONE,
    FAILED,
    INCOMPLETE,
    TIMED_OUT,
)

TICK_S: Final = 0.2
# The end of a bsp run waits so long for the end of a step, so that its last checkpoint is at one.
ALIGN_S: Final = 1.0
ALIGN_TICK_S: Final = 0.002
GRACE_S: Final = 2.0  # once the server is stopping, the others have so long to say bye
AWAY_S: Final = 1.0  # a loop that did not tick for longer was held up


def _say(text: str) -> None:
    print(f"leash server: {text}", flush=True)


class Server:
    """The server of one run. It binds its sockets when made; `run` serves until the run is over."""

    def __init__(
        self,
        options: ServerOptions,
        run_dir: RunDir | None,
        *,
        evaluator: EvaluatorProcess | None = None,
        demo_logs: DemoLogs | None = None,
        say: Callable[[str], None] = _say,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Binds the sockets and starts the further shards; `run` serves.

        Args:
            options: what the server was started with.
            run_dir: where the run leaves its files; None for nowhere.
            evaluator: the observer to start once the server listens, and to wait for.
            demo_logs: where the run also leaves the demo's logs.
            say: shows a line of progress.
            now: seconds on a clock that never goes back.

        Raises:
            UsageError: a setting cannot be, or a port is taken, or threads cannot start.
            ShardLostError: a process of the server did not come up.
        """
        rule = options.rule
        require_threads(options.threads)
        ranks = parse_learners(options.learners, options.workers)
        self._options: Final = options
        self._run_dir: Final = run_dir
        self._evaluator: Final = evaluator
        self._demo_logs: Final = demo_logs
        self._say: Final = logged(say, __name__)
        self._now: Final = now
        self._context: Final[zmq.Context[zmq.Socket[bytes]]] = zmq.Context()
        self.address: Final = self._listen()
        events = EventLog(run_dir.events if run_dir else None, now)
        self._events: Final = events
        self.members: Final = Members(ranks, options.evict_s, now)
        self.metrics: Final = Metrics(rule, events, options.step_events, now, demo_logs)
        self.data: Final = DataDesk(
            options, rule, self.members, self.metrics, self._data_router.send, now=now
        )
        self.shards: Final = Shards(
            self.data, self.data_port, self._remote, self.members, self.metrics
        )
        self.coordinator: Final = Coordinator(
            options, rule, self.members, self.metrics, self.shards, now
        )
        self._signal = 0
        self._ended = FAILED  # until the loop ends as it should
        self._status = 0
        self._stop_deadline_s: float | None = None
        self._stop_soon: tuple[str, int, float] | None = None  # reason, status, and the deadline
        self._next_tick_s = now()
        self._looked_s = time.monotonic()
        self._takes_data = True  # whether the poller has the data socket
        self._has_final = False  # whether the last checkpoint is written
        self._progress: Final = Progress(
            options, self.coordinator, self.members, self.metrics, self.shards, self._say, now
        )
        self._checkpoints: Final = Checkpoints(
            options, run_dir, self.coordinator, self.shards, self.metrics, self._say, now
        )
        self.coordinator.saves = self._checkpoints.saves
        if options.resume is not None:
            self._resume(options.resume)

    # Life.

    @property
    def rule(self) -> Rule:
        """The rule that the run goes by now."""
        return self.coordinator.rule

    def _listen(self) -> str:
        """Makes and binds the sockets; returns the address at which a local process finds us."""
        options = self._options
        host, port = split_address(address_of(options.bind, options.ps_ip, options.ps_port))
        self._control = make_router(self._context, CONTROL_QUEUE, CONTROL_MAX_NBYTES)
        try:
            self._control_port = bind(self._control, host, port)
            self._data_router = DataRouter(self._context, options, host, port + 1 if port else 0)
            self.data_port = self._data_router.port
            self._remote = RemoteShards(options, port + 2 if port else 0)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._poller = zmq.Poller()
        for socket in (self._control, self._data_router.socket):
            self._poller.register(socket, zmq.POLLIN)
        for shard in self._remote.all:
            self._poller.register(shard.fd, zmq.POLLIN)
        self._host = host
        return f"tcp://{hosts.local(host)}:{self._control_port}"

    def _resume(self, path: str) -> None:
        try:
            optimizer = optimizer_on_server(self._options)
            _, earlier = open_checkpoint(path, optimizer, self.shards.require_layout)
            self.shards.count_up()  # so that no worker is asked for first values
            if earlier.position is not None:
                self.coordinator.go_on(earlier.position)
            self._checkpoints.go_on()
        except BaseException:
            self._remote.close()
            self._context.destroy(linger=0)
            raise
        for line in how_it_goes_on(earlier, self.rule, self.members.ranks, self._options.epochs):
            self._say(line)

    def run(self) -> int:
        """Serves until the run is over; returns the exit status."""
        if self._evaluator:
            self._evaluator.start(self.address)
        try:
            while not self._over():
                waits_s = ALIGN_TICK_S if self._checkpoints.is_aligning else TICK_S
                for source, _ in self._poller.poll(int(waits_s * 1000)):
                    self._serve(source)
                self._evict_unreading()
                self._attend_checkpoints()
                if self._now() >= self._next_tick_s:
                    self._tick()
            self._count_up()
            self._ended = self.coordinator.stopping or self._own_end()
        finally:
            self._close()
        return self._status

    def _own_end(self) -> str:
        """The word for the end of a run whose workers have all left by themselves."""
        unfinished = self.coordinator.unfinished()
        if not unfinished:
            return DONE
        if all(part.state == TIMED_OUT for part in unfinished):
            return TIMED_OUT
        self._status = 1
        return INCOMPLETE

    def stop(self, reason: str, status: int) -> None:
        """Ends the run soon: tells all members, and gives them a moment to say bye.

        Under bsp it first waits for the end of the step that workers are in.
        """
        if self._stop_soon is None:
            self._stop_soon = reason, status, self._now() + ALIGN_S
            self._attend_checkpoints()

    def _stop_now(self, reason: str, status: int) -> None:
        self._checkpoints.let_go()
        self.coordinator.stopping = reason
        self._status = status
        self.shards.stop(reason)
        self._stop_deadline_s = self._now() + GRACE_S

    def _attend_checkpoints(self) -> None:
        """Writes the checkpoint that is due, if it can be now; stops a run that is to end."""
        if self._stop_soon is None:
            self._checkpoints.advance()
        elif not self.coordinator.stopping:
            reason, status, deadline_s = self._stop_soon
            if self.shards.lost or self._now() > deadline_s:
                self._stop_now(reason, status)
            elif self._checkpoints.is_final_possible():
                if self.coordinator.in_lockstep:  # others may push until they hear of the end
                    self._checkpoints.write_final()
                    self._has_final = True
                self._stop_now(reason, status)
        if self._takes_data == self.data.is_held:
            self._takes_data = not self.data.is_held
            self._poller.register(self._data_router.socket, zmq.POLLIN if self._takes_data else 0)

    def announce(self) -> None:
        """Says where the server listens and how to join, or tells the descriptor of --ready-fd."""
        shards = f", {self._options.shards} shards" if self._options.shards > 1 else ""
        ranks, port = self.members.ranks, self._control_port
        self._say(
            f"listening at tcp://{self._host}:{port}, {len(ranks)} workers, {self.rule}{shards}"
        )
        if self._options.ready_fd is not None:
            os.write(self._options.ready_fd, self.address.encode())
            os.close(self._options.ready_fd)
            return
        for line in how_to_join(self._options, ranks, self._host, port):
            self._say(line)
        if self._run_dir:
            self._say(f"run directory {self._run_dir.path}")

    def stop_on_signals(self) -> None:
        """Lets SIGINT, SIGTERM and SIGHUP end the run from now on, with status 130, 143 and 129."""

        def on_signal(number: int, _: FrameType | None) -> None:
            self.stop_soon(number)

        for number in interrupt.SIGNALS:
            signal.signal(number, on_signal)

    def stop_soon(self, number: int) -> None:
        """Ends the run as that signal would. From any thread, or a signal handler."""
        # The loop acts on it, since a message may be half sent just now. The first one counts.
        self._signal = self._signal or number

    def _over(self) -> bool:
        """Whether all have left, or the grace is over; a good end also waits for its evaluation."""
        if self.coordinator.closed or self._stop_deadline_s is None:
            return self.coordinator.closed
        waits_for_evaluation = self._status == 0 and not self.members.live
        return self._now() > self._stop_deadline_s and not waits_for_evaluation

    def _tick(self) -> None:
        self._next_tick_s = self._now() + TICK_S
        self._excuse_own_silence()
        self.coordinator.tick()
        self._attend_shards()
        if self._signal:
            self.stop(signal.Signals(self._signal).name, 128 + self._signal)
        if self.coordinator.deserted:
            self.stop(ALL_GONE, 1)
        timeout_s = self._options.timeout_s
        if timeout_s is not None and self.metrics.train_seconds > timeout_s:
            self.stop(STOPPED_BY_TIMEOUT, 0)
        self._look_after_evaluator()
        if self._stop_soon is None:
            self._checkpoints.tick()
        self._progress.show()

    def _excuse_own_silence(self) -> None:
        """Excuses the silence of members while this loop was held up, as by a checkpoint."""
        looked_s, self._looked_s = self._looked_s, time.monotonic()
        if self._looked_s - looked_s > AWAY_S:
            self.members.excuse(self._looked_s - looked_s)

    def _attend_shards(self) -> None:
        """Takes what the other shards tell; ends the run if one of them is lost."""
        self.shards.attend()
        if self.shards.lost:
            self.stop(self.shards.lost, 1)
        if self.shards.asked:
            who, number = self.shards.asked
            self.stop(f"{who} was told to end: {signal.Signals(number).name}", 128 + number)

    def _count_up(self) -> None:
        """Has all shards send their newest counts, so that the summary has every message."""
        try:
            self.shards.count_up()
        except ProtocolError:
            self._attend_shards()

    def _look_after_evaluator(self) -> None:
        """Looks whether the evaluator has failed: that ends only a run that has not started."""
        failure = self._evaluator.failure() if self._evaluator else None
        if failure is None:
            return
        told = f"the evaluator {failure}"
        if not self.metrics.started:
            self.stop(told, failure.status)
        else:
            self._progress.tell("evaluator", f"{told}; the run goes on without it")

    def _close(self) -> None:
        try:
            self._progress.say_end(self._ended, self._unfinished())
            if self._run_dir:
                self._write_results(self._run_dir)
                self._say_how_to_go_on(self._run_dir)
            self._events.close()
            if self._demo_logs:
                self._demo_logs.close()
            self._answer_the_last()
        finally:
            self._checkpoints.saves.close()
            self._context.destroy(linger=200)
            self._remote.close()
            if self._evaluator:
                self._evaluator.stop()

    # Messages.

    def _serve(self, source: zmq.Socket[bytes] | int) -> None:
        """Takes what has come: to a socket, or on the links of the other shards."""
        if isinstance(source, int):
            self._attend_shards()
            if self.shards.lost:
                self._ignore_links()
        elif source is self._control:
            if frames := receive(source):
                self._on_control(frames)
        else:
            self._data_router.take(self.data.receive, until=self._attend_alignment)
            self.data.settle()

    def _attend_alignment(self) -> bool:
        """Whether the data socket has to wait, since all chunks have come to one step."""
        return self._checkpoints.is_aligning and self.data.is_held

    def _answer_the_last(self) -> None:
        """Answers what came while the results were written: nobody shall wait for a closed run."""
        while frames := receive(self._control):
            self._on_control(frames)

    def _ignore_links(self) -> None:
        """Stops polling the links: one that has ended would keep the loop awake."""
        for shard in self._remote.all:
            if shard.fd in self._poller:
                self._poller.unregister(shard.fd)

    def _on_control(self, frames: list[zmq.Frame]) -> None:
        route, header, payloads = parts(frames)
        answer: Message
        payload: Payload = None
        try:
            message = decode(header, CONTROL)
            check_payload_count(message, len(payloads))
        except Exception as error:
            refusal = self.metrics.refusal(error)
            self.metrics.count_refusal(refusal)
            answer = error_message(refusal)
        else:
            answer, payload = self.coordinator.answer(
                message, payloads[0].bytes if payloads else None
            )
        send(self._control, route, encode(answer), payload)

    def _evict_unreading(self) -> None:
        """Evicts workers that do not read, so that their answers could not be sent."""
        for worker in (*self._data_router.take_unreading(), *self.shards.take_unreading()):
            self.coordinator.evict(worker)

    # What people see, and what stays.

    def _unfinished(self) -> list[dict[str, Any]]:
        """What this run has not trained, in the form of summary.json."""
        return [part.as_dict() for part in self.coordinator.unfinished()]

    def _say_how_to_go_on(self, run_dir: RunDir) -> None:
        """Says the command line that goes on with a run that has ended early."""
        if self._ended == DONE or self._options.ready_fd is not None or not self.metrics.steps:
            return  # whoever started a server with --ready-fd has its own command line
        if command := run_dir.continuing_command("server"):
            self._say(f"to go on: {command}")

    def _write_results(self, run_dir: RunDir) -> None:
        settings = summary_settings(
            self._options, self.rule, self.members.ranks, self.coordinator.data_plan
        )
        outcome = {"ended": self._ended, "unfinished": self._unfinished()}
        run_dir.write_summary({**settings, **self.metrics.summary(), **outcome})
        if not self._has_final or self._checkpoints.has_failed:
            self._checkpoints.write_final()
        if self._checkpoints.has_failed:
            self._status = self._status or 1  # also of a run that was done


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
    run_dir = RunDir.at(options.run_dir, rule.policy.name)
    if (
        options.ready_fd is None
    ):  # a program that starts a server with one writes config.yaml itself
        run_dir.write_config(options)
    evaluator = EvaluatorProcess.for_task(options, run_dir.path)
    if evaluator is not None:
        options = replace(options, observers=options.observers + 1)
    demo_logs = DemoLogs(run_dir.path, spelled or model or "") if options.demo_logs else None
    server = Server(options, run_dir, evaluator=evaluator, demo_logs=demo_logs)
    server.stop_on_signals()
    server.announce()
    return server.run()
