"""A run that was launched from Python, and its handle."""

import json
import os
import subprocess
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from leash.ps.commands.run_table import with_summary
from leash.ps.errors import LeashError, UsageError
from leash.ps.notebook.arguments import Task, search_path, words_for_launch
from leash.ps.notebook.shown import RunReport, ShownTable
from leash.ps.processes import (
    ASKED_TO_END,
    SEARCH_VARIABLE,
    Process,
    last_words,
    module_argv,
    spawn,
)

FIRST_STATE_S: Final = 30.0  # how long `status` waits for the first answer of the server
HANDLE_STOP_S: Final = 30.0  # a launch ends all of its processes within a few seconds
OUTPUT_LINES: Final = 1000
WORKERS: Final = 2  # where nothing says how many
WORKERS_SAID_BY: Final = {"config", "hosts", "slurm"}
# Those that go on: a handle that nobody keeps any more must not end its run.
_RUNNING: Final[set["LaunchedRun"]] = set()


def launch(
    script: str | os.PathLike[str] | None = None, *, workers: int | str | None = None,
    model: Task = None, data: Task = None, **options: Any,
) -> "LaunchedRun":  # fmt: skip
    """Starts a server here and its workers, as ``leash launch`` does, and returns at once.

    The run goes on by itself, whatever this process does: an interrupt (Ctrl-C, a notebook's stop
    button) does not reach it. It ends when its work is done, by `LaunchedRun.stop`, or with this
    process, however that ends.

    Args:
        script: a training script of your own, with its arguments, to start in the place of each
            ``leash worker``.
        workers: how many, from 1; ``"2:8"`` begins with two and takes up to eight. By default as
            many as a file of settings (``config="…"``) or ``hosts="…"`` says, and two without them.
        model: a name such as "mnist_cnn", "module:function", or a function of an importable module
            that returns a torch module. A function that is defined in the notebook itself cannot
            be imported by worker processes.
        data: likewise: "digits" or another name, or a function that returns a pair of torch data
            sets.
        options: those of ``leash launch``, with underscores: ``policy="ssp"``, ``bound=3``,
            ``epochs=5``, ``slow=[0, 0, 0, 0.05]``, ``log="csv"``. A list stands for values with
            commas between them; True and False for an option that takes no value.

    Returns:
        The handle of the run.

    Raises:
        UsageError: an argument is unknown or cannot be, or a data set is missing.
        LeashError: the launch has failed before it had a run directory.

    Examples:
        In a notebook:

        >>> import leash
        >>> run = leash.launch(workers=2, data="digits", epochs=1)  # doctest: +SKIP
        >>> run.table()  # doctest: +SKIP
        >>> run.wait()["test_accuracy"]  # doctest: +SKIP
        0.91
    """
    if workers is None and not WORKERS_SAID_BY & options.keys():
        workers = WORKERS
    given = {"script": script, "workers": workers, "model": model, "data": data, **options}
    return LaunchedRun(words_for_launch(given))


