"""Reads an experiment from its YAML file, and makes the runs of it.

::

    about: what it shows, in a sentence
    target_accuracy: 0.975          # for "time to 97.5 %"; may be left out
    base: {dataset: mnist, workers: 10, slow: [0.2, 0.4], ...}   # settings of every run
    runs:                           # name ▸ settings of its own
      bsp: {policy: bsp}            # the first is what others are compared with
      ssp 3: {policy: ssp, bound: 3}
    seeds: [1, 2, 3]                # every run with each of them; may be left out
    published: {bsp, logged: 401}   # seconds to the target that others have published

A name such as "transient: bsp" puts a run into a part of the table; the first run of each part is
what the others of that part are compared with. A setting is an option of `leash launch` with its
dashes as underscores, as in a run's config.yaml. A list stands for its items with commas between.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml

from leash.ps.errors import UsageError
from leash.ps.experiments.options import ExperimentOptions
from leash.ps.options.base import flag
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.optimizer import with_rates
from leash.ps.options.parser import settings_from_yaml

FOLDER: Final = Path(__file__).parent
KEYS: Final = ("about", "target_accuracy", "base", "runs", "seeds", "published")


@dataclass(frozen=True)
class PlannedRun:
    """One run of an experiment."""

    name: str  # "PART: row", or a row alone; the same for every seed
    folder: str  # its run directory's name
    options: LaunchOptions


@dataclass(frozen=True)
class Experiment:
    """An experiment, and the runs that it consists of."""

    name: str
    about: str
    target_accuracy: float | None  # 0 to 1
    runs: tuple[PlannedRun, ...]
    published: Mapping[str, float]  # who ▸ seconds to the target


def names() -> dict[str, str]:
    """The experiments that come with Leash: name ▸ what it shows."""
    return {
        path.stem: str(yaml.safe_load(path.read_text("utf-8"))["about"]).strip()
        for path in sorted(FOLDER.glob("*.yaml"))
    }


def load(options: ExperimentOptions) -> Experiment:
    """Reads the experiment that these options name.

    Raises:
        UsageError: there is no such experiment, or its file is wrong.
    """
    assert options.name is not None
    path = _find(options.name)
    try:
        found = settings_from_yaml(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: not a file of an experiment: {error}") from error
    _check(path, found)
    runs = tuple(_runs(path, found, options))
    if options.only is not None:
        words = [word for word in map(str.strip, options.only.split(",")) if word]
        runs = tuple(run for run in runs if any(word in run.name for word in words))
    if not runs:
        raise UsageError(f"{path}: no run is left; its runs are {', '.join(found['runs'])}")
    about, target = str(found.get("about", "")).strip(), found.get("target_accuracy")
    return Experiment(path.stem, about, target, runs, found.get("published") or {})


def _find(name: str) -> Path:
    if (FOLDER / f"{name}.yaml").exists():
        return FOLDER / f"{name}.yaml"
    if not Path(name).is_file():
        known = ", ".join(names())
        raise UsageError(f"experiment {name}: neither one of {known}, nor a file")
    return Path(name)


def _check(path: Path, found: Any) -> None:
    if not isinstance(found, dict) or not isinstance(found.get("runs"), dict) or not found["runs"]:
        raise UsageError(f"{path}: expected a map with runs: in it, each a name and its settings")
    if unknown := set(found) - set(KEYS):
        raise UsageError(f"{path}: unknown {', '.join(sorted(unknown))}; expected "
                         f"{', '.join(KEYS)}")  # fmt: skip
    _check_parts(path, found)
    target = found.get("target_accuracy")
    if target is not None and not (isinstance(target, float) and 0 < target < 1):
        raise UsageError(f"{path}: target_accuracy {target}: give a number such as 0.975")


def _check_parts(path: Path, found: dict[str, Any]) -> None:
    runs = {f"run {name}": own for name, own in found["runs"].items()}
    for what, value in {
        **{name: found.get(name) for name in ("base", "published")},
        **runs,
    }.items():
        if not isinstance(value, dict | None):
            raise UsageError(f"{path}: {what}: expected a map, got {value}")
    if not all(isinstance(name, str) for name in found["runs"]):
        raise UsageError(f"{path}: runs: give names that are text, between quotes if need be")
    if not all(isinstance(s, int | float) for s in (found.get("published") or {}).values()):
        raise UsageError(f"{path}: published: expected seconds for each name")
    seeds = found.get("seeds") or []
    if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UsageError(f"{path}: seeds {seeds}: expected a list of numbers from 0")


def _runs(path: Path, found: dict[str, Any], options: ExperimentOptions) -> Iterator[PlannedRun]:
    seeds = [options.seed] if options.seed is not None else found.get("seeds") or [None]
    changes = {
        name: getattr(options, name)
        for name in ("data_dir", "download", "epochs", "time_scale", "keys")
        if getattr(options, name)
    }
    for name, own in found["runs"].items():
        settings = {**(found.get("base") or {}), **(own or {}), **changes}
        folder = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
        for seed in seeds:
            planned = _launch_config(path, name, settings)
            if seed is not None:
                planned = replace(planned, seed=seed)
            suffix = f"-seed-{seed}" if found.get("seeds") else ""
            yield PlannedRun(name, folder + suffix, planned)


def _launch_config(path: Path, name: str, settings: dict[str, Any]) -> LaunchOptions:
    """Reads the settings of a run as `leash launch` would."""
    from leash.ps import cli

    words = [_word(setting, value) for setting, value in settings.items() if value is not None]
    try:
        _, options = cli.parse(["launch", *words])
        options.check()
    except UsageError as error:
        raise UsageError(f"{path}, run {name}: {error}") from error
    assert isinstance(options, LaunchOptions)
    return with_rates(options)  # as `leash launch` notes them in config.yaml


def _word(setting: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag(setting) if value else "--no-" + setting.replace("_", "-")
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"{flag(setting)}={text}"
