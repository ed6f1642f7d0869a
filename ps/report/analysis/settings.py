"""Finds the settings of a run that matter, and those in which runs differ."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

from leash.ps.options.launch import OF_THE_OWN_LOOP
from leash.ps.options.page import PageGroup
from leash.ps.options.server import RunGroup
from leash.ps.report.analysis.run import Run
from leash.ps.words import setting

# Settings of where a run lies and how it is watched; runs that differ in them alone are the same.
BOOKKEEPING: Final = {
    *(field.name for group in (PageGroup, RunGroup) for field in dataclasses.fields(group)),
    "report", "state_fd", "data_dir", "download", "bind", "ps_ip", "ps_port", "address", "port",
    "python", "sync", "keys", "insecure", "ready_fd", "this_rank", "test_batch_size",
    "loader_workers",
} - {"timeout_s"}  # fmt: skip
NOT_SET: Final = "–"


def effective(run: Run) -> dict[str, Any]:
    """The settings of a run; where the server has chosen one, the one that it chose.

    Those that a script of the user's own decides itself are left out: config.yaml has the defaults
    of them, which the script knows nothing of.
    """
    chosen: dict[str, Any] = {
        name: run.summary[name]
        for name in ("model", "dataset", "workers", "seed")
        if name in run.summary
    }
    chosen["policy"] = run.policy
    if run.bound is not None and run.policy != "bsp":
        chosen["bound"] = run.bound
    others = BOOKKEEPING | OF_THE_OWN_LOOP if run.options.get("script") else BOOKKEEPING
    return {k: v for k, v in {**run.options, **chosen}.items() if k not in others}


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
