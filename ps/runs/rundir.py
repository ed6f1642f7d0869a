"""The run directory: what a run leaves behind.

::

    runs/NAME/
      config.yaml    every setting, enough to run it again: leash launch --config config.yaml
      events.jsonl   one event a line; see leash.ps.runs.events
      summary.json   what it came to
      checkpoints/   final.safetensors, and epoch-N.safetensors where asked for
      tensorboard/   written by the evaluator
      report.html    by `leash report`: the run in pictures and words
      report/        its pictures, as PNG files
      logs/          what the processes of `leash launch` printed
"""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any, Final

import yaml

from leash.ps.errors import UsageError

RUNS: Final = "runs"


class RunDir:
    """Paths of one run directory, and how its files are written."""

    def __init__(self, path: Path) -> None:
        """Makes the folder. Raises UsageError if it can't be made, or holds a run already."""
        self.path: Final = path
        if (path / "summary.json").exists():
            raise UsageError(f"--run-dir {path}: a run has left its summary there; take another")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--run-dir {path}: cannot make this folder: {error}") from error

    @classmethod
    def at(cls, path: str | None, name: str) -> "RunDir":
        """The given folder, or a new one below runs/ with date, time and `name` as its name."""
        if path is not None:
            return cls(Path(path))
        stem = time.strftime("%Y%m%d-%H%M%S-") + name
        taken = (Path(RUNS, stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))
        return cls(next(p for p in taken if not p.exists()))

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / f"{name}.safetensors"

    def write_config(self, options: Any) -> None:
        """All settings of a command, defaults included; but not this folder, which is taken.

        What a run left that was killed is replaced.
        """
        settings = dataclasses.asdict(options)
        del settings["run_dir"]
        write_atomically(self.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.summary, json.dumps(summary, indent=1, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """The file is the old one or the new one, whole, whenever somebody looks."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
