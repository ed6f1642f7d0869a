"""Starts the observer that measures test accuracy beside a server."""

import importlib.util
from pathlib import Path
from typing import Final

from leash.ps.options.base import common_options, to_argv
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.server import ServerOptions
from leash.ps.processes import Process, spawn, stop_all

EVALUATOR_GRACE_S: Final = 1.0


def has_evaluator(options: ServerOptions) -> bool:
    """Whether a server starts an evaluator: if it knows its task and has PyTorch."""
    knows_task = options.model is not None or options.dataset is not None
    return knows_task and importlib.util.find_spec("torch") is not None


class EvaluatorProcess:
    """A process of `leash evaluate`, which measures test accuracy beside a server."""

    def __init__(self, options: EvaluateOptions) -> None:
        self._options: Final = options
        self._process: Process | None = None

    @classmethod
    def for_task(cls, options: ServerOptions, run_dir: Path) -> "EvaluatorProcess | None":
        """Makes the evaluator of a server that is to have one; otherwise None."""
        if not has_evaluator(options):
            return None
        return cls(
            common_options(
                options, EvaluateOptions, run_dir=str(run_dir), ps_ip=None, ps_port=None, threads=1
            )
        )

    def start(self, address: str) -> None:
        """Starts the process, for the server at this address."""
        options = common_options(self._options, EvaluateOptions, server=address)
        self._process = spawn("evaluate", to_argv(options))

    def failure(self) -> int | None:
        """Its exit status, if it has ended with one that is not 0."""
        status = self._process.poll() if self._process else None
        return abs(status) if status else None

    def stop(self) -> None:
        """Ends the process, if it was started."""
        if self._process:
            stop_all([self._process], EVALUATOR_GRACE_S)
