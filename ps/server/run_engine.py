"""Decides about one run in the first process of its server: messages and time in, answers out.

It knows no socket, waits for nothing, and looks at no clock but those that it is given. Whoever
drives it, as leash.ps.server.loop does, goes on like this::

    while not run.is_over:
        answer = run.answer(route, header, payloads)    for a message of the control socket
        run.data.receive(frames)                        for one of the data socket, unless is_held
        run.attend_shards()                             where another shard has sent something
        run.advance(unreading)                          after these, and every wait_s at the latest
    run.finish()
    run.write_results()
    while run.is_writing:                               what it leaves
        ...                                             the same as above
    run.close()                                         after the answers to what came meanwhile

When the run ends, leash.ps.server.ending decides, and leash.ps.server.results what it leaves then.
"""

import signal
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from leash.ps.errors import ProtocolError
from leash.ps.options.optimizer import optimizer_on_server
from leash.ps.options.server import ServerOptions
from leash.ps.policy import Rule
from leash.ps.runs.checkpoint import open_checkpoint
from leash.ps.runs.demo_logs import DemoLogs
from leash.ps.runs.disk import THIS_HOST, Disk
from leash.ps.runs.events import EventLog
from leash.ps.runs.journal import COUNT_S, FORCE_S, Journal, Memory, Remembered, begin_journal
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unwritten import TRY_AGAIN_S, Unwritten
from leash.ps.server.announcement import how_it_goes_on
from leash.ps.server.checkpoints import Checkpoints
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.ending import Ending
from leash.ps.server.evaluator_process import EvaluatorFailure
from leash.ps.server.progress import Progress
from leash.ps.server.results import Results
from leash.ps.server.settings import summary_settings
from leash.ps.server.shards.remote_shards import Buffer, RemoteShards
from leash.ps.server.shards.shards import Shards
from leash.ps.shard.data_desk import DataDesk, Send
from leash.ps.shard.holdups import HoldUps
from leash.ps.shard.identities import NOBODY, Identities
from leash.ps.shard.members import Members, microseconds_since_1970
from leash.ps.shard.metrics import Metrics, conduct_of
from leash.ps.trackers.beside_server import News
from leash.ps.wire.frames import CONTROL, check_payload_count, decode, encode, error_message
from leash.ps.wire.intake import Conduct
from leash.ps.wire.keys import Keyring
from leash.ps.wire.messages import (
    Beat,
    Bye,
    Error,
    Hello,
    Lease,
    Log,
    Message,
    Report,
    Stop,
)
from leash.ps.words import DONE

LAST_IS_LOST: Final = (
    "all workers had left when the server before this one died. What they trained after its newest "
    "checkpoint is lost with it, unless one of them is still there and tells it: start them again "
    "to train that anew, or end the run by leash stop"
)
TICK_S: Final = 0.2
ALIGN_TICK_S: Final = 0.002  # while the shards come to one step
LAST: Final = (Bye, Stop)  # whoever sends it hangs up once it is answered
MOST_LEAVING: Final = 1024  # so many of them are remembered
OF_MEMBERS: Final = (Hello, Beat, Lease, Report, Log, Bye)  # others may come from anybody
AWAY_S: Final = 0.5  # an engine that did not tick for longer was held up


