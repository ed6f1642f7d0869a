"""Starts the observer that measures test accuracy beside a server."""

import codecs
import importlib.util
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Final

from leash.ps.options.base import common_options, to_argv
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.server import ServerOptions
from leash.ps.processes import Process, last_words, spawn, stop_all
from leash.ps.wire.keys import key_files

EVALUATOR_GRACE_S: Final = 1.0
PIPE_NBYTES: Final = 4096
WORDS_MAX: Final = 300  # letters; they travel to every worker


def has_evaluator(options: ServerOptions) -> bool:
    """Whether a server starts an evaluator: if it has a task, PyTorch and a key for it."""
    return _may_have_evaluator(options) and not lacks_key(options)


def lacks_key(options: ServerOptions) -> bool:
    """Whether a server starts no evaluator since its folder of keys has no file for one."""
    if options.keys is None or not _may_have_evaluator(options):
        return False
    return not key_files(options.keys, "observer")


def _may_have_evaluator(options: ServerOptions) -> bool:
    knows_task = options.model is not None or options.dataset is not None
    return knows_task and importlib.util.find_spec("torch") is not None


class EvaluatorProcess:
    """A process of `leash evaluate`, which measures test accuracy beside a server."""

    def __init__(self, options: EvaluateOptions) -> None:
        self._options: Final = options
        self._process: Process | None = None
        self._decoder: Final = codecs.getincrementaldecoder("utf-8")("replace")
        self._end_of_stderr = ""  # the newest of what the process has written there

    @classmethod
    def for_task(cls, options: ServerOptions, run_dir: Path) -> "EvaluatorProcess | None":
        """Makes the evaluator of a server that is to have one; otherwise None."""
        if not has_evaluator(options):
            return None
        keys = key_files(options.keys, "observer") if options.keys is not None else []
        return cls(
            common_options(
                options,
                EvaluateOptions,
                run_dir=str(run_dir) if options.log is None else None,  # for TensorBoard's files
                ps_ip=None,
                ps_port=None,
                threads=1,
                key=keys[0] if keys else None,
            )
        )

    @property
    def is_started(self) -> bool:
        """Whether it was."""
        return self._process is not None

    def start(self, address: str) -> None:
        """Starts the process, for the server at this address."""
        options = common_options(self._options, EvaluateOptions, server=address)
        self._process = spawn("evaluate", to_argv(options), stderr=PIPE)
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)

    def failure(self) -> "EvaluatorFailure | None":
        """How it has ended, if its exit status is not 0. Also shows what it has said since."""
        status = self._process.poll() if self._process else None
        self._show_stderr()
        return EvaluatorFailure(status, self._end_of_stderr) if status else None

    def stop(self) -> None:
        """Ends the process, if it was started."""
        if self._process:
            stop_all([self._process], EVALUATOR_GRACE_S)
            self._show_stderr()
            assert self._process.stderr is not None
            self._process.stderr.close()

    def _show_stderr(self) -> None:
        """Hands on what the process has written to its stderr since the last call."""
        if self._process is None:
            return
        assert self._process.stderr is not None
        with suppress(BlockingIOError):
            while written := os.read(self._process.stderr.fileno(), PIPE_NBYTES):
                text = self._decoder.decode(written)
                sys.stderr.write(text)
                self._end_of_stderr = (self._end_of_stderr + text)[-PIPE_NBYTES:]
        sys.stderr.flush()


@dataclass(frozen=True, slots=True)
class EvaluatorFailure:
    """How an evaluator has ended that should not have.

    Attributes:
        returncode: as subprocess tells it: below 0 for a signal.
        written: the end of what it has written to its stderr.
    """

    returncode: int
    written: str

    @property
    def status(self) -> int:
        """The exit status of the run that ends with it."""
        return abs(self.returncode)

    def __str__(self) -> str:
        if self.returncode < 0:
            return f"was killed by {signal.Signals(-self.returncode).name}"
        words = last_words(self.written)
        return f"ended with status {self.returncode}: {words[:WORDS_MAX]}"
