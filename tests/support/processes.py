"""Real processes for tests: a server, and workers without PyTorch. None outlives its test."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil

PUSHER = Path(__file__).with_name("pusher.py")
LEASH = (sys.executable, "-m", "leash.ps.cli")
LOAD_S = 20.0  # what a machine that others use too may add to a time
OWNER = "LEASH_TEST_OWNER"  # in the environment of every process that a test has started


class Child:
    """A process whose output is read line by line, with a deadline."""

    def __init__(self, argv: list[str], *, pass_fds: tuple[int, ...] = (), cwd: Path | None = None):
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
            pass_fds=pass_fds, cwd=cwd, start_new_session=True,
        )  # fmt: skip
        self.lines: list[str] = []
        assert self.process.stdout is not None
        self._out = self.process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._rest = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._out, selectors.EVENT_READ)

    def read_until(self, text: str, timeout_s: float = 30.0) -> str:
        """The next line that contains `text`."""
        deadline_s = time.monotonic() + timeout_s
        start = len(self.lines)
        while True:
            for line in self.lines[start:]:
                if text in line:
                    return line
            start = len(self.lines)
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"no {text!r} within {timeout_s} s in:\n" + "\n".join(self.lines)
            assert self._read(left_s), f"ended without {text!r}:\n" + "\n".join(self.lines)

    def read_next(self, timeout_s: float = 30.0) -> None:
        """Waits until it has written a further line."""
        deadline_s, seen = time.monotonic() + timeout_s, len(self.lines)
        while len(self.lines) == seen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"nothing within {timeout_s} s after:\n" + "\n".join(self.lines)
            assert self._read(left_s), "ended:\n" + "\n".join(self.lines)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit status; the rest of its output is in `lines`."""
        deadline_s = time.monotonic() + timeout_s
        while self._read(max(0.01, deadline_s - time.monotonic())):
            assert time.monotonic() < deadline_s, "still running:\n" + "\n".join(self.lines)
        return self.process.wait(max(0.01, deadline_s - time.monotonic()))

    def tell(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def _family(self) -> list[psutil.Process]:
        """This process and those below it; none where it has ended."""
        if self.process.poll() is not None:
            return []
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def _read(self, timeout_s: float) -> bool:
        """Takes what has come; False at the end of the output."""
        if not self._selector.select(timeout_s):
            return True
        data = self._out.read()
        if not data:
            return data is None
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines.extend(line.decode() for line in lines)
        return True

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._selector.close()
        self._out.close()


@contextmanager
def server_process(run_dir: Path, *options: str) -> Iterator[tuple[Child, str]]:
    """`leash server` on a free port of this machine; gives the process and its address."""
    reader, writer = os.pipe()
    argv = [
        *LEASH, "server", "--bind=tcp://127.0.0.1:0", f"--run-dir={run_dir}",
        f"--ready-fd={writer}", *options,
    ]  # fmt: skip
    with os.fdopen(reader, "rb") as ready, Child(argv, pass_fds=(writer,)) as server:
        os.close(writer)
        address = ready.read().decode()
        assert address, "the server did not start:\n" + "\n".join(_rest_of(server))
        yield server, address


def pusher(address: str, rank: int, *, steps: int, **options: float) -> Child:
    """A worker of its own process that pushes `steps` steps and prints each; see pusher.py."""
    given = {"server": address, "rank": rank, "steps": steps, **options}
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return Child([sys.executable, str(PUSHER), *argv])


def own_processes() -> list[psutil.Process]:
    """Those that run and that this process's tests have started, however far down."""
    return [process for process in psutil.process_iter() if _is_own(process)]


def _is_own(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it is ending, or another user's
        if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            return process.environ().get(OWNER) == str(os.getpid())
    return False


def still_running(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that have not ended in time. One that nobody has reaped yet has ended."""
    deadline_s = time.monotonic() + timeout_s
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline_s:
            break
        psutil.wait_procs(left, 0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _rest_of(child: Child) -> list[str]:
    child.wait(5)
    return child.lines
