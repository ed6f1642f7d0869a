"""The observer that a server starts beside itself."""

import importlib.util
from pathlib import Path
from typing import Final

from leash.ps.options.base import common_options, to_argv
from leash.ps.options.commands import (
    EvaluateOptions,
    ServerOptions,
)
from leash.ps.processes import Process, spawn, stop_all

EVALUATOR_GRACE_S: Final = 1.0


class EvaluatorProcess:
    """The observer that measures test accuracy beside a server: `leash evaluate`."""

    def __init__(self, options: EvaluateOptions) -> None:
        self._options: Final = options
        self._process: Process | None = None

    @classmethod
    def for_task(cls, options: ServerOptions, run_dir: Path) -> "EvaluatorProcess | None":
        """The evaluator of a server that knows its task and has PyTorch; otherwise None."""
        if options.model is None and options.dataset is None:
            return None
        if importlib.util.find_spec("torch") is None:
            return None
        return cls(
            common_options(
                options, EvaluateOptions, run_dir=str(run_dir), ps_ip=None, ps_port=None, threads=1
            )
        )

    def start(self, address: str) -> None:
        options = common_options(self._options, EvaluateOptions, server=address)
        self._process = spawn("evaluate", to_argv(options))

    def failure(self) -> int | None:
        """Its exit status, if it has ended with one that is not 0."""
        status = self._process.poll() if self._process else None
        return abs(status) if status else None

    def stop(self) -> None:
        if self._process:
            stop_all([self._process], EVALUATOR_GRACE_S)