class RunEngine:
    """What one run comes to: who takes part, when it ends, and what it leaves. For one thread.

    Attributes:
        members: who takes part.
        metrics: the counts of the run.
        identities: whose key is whose.
        data: takes the messages of this process's data socket, while `is_held` is not set.
        shards: all shards as one.
        coordinator: answers control messages.
        conduct: what the newest control message has shown of its sender.
        generation: how many servers the run has had, this one included.
        leaving: routes of those who are about to hang up, since they have sent what is a last
            message, and nothing after it.
    """

    def __init__(
        self,
        options: ServerOptions,
        run_dir: RunDir | None,
        remote: RemoteShards,
        data_port: int,
        send: Send,
        *,
        say: Callable[[str], None],
        disk: Disk = THIS_HOST,
        evaluator_failure: Callable[[], EvaluatorFailure | None] = lambda: None,
        trackers_news: Callable[[], Sequence[News]] = lambda: (),
        demo_logs: DemoLogs | None = None,
        address: str = "",
        now: Callable[[], float] = time.monotonic,
        uptime: Callable[[], float] = time.monotonic,
        wall_time_us: Callable[[], int] = microseconds_since_1970,
        keyring: Keyring | None = None,
        may_begin_again: bool = False,
        memory: Memory | None = None,
    ) -> None:
        """Begins with nobody, where a checkpoint is resumed with its values.

        Args:
            options: what the server was started with.
            run_dir: where the run leaves its files; None for nowhere.
            remote: the other shards.
            data_port: of this process's data socket, for workers.
            send: sends an answer over that socket.
            say: shows a line of progress.
            disk: where the checkpoint of --resume is.
            evaluator_failure: how the evaluator has ended that should not have, once it has.
            trackers_news: what has become of the trackers since it was called last.
            demo_logs: where the run also leaves the demo's logs.
            address: where the server listens, for people who have to fetch the model.
            now: seconds on a clock that never goes back.
            uptime: seconds in which this process could have run, by which the engine sees that it
                was held up. It may be the same clock; tests skip time on the other one.
            wall_time_us: microseconds since 1970, where incarnations begin.
            keyring: who is let in; None for everybody.
            may_begin_again: whether another server takes this one's place where a shard is lost.
            memory: what the run remembers; by default that is read, and begun to be noted, here.

        Raises:
            OSError: the disk takes no journal.
            LeashError: there is no going on from the checkpoint.
        """
        rule = options.rule
        self._options: Final = options
        self._run_dir: Final = run_dir
        self._evaluator_failure: Final = evaluator_failure
        self._trackers_news: Final = trackers_news
        self._demo_logs: Final = demo_logs
        self._say: Final = say
        self._now: Final = now
        self._uptime: Final = uptime
        self._may_begin_again: Final = may_begin_again and run_dir is not None
        self._unwritten: Final = Unwritten(say)
        if run_dir is None:
            memory = Memory(Remembered(), Journal(None))
        elif memory is None:
            memory = begin_journal(run_dir.journal, run_dir.disk)
        remembered, self._journal = memory.remembered, memory.journal
        self._events: Final = self._open_events(run_dir, remembered.generation)
        if demo_logs is not None:
            demo_logs.hear(self._unwritten.note)
        self.members: Final = Members(
            options.ranks, options.evict_s, now, wall_time_us, options.least
        )
        self.metrics: Final = Metrics(rule, self._events, options.step_events, now, demo_logs)
        self.identities: Final = Identities(keyring, self.members)
        self.data: Final = DataDesk(
            options, rule, self.members, self.metrics, send, now=now, identities=self.identities
        )
        self.shards: Final = Shards(self.data, data_port, remote, self.members, self.metrics)
        self.coordinator: Final = Coordinator(
            options, rule, self.members, self.metrics, self.shards, now,
            HoldUps(self.members, now, wall_time_us), self.identities,
        )  # fmt: skip
        self.generation: int = 1
        self._next_tick_s = self._next_force_s = self._next_count_s = now()
        self._looked_s = uptime()
        self.leaving: Final[dict[bytes, None]] = {}  # the oldest first
        self.conduct = Conduct.STRANGER  # what the newest control message has shown of its sender
        self._attempt: Final = self.metrics.attempt
        self._again_s = now() + TRY_AGAIN_S  # when to try again what could not be written
        self._progress: Final = Progress(
            options, self.coordinator, self.members, self.metrics, self.shards, say, now
        )
        self._checkpoints: Final = Checkpoints(
            options, run_dir, self.coordinator, self.shards, self.metrics, say, now,
            self._unwritten,
        )  # fmt: skip
        self._ending: Final = Ending(
            options, self.coordinator, self.members, self.metrics, self.shards, self._checkpoints,
            say, now,
        )  # fmt: skip
        self._results: Final = Results(
            run_dir, self._checkpoints, self._unwritten, summary=self._summary,
            times_asked=lambda: self._ending.times_asked, try_again=self._try_again,
            on_end=self._end_logs, patience_s=options.patience, address=address, say=say, now=now,
        )  # fmt: skip
        self.coordinator.saves = self._checkpoints.saves
        self.coordinator.standing.unwritten = self._unwritten
        generation_of_values = (
            self._resume(options.resume, disk, has_died=remembered.started) if options.resume else 0
        )
        if run_dir is not None:
            self._remember(run_dir, remembered, generation_of_values)

    @property
    def rule(self) -> Rule:
        """The rule that the run goes by now."""
        return self.coordinator.rule

    def _open_events(self, run_dir: RunDir | None, generation: int) -> EventLog:
        """Opens the log of events; keeps the one of an earlier server, if there was any."""
        if run_dir is None:
            return EventLog(None, self._now)
        if generation:
            run_dir.keep_earlier(generation)
        return EventLog(run_dir.events, self._now, run_dir.disk, self._unwritten.note)

    def _resume(self, path: str, disk: Disk, *, has_died: bool) -> int:
        """Takes the values of a checkpoint; returns the generation of the server that wrote it.

        With `has_died`, the server of this run has, and may have been about to end.
        """
        optimizer = optimizer_on_server(self._options)
        _, earlier = open_checkpoint(path, optimizer, self.shards.require_layout, disk)
        self.shards.count_up()  # so that no worker is asked for first values
        if earlier.position is not None:
            self.coordinator.continuation.go_on(earlier.position, has_died=has_died)
        self._checkpoints.go_on()
        for line in how_it_goes_on(earlier, self.rule, self.members.ranks, self._options.epochs):
            self._say(line)
        return earlier.position.generation if earlier.position is not None else 0

    def _remember(self, run_dir: RunDir, remembered: Remembered, generation_of_values: int) -> None:
        """Goes by what earlier servers of this run have noted, and notes what comes from now on."""
        self.generation = remembered.generation + 1
        self._journal.on_trouble = lambda error: self._unwritten.note(run_dir.journal, error)
        self.coordinator.recover(remembered, self._journal, generation_of_values)
        self.coordinator.rank_giver.places.update(remembered.places)
        self.metrics.count_on(remembered.trained)
        self._ending.go_on(remembered.trained.seconds)
        if remembered.generation:
            self._say(f"server {self.generation} of this run: its files are in {run_dir.path}")
        if remembered.started and not remembered.awaited and not self.metrics.started:
            self._say(LAST_IS_LOST)
        if remembered.rule is not None and remembered.rule != self.rule:
            self.coordinator.go_by(remembered.rule)
            self._say(f"it goes by {self.rule}, as was set")

    # Messages.

    def answer(
        self, route: bytes, header: bytes, payloads: Sequence[Buffer], user: str = NOBODY
    ) -> tuple[bytes, bytes, bytes | None]:
        """Answers a message of the control socket. None of them ends the run.

        Args:
            route: to whoever has sent it.
            header: the frame after the route; empty if there was none.
            payloads: the frames after the header.
            user: the public key of its sender, if the socket takes those alone who have one.

        Returns:
            The frames of the answer: route, header, and payload if it has one.
        """
        self._attempt("what was counted could not be told", self.data.settle)
        answer: Message
        payload: bytes | None = None
        try:
            message = decode(header, CONTROL)
            check_payload_count(message, len(payloads))
        except Exception as error:
            answer = self._refused(error)
        else:
            answer, payload = self.coordinator.answer(
                message, bytes(payloads[0]) if payloads else None, user
            )
            self._note_leaving(route, message)
            self.conduct = Conduct.MEMBER if isinstance(message, OF_MEMBERS) else Conduct.STRANGER
        try:
            packed = encode(answer)
        except Exception as error:
            answer, payload = self._refused(error), None
            packed = encode(answer)
        if isinstance(answer, Error):
            self.conduct = conduct_of(answer.code)
        return route, packed, payload

    def _note_leaving(self, route: bytes, message: Message) -> None:
        if isinstance(message, LAST):
            self.leaving[route] = None
            if len(self.leaving) > MOST_LEAVING:
                del self.leaving[next(iter(self.leaving))]
        else:
            self.leaving.pop(route, None)

    def _refused(self, error: Exception) -> Error:
        refusal = self.metrics.refusal(error)
        self.metrics.count_refusal(refusal)
        return error_message(refusal)

    def attend_shards(self) -> None:
        """Takes what the other shards tell; ends the run if one is lost that nobody replaces."""
        self._excuse_own_silence()
        self.shards.attend()
        if self.shards.lost and not self.is_abandoned:
            self.stop(self.shards.lost, 1)
        if self.shards.asked:
            who, number = self.shards.asked
            self.stop(f"{who} was told to end: {signal.Signals(number).name}", 128 + number)

    @property
    def is_abandoned(self) -> bool:
        """Whether a shard of a run that goes on is lost, so that another server takes over.

        Then nobody is answered any more: the workers ask that one again, and it asks them.
        """
        ends = self._ending.is_asked_for or self.is_writing
        return self._may_begin_again and not ends and bool(self.shards.lost)

    @property
    def unwritten(self) -> bytes:
        """The lines of the journal that the disk has not taken, for the server after this one."""
        return self._journal.unwritten

    @property
    def is_held(self) -> bool:
        """Whether messages of the data socket have to wait, since all chunks are at one step."""
        return self.data.is_held

    # Time.

    @property
    def wait_s(self) -> float:
        """How many seconds may pass without a call of `advance` while no message comes."""
        return ALIGN_TICK_S if self._checkpoints.is_aligning else TICK_S

    def advance(self, unreading: Iterable[int] = ()) -> None:
        """Does what is due now. Call it after messages, and every `wait_s` seconds at the latest.

        Args:
            unreading: workers that do not read, so that their answers could not be sent since the
                last call. They are evicted.
        """
        self._attempt("what was counted could not be told", self.data.settle)
        for worker in (*unreading, *self.shards.take_unreading()):
            self._attempt("a worker could not be evicted", partial(self.coordinator.evict, worker))
        if self.is_writing:
            self._attempt("the results could not be written", self._results.advance)
            return
        self._attempt("a checkpoint failed", self._ending.advance)
        if self._now() >= self._next_tick_s:
            self._tick()

    def _tick(self) -> None:
        self._next_tick_s = self._now() + TICK_S
        for what, step in (
            ("nobody could be evicted", self._evict_the_silent),
            ("the journal could not be forced to the disk", self._force_journal),
            ("events could not be written", self._flush_lines),
            ("the other shards could not be attended to", self.attend_shards),
            ("it is not known whether the run is over", self._ending.stop_if_it_is_time),
            ("the evaluator could not be looked after", self._look_after_evaluator),
            ("the trackers could not be looked after", self._look_after_trackers),
            ("a checkpoint failed", self._tick_checkpoints),
            ("no progress can be shown", self._progress.show),
        ):
            self._attempt(what, step)

    def _evict_the_silent(self) -> None:
        self._excuse_own_silence()
        self.coordinator.tick()

    def _force_journal(self) -> None:
        if self._now() >= self._next_force_s:
            self._next_force_s = self._now() + FORCE_S
            if self._now() >= self._next_count_s:
                self._note_trained()
            self._journal.force()

    def _note_trained(self) -> None:
        self._next_count_s = self._now() + COUNT_S
        if self.metrics.started:
            self._journal.trained(self.metrics.trained)

    def _flush_lines(self) -> None:
        """Has the system take the newest lines: it keeps them if this process is killed."""
        self._events.flush()
        if self._demo_logs is not None:
            self._demo_logs.flush()

    def _tick_checkpoints(self) -> None:
        if not self._ending.has_begun:
            self._checkpoints.tick()
        if self._now() >= self._again_s:
            self._again_s = self._now() + TRY_AGAIN_S
            self._try_again()

    def _try_again(self) -> None:
        """Writes what could not be written, if that can be now."""
        self._events.flush()
        run_dir = self._run_dir
        if run_dir is not None and run_dir.lacks_config:
            try:
                run_dir.try_config_again()
            except OSError as error:
                self._unwritten.fail(run_dir.config.name, error)
            else:
                self._unwritten.done(run_dir.config.name)

    def _excuse_own_silence(self) -> None:
        """Excuses the silence of members while this process was held up, as by a checkpoint."""
        looked_s, self._looked_s = self._looked_s, self._uptime()
        if self._looked_s - looked_s > AWAY_S:
            self.members.excuse(self._looked_s - looked_s)
            self.shards.excuse(self._looked_s - looked_s)

    def _look_after_evaluator(self) -> None:
        """Looks whether the evaluator has failed: that ends only a run that has not started."""
        failure = self._evaluator_failure()
        if failure is None:
            return
        told = f"the evaluator {failure}"
        if not self.metrics.started:
            self.stop(told, failure.status)
        else:
            self._progress.tell("evaluator", f"{told}; the run goes on without it")

    def _look_after_trackers(self) -> None:
        self.note_trackers(self._trackers_news())

    def note_trackers(self, news: Iterable[News]) -> None:
        """Notes which tracker cannot be written to, and which can be again.

        Args:
            news: of them.
        """
        for name, why in news:
            if why:
                self._unwritten.fail(name, why)
            else:
                self._unwritten.done(name)

    # The end.

    @property
    def ended(self) -> str:
        """The word for how the run has ended, as in summary.json."""
        return self._ending.ended

    @property
    def status(self) -> int:
        """The exit status of the server. A run that lacks some of its results has failed."""
        return self._ending.status or int(self._results.has_given_up)

    @property
    def signal(self) -> int:
        """The first signal that has asked the run to end; 0 for none."""
        return self._ending.signal

    def stop(self, reason: str, status: int) -> None:
        """Ends the run soon: see `Ending.stop`."""
        self._ending.stop(reason, status)

    def stop_soon(self, number: int) -> None:
        """Ends the run as that signal would. From any thread, or a signal handler."""
        self._ending.stop_soon(number)

    @property
    def is_over(self) -> bool:
        """Whether all have left, or the grace is over; a good end also waits for its evaluation."""
        return self._ending.is_over

    def finish(self) -> None:
        """Notes that the run has ended as it should, and how. REQUIRES: it is over."""
        self._attempt("what was counted could not be told", self.data.settle)
        self._attempt("not every shard has told its counts", self._count_up)
        self._ending.finish()

    def _count_up(self) -> None:
        """Has all shards send their newest counts, so that the summary has every message."""
        try:
            self.shards.count_up()
        except ProtocolError:
            self.attend_shards()

    def write_results(self) -> None:
        """Says how the run has ended, and begins to write what it leaves. Also after a failure."""
        self._progress.say_end(self.ended, self._unfinished())
        self.coordinator.standing.is_writing = True
        self._results.begin(has_final=self._ending.has_final)

    @property
    def is_writing(self) -> bool:
        """Whether what the run leaves is being written, or waited for."""
        return self._results.is_writing

    def give_up(self) -> None:
        """Ends the wait for what cannot be written. A run that lacks it has failed."""
        self._results.give_up()

    def close(self) -> None:
        """Lets all files go that are still open, such as those for who asked for a checkpoint."""
        self.give_up()
        self._checkpoints.close()
        self._events.close()
        self._note_trained()
        self._journal.close()

    def _end_logs(self) -> None:
        """Says how to go on with the run, and closes its logs, now that all else is written."""
        self._say_how_to_go_on()
        self._events.close()
        if self._demo_logs:
            self._demo_logs.close()

    def _say_how_to_go_on(self) -> None:
        """Says the command line that goes on with a run that has ended early."""
        if self.ended == DONE or self._options.ready_fd is not None or not self.metrics.steps:
            return  # whoever started a server with --ready-fd has its own command line
        if self._run_dir and (command := self._run_dir.continuing_command("server")):
            self._say(f"to go on: {command}")

    def _unfinished(self) -> list[dict[str, Any]]:
        """What this run has not trained, in the form of summary.json."""
        return [part.as_dict() for part in self.coordinator.unfinished()]

    def _summary(self) -> dict[str, Any]:
        """The content of summary.json, once the run has ended."""
        settings = summary_settings(
            self._options, self.rule, self.members.ranks, self.coordinator.data_plan
        )
        self._events.flush()
        outcome = {
            "ended": self.ended,
            "unfinished": self._unfinished(),
            "generations": self.generation,
            "most_at_once": self.coordinator.crew.most_at_once,
            "events_missing": self._events.missing,
            "not_written": self._unwritten.as_dict(),
        }
        return {**settings, **self.metrics.summary(), **outcome}
