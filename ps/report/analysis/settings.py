"""Finds the settings of a run that matter, and those in which runs differ."""

from collections.abc import Sequence
from typing import Any, Final

from leash.ps.report.analysis.run import Run
from leash.ps.words import setting

# Settings of where a run lies and how it is watched; runs that differ in them alone are the same.
BOOKKEEPING: Final = (
    "run_dir", "report", "resume", "checkpoint_every", "step_events", "data_dir", "download",
    "bind", "ps_ip", "ps_port", "keys", "insecure", "ready_fd", "test_batch_size",
    "loader_workers",
)  # fmt: skip
NOT_SET: Final = "–"


def effective(run: Run) -> dict[str, Any]:
    """The settings of a run; where the server has chosen one, the one that it chose."""
    chosen: dict[str, Any] = {
        name: run.summary[name]
        for name in ("model", "dataset", "workers", "seed")
        if name in run.summary
    }
    chosen["policy"] = run.policy
    if run.bound is not None and run.policy != "bsp":
        chosen["bound"] = run.bound
    return {k: v for k, v in {**run.options, **chosen}.items() if k not in BOOKKEEPING}


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings in which runs differ: setting ▸ its value in each run."""
    of_runs = [effective(run) for run in runs]
    names = dict.fromkeys(name for of_run in of_runs for name in of_run)
    table = {
        name: [setting(of_run[name]) if name in of_run else NOT_SET for of_run in of_runs]
        for name in names
    }
    return {name: values for name, values in table.items() if len(set(values)) > 1}


FIRST: Final = (
    "policy", "bound", "max_staleness", "workers", "model", "dataset", "epochs", "batch_size",
    "lr", "momentum", "seed",
)  # fmt: skip


def mattering_settings(run: Run, defaults: dict[str, Any]) -> dict[str, str]:
    """The settings worth showing of a run: the usual ones, then those that differ from defaults."""
    settings = effective(run)
    changed = [name for name in settings if settings[name] != defaults.get(name)]
    names = dict.fromkeys([*(name for name in FIRST if name in settings), *changed])
    return {name: setting(settings[name]) for name in names if settings[name] is not None}
