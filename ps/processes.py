"""Starts and ends the processes of Leash: spawns them, never forks, and leaves none behind."""

import io
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol

from leash.ps import interrupt
from leash.ps._core import keep_freed_memory
from leash.ps.errors import LeashError, UsageError
from leash.ps.words import KEY_VARIABLE

Process = subprocess.Popen[bytes]


def _own_loopback() -> str:
    """The address at which only processes of this machine reach one another."""
    with suppress(OSError), socket.create_server(("127.0.0.1", 0)):
        return "127.0.0.1"
    return "[::1]"  # a machine, or a container, that has IPv6 alone


# For --bind: this machine alone, on a port that the system chooses.
FREE_PORT: Final = f"tcp://{_own_loopback()}:0"
ASKED_TO_END: Final = tuple(128 + number for number in interrupt.SIGNALS)  # exit statuses
# Of a server that its workers have to find again after its end: below the ports that a system gives
# to connections, one of which might be at its place when it comes back.
LASTING_PORTS: Final = range(15_000, 29_000)
_ATTEMPTS: Final = 100
_NO_VARIABLES: Final[Mapping[str, str]] = {}

# First in a program for `python -c`. Otherwise Python searches the working directory first, and
# takes a user's random.py there for the module of that name. (-P does the same from 3.11 on.)
WITHOUT_WORKING_DIRECTORY: Final = "import sys; sys.path = [place for place in sys.path if place]"
_RUN_MODULE: Final = (
    f"{WITHOUT_WORKING_DIRECTORY}; "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


# Of a part of a process, such as a shard of a server. Ctrl-C reaches the parent alone, as it would
# if this had a session of its own. But Linux shares out processors by session (sched_autogroup): on
# a busy machine one that was begun just now may wait for seconds.
_SAME_SESSION: Final[dict[str, Any]] = (
    {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
)

# A user's script knows nothing of `interrupt.end_with_parent`. So the kernel is told to end the
# process with its parent, which outlasts the change into `python SCRIPT`.
_PR_SET_PDEATHSIG: Final = 1
_RUN_SCRIPT: Final = (
    f"{WITHOUT_WORKING_DIRECTORY}; import ctypes, os, signal; "
    f"ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM); "
    # The parent may have ended before the kernel was told.
    "os.getppid() == int(sys.argv[1]) or sys.exit(128 + signal.SIGTERM); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)

# In the environment of a script's copies: its place in the run.
SERVER_VARIABLE: Final = "LEASH_SERVER"
RANK_VARIABLE: Final = "LEASH_RANK"
WORKERS_VARIABLE: Final = "LEASH_WORKERS"
PATIENCE_VARIABLE: Final = "LEASH_PATIENCE"
GRACE_VARIABLE: Final = "LEASH_GRACE"
PREEMPT_FILE_VARIABLE: Final = "LEASH_PREEMPT_FILE"
# Where workers look last for the modules of models and data, as PYTHONPATH has it.
SEARCH_VARIABLE: Final = "LEASH_SEARCH"


def module_argv(module: str, *words: str) -> list[str]:
    """The command line of `python -m MODULE WORDS`, which does not search the working directory."""
    return [sys.executable, "-c", _RUN_MODULE, module, *words]


def spawn(
    command: str,
    words: Sequence[str],
    *,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
    variables: Mapping[str, str] = _NO_VARIABLES,
) -> Process:
    """Starts `leash COMMAND WORDS` as a process.

    It gets a session of its own, so that Ctrl-C reaches its parent alone, which ends it in order.
    Its standard input is a pipe that closes with its parent: see `interrupt.end_with_parent`.
    Its environment is that of this process, with `variables` added.
    """
    return subprocess.Popen(
        module_argv("leash.ps.cli", command, *words),
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
        # One computing thread for each process, unless it asks for more: they share the cores.
        env={
            "OMP_NUM_THREADS": "1",
            **_environment(),
            **variables,
            interrupt.FOLLOWS_PARENT: "1",
        },
    )


def _environment() -> dict[str, str]:
    """That of this process, without its key: each process has one of its own, or none."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}


class ScriptProcess(Process):
    """A script of the user's own. A signal reaches all processes that it has started, too."""

    def send_signal(self, number: int) -> None:
        """Sends a signal to the script's process group, unless the script has ended."""
        if self.poll() is None:
            os.killpg(self.pid, number)


def spawn_script(
    words: Sequence[str], output: IO[Any], *, threads: int, variables: Mapping[str, str]
) -> Process:
    """Starts `python WORDS`, which ends with this process.

    Args:
        words: the path of a script, and its arguments.
        output: takes what it prints.
        threads: for computing, unless the environment says how many.
        variables: to add to the environment.
    """
    return ScriptProcess(
        [sys.executable, "-c", _RUN_SCRIPT, str(os.getpid()), *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Without a terminal Python would hold back what the script prints.
        env={
            "OMP_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1",
            **_environment(),
            **variables,
        },
    )


def spawn_module(module: str, inherited_fd: int, *words: str, gives_way: bool = False) -> Process:
    """Starts `python -m MODULE FD WORDS`; it inherits FD and sees our end by its end.

    Args:
        module: its name.
        inherited_fd: that descriptor.
        words: what else it is to know.
        gives_way: it takes only what others leave of the processors, and so has a session of its
            own; otherwise it shares them with this process.
    """
    return subprocess.Popen(
        module_argv(module, str(inherited_fd), *words),
        stdin=subprocess.DEVNULL,
        pass_fds=[inherited_fd],
        **({"start_new_session": True} if gives_way else _SAME_SESSION),
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def say_line(text: str) -> None:
    """Prints a line, if that can be: standard output may be a file on a disk that is full.

    The end of the line is part of what is written, so that no other thread's line comes between.
    """
    try:
        print(f"{text}\n", end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        # What could not be written would be written again with the next line, and at the end of the
        # process, which would fail then.
        unbuffered = io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
        sys.stdout = io.TextIOWrapper(unbuffered, write_through=True)


def lasting_address(ports: int) -> str:
    """Chooses where a server of this machine listens that may be started again there.

    Args:
        ports: how many it takes, one after another.
    """
    host = FREE_PORT.removeprefix("tcp://").rpartition(":")[0]
    chance = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = chance.randrange(LASTING_PORTS.start, LASTING_PORTS.stop - ports)
        if are_free(host, port, ports):
            return f"tcp://{host}:{port}"
    return FREE_PORT


def are_free(host: str, port: int, ports: int) -> bool:
    """Whether nobody listens at any of so many ports of this machine, from this one on."""
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with ExitStack() as stack, suppress(OSError):
        for each in range(port, port + ports):
            stack.enter_context(socket.create_server((host.strip("[]"), each), family=family))
        return True
    return False


def keep_memory(say: Callable[[str], None]) -> None:
    """Makes malloc keep the memory that this process frees; warns if malloc refuses."""
    if not keep_freed_memory():
        say("this host's malloc keeps no freed memory for us: large messages take longer")


class ReadyPipe:
    """Brings the address of a server that is being started, once it listens.

    ::

        with ReadyPipe() as ready:
            server = spawn("server", [*words, *ready.words], pass_fds=ready.fds)
        address = ready.await_address()
    """

    def __enter__(self) -> "ReadyPipe":
        self._reader, self._writer = os.pipe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        os.close(self._writer)  # the server has it now, so the pipe ends when the server does
        if kind is not None:
            os.close(self._reader)

    @property
    def words(self) -> list[str]:
        """The words to add to the server's command line."""
        return [f"--ready-fd={self._writer}"]

    @property
    def fds(self) -> tuple[int, ...]:
        """The file descriptors that the server has to inherit."""
        return (self._writer,)

    def await_address(self) -> str:
        """Waits for the address; "" if the server ended before it listened. Call it once."""
        with os.fdopen(self._reader) as ready:
            return ready.read()


class ServerProcess:
    """A `leash server` on this machine, whose output goes to a log file."""

    def __init__(self, words: Sequence[str], log: Path, *, again: bool = False) -> None:
        """Starts it. REQUIRES: signals are `held` until the caller keeps this object.

        Args:
            words: its options.
            log: where its output goes.
            again: the log goes on with that of the server before it.
        """
        self._log: Final = log
        with ReadyPipe() as ready, log.open("ab" if again else "wb") as output:
            self.process: Final = spawn(
                "server", [*words, *ready.words],
                stdout=output, stderr=subprocess.STDOUT, pass_fds=ready.fds,
            )  # fmt: skip
        self._ready: Final = ready

    def await_address(self) -> str:
        """Waits until it listens; returns where.

        Raises:
            UsageError, LeashError: it has ended instead; the text is its own last line.
        """
        if address := self._ready.await_address():
            return address
        failure = failure_of("server", self.process.wait(), self._log, has_begun=False)
        raise error_of([failure], self._log.parent)


class Stoppable(Protocol):
    """What `stop_all` needs of a process: a part of `subprocess.Popen`."""

    stdin: IO[bytes] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


def stop_all(processes: Sequence[Stoppable], grace_s: float) -> None:
    """Sends SIGTERM to all at once, and SIGKILL to those still there after `grace_s` seconds."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in running:
        process.kill()  # has no effect on a process that has ended
    for process in running:
        process.wait()
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()


def last_words(log: str) -> str:
    """The line of a log that says why its process ended, less the `leash COMMAND: ` before it."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if not lines:
        return "ended without a word"
    if "the evaluator ended with status" in lines[-1]:
        # The evaluator writes to its server's log, and has said more than the server.
        lines = [line for line in lines if line.startswith("leash evaluate: ")] or lines
    return re.sub(r"^leash [\w ]+: ", "", lines[-1])


@dataclass(frozen=True, slots=True)
class Failure:
    """A process that ended as it should not."""

    who: str  # "server", or "worker 2"
    words: str  # its last line, without the command's name; empty if it wrote none
    status: int  # 2: a wrong argument


def failure_of(who: str, status: int, log: Path, *, has_begun: bool) -> Failure:
    """Makes the error for a process that has ended.

    Args:
        status: its exit status, which is not 0.
        log: what it has printed.
        has_begun: whether its run had begun, which the text says of a process that was killed.
    """
    if from_outside(status):
        return Failure(who, "killed" if has_begun else "killed before the run began", 1)
    return Failure(who, last_words(log.read_text(errors="replace")), status)


def error_of(failures: Sequence[Failure], logs: Path) -> LeashError:
    """Makes one error for all of them; those that failed alike, but for numbers, share a line."""
    if wrong := [failure.words for failure in failures if failure.status == 2]:
        return UsageError("; ".join(dict.fromkeys(wrong)))
    alike: dict[str, list[Failure]] = {}
    for failure in failures:
        alike.setdefault(re.sub(r"\d+", "#", failure.words), []).append(failure)
    lines = (_line_of(group) for group in alike.values())
    return LeashError(f"{'; '.join(lines)} (see {logs})")


def _line_of(alike: Sequence[Failure]) -> str:
    first, *others = alike
    same = [failure.who for failure in others if failure.words == first.words]
    like = [failure.who for failure in others if failure.words != first.words]
    line = f"{', '.join([first.who, *same])}: {first.words}"
    return f"{line}; likewise {', '.join(like)}" if like else line


def from_outside(status: int) -> bool:
    """Whether a signal from outside ended the process: Leash ends none in this way by itself."""
    return status < 0 or status in ASKED_TO_END
