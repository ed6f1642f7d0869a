"""A real server for tests: a `Server` in a thread, on ports chosen by the system."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from leash.ps.errors import ServerUnreachableError
from leash.ps.options.server import ServerOptions
from leash.ps.runs.rundir import RunDir
from leash.ps.server.loop import Server
from leash.ps.shard.metrics import Metrics
from leash.ps.wire.control import ControlChannel
from leash.ps.wire.messages import State, Status

END_S = 10.0
SETTLE_S = 1.0


@dataclass
class SkippingClock:
    """The real time, and whatever a test skips: nothing has to sleep for an eviction."""

    skipped_s: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s

    def skip(self, seconds: float) -> None:
        self.skipped_s += seconds


@dataclass
class RunningServer:
    server: Server
    clock: SkippingClock
    said: list[str]
    thread: threading.Thread = field(init=False)
    status: int | None = None
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="server under test", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.status = self.server.run()
        except BaseException as failure:
            self.failure = failure

    @property
    def address(self) -> str:
        """Of the control socket."""
        return self.server.address

    @property
    def data_address(self) -> str:
        return f"tcp://127.0.0.1:{self.server.data_port}"

    def settled(self) -> Metrics:
        """What was counted of all that was answered: engines give their counts in batches."""
        with ControlChannel(self.address) as channel:
            while self.thread.is_alive():
                try:
                    channel.request(Status(), State, timeout_s=SETTLE_S)
                except ServerUnreachableError:
                    continue  # the run may be about to end, which settles all
                break
        return self.server.metrics

    def join(self) -> int:
        """Waits until the run has ended by itself; returns its status."""
        self.thread.join(END_S)
        self._require_sound(ended=True)
        assert self.status is not None
        return self.status

    def end(self) -> None:
        """Ends the run, whatever its workers do."""
        self.server.stop_soon(signal.SIGTERM)
        deadline_s = time.monotonic() + END_S
        while self.thread.is_alive() and time.monotonic() < deadline_s:
            self.clock.skip(1000.0)  # everybody is silent, and every grace is over
            self.thread.join(0.02)
        self._require_sound(ended=True)

    def _require_sound(self, *, ended: bool) -> None:
        if self.failure is not None:
            raise AssertionError("the server's loop ended with an error") from self.failure
        assert self.thread.is_alive() != ended, "the server does not end"


@contextmanager
def serving(
    *, run_dir: RunDir | None = None, has_lane: bool = True, **settings: Any
) -> Iterator[RunningServer]:
    """A server with these settings, ended in any case; an error in its loop fails the test.

    A test that skips time must have it go without a lane, which knows the real time alone.
    """
    clock, said = SkippingClock(), []  # type: SkippingClock, list[str]
    options = ServerOptions(**{"bind": "tcp://127.0.0.1:0", **settings})
    options.check()
    running = RunningServer(
        Server(options, run_dir, say=said.append, now=clock, has_lane=has_lane), clock, said
    )
    try:
        yield running
    finally:
        running.end()
