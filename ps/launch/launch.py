"""One launch from its start to its result: a server, its workers, and whoever watches them."""

import time
from typing import Final

from rich.console import Console

from leash.ps.commands.live_screen import Screen, screen_for
from leash.ps.commands.printing import print_lines
from leash.ps.commands.run_table import with_summary
from leash.ps.interrupt import held
from leash.ps.launch.restarts import Restarts
from leash.ps.launch.result import last_lines
from leash.ps.launch.script import is_told_of_a_good_end
from leash.ps.launch.server import LaunchedServer
from leash.ps.launch.starter import Starter
from leash.ps.launch.watch import Watch
from leash.ps.launch.workers import LaunchedWorkers
from leash.ps.options.launch import LaunchOptions
from leash.ps.policy import MAY_STALL, VERSIONS
from leash.ps.processes import ASKED_TO_END, error_of
from leash.ps.runs.rundir import RunDir
from leash.ps.words import SMALLER_RATE

# The server takes up to 3 s: its workers' byes, its summary, its evaluator. All is down within 5 s.
STOP_GRACE_S: Final = 3.5


class Launch:
    """Starts, watches and ends the processes of one run."""

    def __init__(
        self, options: LaunchOptions, run_dir: RunDir, console: Console, starter: Starter, *,
        is_one_of_many: bool = False, bind: str | None = None, screen: Screen | None = None,
        tells_result: bool = True,
    ) -> None:  # fmt: skip
        """Starts nothing yet.

        Args:
            options: what to train, and how.
            run_dir: where the run leaves its files.
            console: shows how it stands, and its result.
            starter: of the workers.
            is_one_of_many: an experiment repeats the run if it ends early.
            bind: where the server listens; None for a place of this machine alone.
            screen: shows how it stands; by default the console's.
            tells_result: whether it prints the result, or leaves that to its caller.
        """
        self._is_one_of_many: Final = is_one_of_many
        self._bind: Final = bind
        self._options: Final = options
        self._run_dir: Final = run_dir
        self._console: Final = console
        self._tells_result: Final = tells_result
        screen = self._screen = screen or screen_for(console)
        # An experiment repeats a run whose server has crashed: its figures would tell of that.
        restarts = Restarts(0 if is_one_of_many else options.server_restarts)
        self._starter: Final = starter
        self._server: Final = LaunchedServer(options, run_dir, restarts, screen.say, bind)
        self._workers: Final = LaunchedWorkers(options, run_dir.logs, starter, screen.say)
        self._watch: Final = Watch(options, run_dir.logs, self._server, self._workers, screen)

    def run(self) -> int:
        """Runs to the end; returns 0, or the server's status if somebody asked the server to end.

        Raises:
            UsageError, LeashError: a process failed; the text is the last line that it printed.
        """
        try:
            with self._screen:
                try:
                    self._start()
                    self._watch.run()
                    if self._server.wait() not in ASKED_TO_END:
                        self._workers.see_out()
                finally:
                    self._stop()
                    self._workers.relay()
                    self._show_end()
        finally:
            self._print_result()
        return self._status()

    def _start(self) -> None:
        """Starts the server, and the workers once it listens."""
        options, say = self._options, self._screen.say
        shards = f" of {options.shards} shards" if options.shards > 1 else ""
        workers = "1 worker" if options.workers == 1 else f"{options.workers} workers"
        say(f"starting a server{shards} and {workers}")
        if options.rule.bound_unit == VERSIONS:
            say(MAY_STALL)  # the server says it too, but only in its log
        self._server.start()
        everywhere = "" if self._bind is None else f"{self._bind}, which is here "
        say(f"the server listens at {everywhere}{self._server.address}")
        self._workers.start(self._server.address)
        if options.max_workers is not None:
            say(
                f"up to {options.max_workers} workers may take part, and join at any time: "
                f"{self._starter.how_to_join(self._server.address)}"
            )

    def _stop(self) -> None:
        """Ends all processes that have not ended."""
        with held():
            self._server.tell_to_end(awaits_step=self._workers.are_started)
            deadline_s = time.monotonic() + STOP_GRACE_S
            self._workers.stop(STOP_GRACE_S)
            self._server.stop(deadline_s)

    def _show_end(self) -> None:
        watch = self._watch
        if watch.state and watch.has_begun and (summary := self._server.summary()):
            self._screen.show(with_summary(watch.state, summary))

    def _print_result(self) -> None:
        if not self._tells_result:
            return
        lines = last_lines(
            self._options, self._run_dir, self._server.summary(),
            tells_how_to_go_on=not self._is_one_of_many, has_diverged=self._has_diverged(),
        )  # fmt: skip
        print_lines(self._console, lines)

    def _has_diverged(self) -> bool:
        failures = self._workers.failures(has_begun=True, even_if_killed=False)
        return any(SMALLER_RATE in failure.words for failure in failures)

    def _status(self) -> int:
        """The exit status. Raises UsageError or LeashError if a process has failed."""
        status, is_given_up = self._server.wait(), self._server.is_given_up
        has_begun = self._watch.has_begun
        if status in ASKED_TO_END and not is_given_up:
            return status
        failures = (
            [self._server.failure(status, has_begun=has_begun)]
            if status and not is_given_up
            else []
        )
        failures += self._workers.failures(has_begun=has_begun, even_if_killed=is_given_up)
        if self._options.script is not None:  # it may leave it to Python to say that all is over
            failures = [f for f in failures if not is_told_of_a_good_end(f.words)]
        if failures:
            raise error_of(failures, self._run_dir.logs)
        return 0
