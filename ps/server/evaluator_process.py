"""The observer that a server starts beside itself."""

import importlib.util
from pathlib import Path
from typing import Final

from leash.ps.options.base import common_settings, to_argv
from leash.ps.options.commands import (
    EvaluateConfig,
    ServerConfig,
)
from leash.ps.processes import Process, spawn, stop_all

EVALUATOR_GRACE_S: Final = 1.0


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
        self._process = spawn("evaluate", to_argv(settings))

    def failure(self) -> int | None:
        """Its exit status, if it has ended with one that is not 0."""
        status = self._process.poll() if self._process else None
        return abs(status) if status else None

    def stop(self) -> None:
        if self._process:
            stop_all([self._process], EVALUATOR_GRACE_S)
