"""The server of a launch: its process, which is started again where it has crashed."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from subprocess import TimeoutExpired
from typing import Any, Final

from leash.ps.errors import LeashError, UsageError
from leash.ps.interrupt import GIVE_UP, held, received, times_received
from leash.ps.launch.process_options import options_of_server
from leash.ps.launch.restarts import Restarts
from leash.ps.options.addresses import split_address
from leash.ps.options.base import to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.policy import BSP
from leash.ps.processes import (
    Failure,
    Process,
    ServerProcess,
    are_free,
    failure_of,
    last_words,
    lasting_address,
    stop_all,
)
from leash.ps.runs.rundir import RunDir
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.words import GOES_ON_FROM, INCOMPLETE, NOT_BITWISE, PAGE_IS_AT

END_LOOK_S: Final = 0.5  # between two looks at a server that may have ended
# What the server says of a checkpoint from which it goes on, and of its page.
SAID_AT_ITS_START: Final = (GOES_ON_FROM, NOT_BITWISE, PAGE_IS_AT)
# Workers of a bsp run have so long to end their step before they are told to end.
STEP_END_S: Final = 1.2
STEP_LOOK_S: Final = 0.01
PORT_LOOK_S: Final = 0.05
ADDRESSES: Final = 3  # of which one is free, unless many servers start at the same time
NOWHERE: Final = "tcp://127.0.0.1:1"  # of a server that never listened
SHARDS_END_S: Final = 5.0  # the other processes of a server that has crashed, after its end


class LaunchedServer:
    """Starts the server, starts it again at the same ports where it has crashed, and ends it.

    Attributes:
        address: where it listens; empty until it does.
        is_given_up: whether the launcher has ended it, because no worker is left.
    """

    def __init__(
        self, options: LaunchOptions, run_dir: RunDir, restarts: Restarts,
        say: Callable[[str], None], bind: str | None = None,
    ) -> None:  # fmt: skip
        """Starts none yet.

        Args:
            options: of the launch.
            run_dir: where the run leaves its files.
            restarts: says whether one that has ended is started again.
            say: shows a line.
            bind: where it listens; None for a place of this machine alone.
        """
        self.address: str = ""
        self.is_given_up: bool = False
        self._options: Final = options
        self._run_dir: Final = run_dir
        self._restarts: Final = restarts
        self._say: Final = say
        self._bind: Final = bind
        self._log: Final = run_dir.logs / "server.log"
        self._process: Process | None = None  # the newest

    # Start.

    def start(self) -> None:
        """Starts it, and waits until it listens.

        Raises:
            UsageError, LeashError: it has ended instead; the text is its own last line.
        """
        if self._bind is not None:
            self.address = self._serve(options_of_server(self._options, self._run_dir, self._bind))
            return
        for _ in range(ADDRESSES):
            bind = lasting_address(self._ports)
            try:
                self.address = self._serve(options_of_server(self._options, self._run_dir, bind))
            except UsageError:
                if are_free(*split_address(bind), self._ports):
                    raise
                # Another launch has chosen one of these ports at the same moment.
            else:
                return
        self.address = self._serve(options_of_server(self._options, self._run_dir))

    def start_again(self, is_awaited: Callable[[], bool]) -> bool:
        """Starts it again if it has crashed; tells if it has. REQUIRES: it was started.

        Args:
            is_awaited: whether workers wait for it.

        Raises:
            UsageError: it cannot be as it was, since its ports are taken, for example.
        """
        while is_awaited() and self._restarts.is_due(self.wait(), self._how_its_run_has_ended()):
            words = last_words(self._log.read_text("utf-8", errors="replace"))
            self._say(self._restarts.note(self.wait(), words))
            place = self._bind or self.address
            options = options_of_server(self._options, self._run_dir, place)
            if self._run_dir.checkpoints:  # newer than the one that the launch was told to take
                options = replace(options, resume=None)
            self._await_ports()
            try:
                self._serve(options)
            except UsageError:
                raise
            except LeashError:
                continue  # it has crashed again
            return True
        return False

    def _serve(self, options: ServerOptions) -> str:
        """Starts a process, the run's first or a later one; returns its address once it listens."""
        is_first = self._process is None
        said_before = 0 if is_first else self._log.stat().st_size
        with held():
            server = ServerProcess(to_argv(options), self._log, again=not is_first)
            before, self._process = self._process, server.process
        if before is not None and before.stdin is not None:
            before.stdin.close()
        address = server.await_address()
        for line in self._log.read_bytes()[said_before:].decode(errors="replace").splitlines():
            if any(word in line for word in SAID_AT_ITS_START):
                self._say(line.removeprefix("leash server: "))
        return address

    def _await_ports(self) -> None:
        """Waits for the end of a crashed server's other shards, which end when it has gone."""
        host, port = split_address(self.address)
        deadline_s = time.monotonic() + SHARDS_END_S
        while not are_free(host, port, self._ports) and time.monotonic() < deadline_s:
            time.sleep(PORT_LOOK_S)

    @property
    def _ports(self) -> int:
        """How many ports the server takes: for control, and for the data of each shard."""
        return 1 + self._options.shards

    # How it is. REQUIRES: it was started.

    @property
    def is_running(self) -> bool:
        """Whether its newest process has not ended."""
        return self._started.poll() is None

    def wait(self) -> int:
        """Waits for its end; returns its exit status."""
        return self._started.wait()

    def wait_a_moment(self, seconds: float) -> None:
        """Waits for its end for so long."""
        with suppress(TimeoutExpired):
            self._started.wait(seconds)

    def summary(self) -> dict[str, Any] | None:
        """What it has written of its run to summary.json; None before it has."""
        return self._run_dir.read_summary()

    def failure(self, status: int, *, has_begun: bool) -> Failure:
        """Why it has ended as it should not.

        Args:
            status: its exit status, which is not 0.
            has_begun: whether the run has.
        """
        summary = self.summary()
        if summary and summary["ended"] == INCOMPLETE:
            return Failure("not trained", unfinished_text(summary["unfinished"]), status)
        return failure_of("server", status, self._log, has_begun=has_begun)

    @property
    def _started(self) -> Process:
        assert self._process is not None
        return self._process

    def _how_its_run_has_ended(self) -> str | None:
        """The word for it, if there is a summary."""
        summary = self.summary()
        return summary["ended"] if summary is not None else None

    # End.

    def give_up(self) -> None:
        """Ends it, because no worker is left for whom it would wait; a second call does nothing."""
        if not self.is_given_up:
            self.is_given_up = True
            self._started.send_signal(GIVE_UP)

    def tell_to_end(self, *, awaits_step: bool) -> None:
        """Tells it to end, if it was started.

        Args:
            awaits_step: gives the workers of a bsp run the time to end their step, so that it can
                be resumed.
        """
        if self._process is None:
            return
        # It notes the first signal as what has ended the run. Without one, workers have failed.
        self._process.send_signal(received() or (GIVE_UP if self.address else signal.SIGTERM))
        if not awaits_step or self._options.rule.policy is not BSP:
            return
        final, deadline_s = self._run_dir.checkpoint("final"), time.monotonic() + STEP_END_S
        while time.monotonic() < deadline_s and self.is_running and not final.exists():
            self.wait_a_moment(STEP_LOOK_S)

    def stop(self, deadline_s: float) -> None:
        """Waits for its end, for longer while it says that it writes what the run leaves; kills it.

        A second signal ends that, or has said before that nobody wants it.

        Args:
            deadline_s: on the clock of `time.monotonic`.
        """
        if self._process is None:
            return
        self._see_out(deadline_s)
        stop_all([self._process], 0.0)

    def _see_out(self, deadline_s: float) -> None:
        has_said = False
        with ControlChannel(self.address or NOWHERE) as channel:
            while self.is_running:
                if time.monotonic() > deadline_s:
                    if times_received() > 1 or not _is_writing(channel):
                        return
                    if not has_said:
                        self._say(f"writing to {self._run_dir.path}; Ctrl-C again gives up")
                    has_said = True
                self.wait_a_moment(END_LOOK_S)


def _is_writing(channel: ControlChannel) -> bool:
    """Whether the server at the other end says that it writes what the run leaves."""
    try:
        return bool(request_state(channel, END_LOOK_S).get("writing"))
    except LeashError:
        return False
