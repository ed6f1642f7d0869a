"""Processes that Leash starts: spawned, never forked, and never left behind."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from ps import interrupt
from ps._core import keep_freed_memory
from ps.config import EvaluateConfig, ServerConfig
from ps.settings import common_settings, to_argv

Process = subprocess.Popen[bytes]

EVALUATOR_GRACE_S: Final = 1.0


def spawn(
    command: str,
    config: Any,
    *,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Starts `leash COMMAND` with these settings as a process.

    It gets a session of its own, so that Ctrl-C reaches its parent alone, which ends it in order.
    Its standard input is a pipe that closes with its parent: see `interrupt.end_with_parent`.
    """
    argv = [sys.executable, "-m", "ps.cli", command, *to_argv(config)]
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=True,
        # One computing thread a process unless it says otherwise: N processes share the cores.
        env={"OMP_NUM_THREADS": "1", **os.environ, interrupt.FOLLOWS_PARENT: "1"},
    )


def spawn_module(module: str, inherited_fd: int) -> Process:
    """Starts `python -m MODULE FD` with one more open file, by whose end it sees that of ours.

    Like all processes of Leash it gets a session of its own.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, str(inherited_fd)],
        stdin=subprocess.DEVNULL,
        pass_fds=[inherited_fd],
        start_new_session=True,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )


def keep_memory(say: Callable[[str], None]) -> None:
    """Has this process keep the memory that it frees; says so if malloc refuses."""
    if not keep_freed_memory():
        say("this host's malloc keeps no freed memory for us: large messages take longer")


def stop_all(processes: Sequence[Process], grace_s: float) -> None:
    """SIGTERM to all at once, SIGKILL to whoever is still there after `grace_s` seconds."""
    running = [p for p in processes if p.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in running:
        process.kill()  # nothing to a process that has ended
        process.wait()
    for process in processes:
        if process.stdin is not None:
            process.stdin.close()


class EvaluatorProcess:
    """The observer that measures test accuracy beside a server: `leash evaluate`."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._config: Final = config
        self._process: Process | None = None

    @classmethod
    def for_task(cls, config: ServerConfig, run_dir: Path) -> "EvaluatorProcess | None":
        """The evaluator of a server that knows its task and has PyTorch; otherwise None."""
        if config.model is None and config.dataset is None:
            return None
        if importlib.util.find_spec("torch") is None:
            return None
        return cls(
            common_settings(
                config, EvaluateConfig, run_dir=str(run_dir), ps_ip=None, ps_port=None, threads=1
            )
        )

    def start(self, address: str) -> None:
        settings = common_settings(self._config, EvaluateConfig, server=address)
        self._process = spawn("evaluate", settings)

    def failure(self) -> int | None:
        """Its exit status, if it has ended with one that is not 0."""
        status = self._process.poll() if self._process else None
        return abs(status) if status else None

    def stop(self) -> None:
        if self._process:
            stop_all([self._process], EVALUATOR_GRACE_S)