class LaunchedRun:
    """A run that was launched from this process. In a notebook it shows itself as its table.

    Attributes:
        run_dir: where it leaves its files.
    """

    def __init__(self, words: list[str]) -> None:
        """Starts the launch, and waits until it has a run directory.

        Args:
            words: of its command line, checked.

        Raises:
            LeashError: it has ended instead; the text is its own last line.
        """
        self._output: Final[deque[str]] = deque(maxlen=OUTPUT_LINES)
        self._changed: Final = threading.Condition()
        self._state: dict[str, Any] | None = None
        self._run_dir = ""
        self._has_ended = False
        reader, writer = os.pipe()
        try:
            self._process: Final[Process] = spawn(
                "launch", [*words, f"--state-fd={writer}"], stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, pass_fds=(writer,),
                variables={SEARCH_VARIABLE: search_path()},
            )  # fmt: skip
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        _RUNNING.add(self)
        self._states: Final = threading.Thread(
            target=self._read_states, args=(os.fdopen(reader, "rb"),), daemon=True,
            name="leash-launch-states",
        )  # fmt: skip
        self._states.start()
        threading.Thread(target=self._read_output, daemon=True, name="leash-launch").start()
        with self._changed:
            self._changed.wait_for(lambda: self._run_dir or self._has_ended)
        if not self._run_dir:
            raise self._failure()
        self.run_dir: Final = Path(self._run_dir)

    # How it is.

    @property
    def is_running(self) -> bool:
        """Whether the run goes on."""
        return not self._has_ended

    @property
    def output(self) -> list[str]:
        """What ``leash launch`` has printed: the newest 1000 lines."""
        return list(self._output)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results, as summary.json has them; None before the end."""
        with suppress(FileNotFoundError):
            summary: dict[str, Any] = json.loads((self.run_dir / "summary.json").read_text("utf-8"))
            return summary
        return None

    def status(self) -> dict[str, Any]:
        """How the run stands, at most about a second ago; at first it waits until that is known.

        Returns:
            The map that ``leash status --json`` shows; ``docs/wire-format.md`` lists its keys.

        Raises:
            LeashError: the launch has failed before anything was known; the text is its last line.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._state or self._has_ended, FIRST_STATE_S)
        if self._state is not None:
            # What was told last may be older than the end.
            ended = self.summary if self._has_ended else None
            return self._state if ended is None else with_summary(self._state, ended)
        if self._has_ended:
            raise self._failure()
        raise LeashError(f"the server has not answered yet; see {self.run_dir / 'logs'}")

    def table(self) -> ShownTable:
        """The live table, as it is now; a notebook shows it as HTML.

        Returns:
            What a notebook shows; its ``state`` is that of the run.

        Raises:
            LeashError: as in `status`.
        """
        return ShownTable(self.status())

    def report(self) -> RunReport:
        """Writes the report of the run so far; a notebook shows the page.

        Returns:
            What a notebook shows; its ``path`` is that of the page.

        Raises:
            LeashError: there is nothing to show yet, or matplotlib is missing.
        """
        done = subprocess.run(
            module_argv("leash.ps.cli", "report", str(self.run_dir)), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        if done.returncode:
            raise LeashError(last_words(done.stderr))
        return RunReport(self.run_dir / "report.html")

    # Its end.

    def wait(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Waits for the end of the run. An interrupt ends the wait, and not the run.

        Args:
            timeout_s: for so many seconds at most; without it, as long as it takes.

        Returns:
            The results, as summary.json has them; empty if the run ended before its first step.

        Raises:
            TimeoutError: it goes on.
            LeashError: it has failed; the text is the last line that it printed. One that somebody
                has stopped has not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_ended, timeout_s):
                raise TimeoutError(f"the run in {self.run_dir} goes on")
        if self._process.returncode not in (0, *ASKED_TO_END):
            raise self._failure()
        return self.summary or {}

    def stop(self) -> None:
        """Ends the run, with its last checkpoint and its summary, and waits until it has ended."""
        self._process.terminate()
        with self._changed:
            has_ended = self._changed.wait_for(lambda: self._has_ended, HANDLE_STOP_S)
        if not has_ended:
            self._process.kill()  # all that it has started ends with it
            with self._changed:
                self._changed.wait_for(lambda: self._has_ended)

    def __enter__(self) -> "LaunchedRun":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self.stop()

    # What a notebook shows.

    def __repr__(self) -> str:
        how = "goes on" if self.is_running else (self.summary or {}).get("ended", "ended")
        return f"LaunchedRun({str(self.run_dir)!r}: {how})"

    def _repr_html_(self) -> str | None:
        return self.table()._repr_html_() if self._state is not None else None

    # Threads of its own.

    def _read_states(self, file: IO[bytes]) -> None:
        with file:
            for line in file:
                told = json.loads(line)
                with self._changed:
                    self._run_dir = told.get("run_dir", self._run_dir)
                    self._state = told.get("state", self._state)
                    self._changed.notify_all()

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._output.append(line.decode(errors="replace").rstrip("\n"))
        self._states.join()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        _RUNNING.discard(self)

    def _failure(self) -> LeashError:
        words = last_words("\n".join(self._output))
        return UsageError(words) if self._process.returncode == 2 else LeashError(words)
