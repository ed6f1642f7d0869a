"""Watches the processes of a launch, and decides what the end of one of them means for the run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from leash.ps.commands.live_screen import Screen
from leash.ps.commands.run_table import RunState
from leash.ps.errors import ProtocolError, ServerUnreachableError
from leash.ps.launch.script import NEVER_JOINED
from leash.ps.launch.server import LaunchedServer
from leash.ps.launch.workers import LaunchedWorkers
from leash.ps.options.launch import LaunchOptions
from leash.ps.processes import Failure, error_of, from_outside
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import admin_key
from leash.ps.wire.messages import Bye, Ok
from leash.ps.words import EVICTED, FAILED, TAKES_PART, named_workers

POLL_S: Final = 0.5


class Watch:
    """Shows how a run stands until it is over.

    Attributes:
        state: the newest answer of the server; None before the first.
        has_begun: whether the run has, under this server or one before it.
    """

    def __init__(
        self, options: LaunchOptions, logs: Path, server: LaunchedServer, workers: LaunchedWorkers,
        screen: Screen,
    ) -> None:  # fmt: skip
        """Looks at nothing yet.

        Args:
            options: of the launch.
            logs: the folder of what the processes print.
            server: of the run.
            workers: of the run, which this launch has started.
            screen: shows how it stands.
        """
        self.state: RunState | None = None
        self.has_begun: bool = False
        self._silent: set[int] = set()  # the ranks of whom that was said
        self._options: Final = options
        self._logs: Final = logs
        self._server: Final = server
        self._workers: Final = workers
        self._screen: Final = screen

    def run(self) -> None:
        """Watches until a server has ended that is not started again. REQUIRES: all are started.

        Raises:
            LeashError: a process has failed without which the run never begins.
            UsageError: a server cannot be started again as it was.
        """
        self._watch_server()
        while self._server.start_again(self._is_server_awaited):
            self._watch_server()

    def _watch_server(self) -> None:
        """Shows how the run stands, again and again, until the server has ended."""
        keys = self._options.keys
        key = None if keys is None else admin_key(keys)
        with ControlChannel(self._server.address, key=key) as channel:
            while self._server.is_running:
                # Processes first, so that the state that is shown is never older than an end.
                ended = self._workers.newly_ended()
                done = self._workers.without_failure()
                self._workers.relay()
                with suppress(ServerUnreachableError):
                    state = self.state = request_state(channel, POLL_S)
                    self.has_begun |= bool(state["started"])
                    self._screen.show(state)
                    self._show_silent(state)
                    self._require_joined(done, state)
                    if state["started"] and not state["stopping"] and not state["finished"]:
                        self._workers.resize(state["train_seconds"])
                self._judge(ended, channel)
                self._give_up_unreachable(channel)
                self._server.wait_a_moment(POLL_S)

    def _show_silent(self, state: RunState) -> None:
        """Says which workers have been silent for too long, and which are back."""
        silent = {row["worker"] for row in state["table"] if row["state"] == EVICTED}
        back = {row["worker"] for row in state["table"] if row["state"] in TAKES_PART}
        if new := sorted(silent - self._silent):
            whom = "it, until it comes" if len(new) == 1 else "them, until they come"
            self._screen.say(f"{named_workers(new)}: silent for too long; the run goes on without "
                             f"{whom} back")  # fmt: skip
        if again := sorted(self._silent & back):
            self._screen.say(f"{named_workers(again)}: back")
        self._silent = (self._silent | silent) - back

    def _require_joined(self, done: Sequence[int], state: RunState) -> None:
        """Looks whether a script has ended without a word to the server, which waits for it.

        Args:
            done: had ended before the server said how the run stands.
            state: how it stands.

        Raises:
            LeashError: one has, so that the run would never begin.
        """
        if done and not self.has_begun and not state["stopping"]:
            failures = [Failure(self._workers.name_of(rank), NEVER_JOINED, 1) for rank in done]
            raise error_of(failures, self._logs)

    def _judge(self, ended: dict[int, int], channel: ControlChannel) -> None:
        """Decides what the end of these workers means for the run."""
        if self.state is not None and self.state["stopping"]:
            return
        lost = {rank: status for rank, status in ended.items() if status != 0}
        if lost and not self.has_begun:
            # The server waits for all of its workers, so this run would never start.
            failures = [self._workers.failure(r, s, has_begun=False) for r, s in lost.items()]
            raise error_of(failures, self._logs)
        for rank, status in lost.items():
            if self._workers.was_told_to_leave(rank):
                continue  # it has said bye by itself
            how = "was killed" if from_outside(status) else "failed"
            self._screen.say(f"{self._workers.name_of(rank)} {how}; the run goes on without it")
            self._say_bye_for(rank, channel)
        if self._workers.have_all_failed and not self._have_others_joined():
            self._server.give_up()

    def _give_up_unreachable(self, channel: ControlChannel) -> None:
        """Lets the run end that waits for nobody but workers whose hosts have gone."""
        away = self.state["coming_back"] if self.state and not self.state["stopping"] else []
        if away and all(self._workers.is_unreachable(rank) for rank in away):
            for rank in away:
                self._screen.say(f"worker {rank}: neither the server nor ssh reaches its host; the "
                                 "run ends without it")  # fmt: skip
                self._say_bye_for(rank, channel)

    def _say_bye_for(self, rank: int, channel: ControlChannel) -> None:
        """Tells the server of a worker that has ended, so that nobody waits for it any more."""
        assert self.state is not None
        incarnations = {row["worker"]: row["incarnation"] for row in self.state["table"]}
        if rank in incarnations:
            # It may have said bye itself, and the server may be about to end.
            with suppress(ProtocolError, ServerUnreachableError):
                channel.request(Bye(rank, incarnations[rank], FAILED), Ok, timeout_s=POLL_S)

    def _is_server_awaited(self) -> bool:
        """Whether workers wait for a server that has ended."""
        return self._workers.any_running or self._have_others_joined()

    def _have_others_joined(self) -> bool:
        """Whether workers take part that somebody else has started, and that may go on."""
        rows = self.state["table"] if self.state else []
        return any(
            row["state"] in TAKES_PART and row["worker"] not in self._workers for row in rows
        )
