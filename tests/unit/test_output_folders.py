"""Whatever a command writes at its end, it looks at the beginning whether it can write there."""

from collections.abc import Callable
from pathlib import Path

import pytest

from leash.bench import command as bench
from leash.bench.options import BenchOptions
from leash.ps.errors import UsageError
from leash.ps.experiments import command as experiment
from leash.ps.experiments.options import ExperimentOptions
from leash.ps.launch import command as launch
from leash.ps.options.commands import EvaluateOptions
from leash.ps.options.em import EmOptions
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.server import loop
from leash.ps.simulate import command as simulate
from leash.ps.simulate.options import SimulateOptions
from leash.worker.em import command as em
from leash.worker.train import command as worker
from leash.worker.train import evaluator

SEALED = "/proc/self"  # it is there, and nobody may write into it, whoever he is
COMMANDS: dict[str, Callable[[], int]] = {
    "launch --run-dir": lambda: launch.run(LaunchOptions(dataset="digits", run_dir=SEALED)),
    "server --run-dir": lambda: loop.serve(ServerOptions(run_dir=SEALED)),
    "worker --save-path": lambda: worker.run(WorkerOptions(save_path=SEALED)),
    "evaluate --run-dir": lambda: evaluator.run(EvaluateOptions(run_dir=SEALED)),
    "em --run-dir": lambda: em._run_dir(EmOptions(run_dir=SEALED)).path and 0,
    "simulate --plot": lambda: simulate.run(SimulateOptions(plot=f"{SEALED}/x.svg")),
    "experiment --out": lambda: experiment.run(ExperimentOptions(name="demo", out=SEALED)),
    "bench --json": lambda: bench.run(BenchOptions(benchmark="kernels", json=f"{SEALED}/x.json")),
    "bench --picture": lambda: bench.run(BenchOptions(picture=SEALED)),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_nobody_may_write_to_is_refused_before_anything_is_done(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    option = command.split()[1]
    with pytest.raises(UsageError, match=rf"^{option} {SEALED}: cannot write there: .*; take anot"):
        COMMANDS[command]()
    assert list(tmp_path.iterdir()) == []
