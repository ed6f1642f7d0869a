"""The run directory, with all files that a run leaves.

::

    runs/NAME/
      config.yaml    every setting, enough to run it again: leash launch --config config.yaml
      events.jsonl   one event a line; see leash.ps.runs.events. events-1.jsonl is of the first of
                     the run's servers, where the run went on after its end
      journal.jsonl  what the next server has to know; see leash.ps.runs.journal
      summary.json   the results; summary-1.json is what the first of several servers has left
      checkpoints/   latest.safetensors while it goes on, final.safetensors once it has ended, and
                     epoch-N.safetensors where asked for
      tensorboard/   written by the evaluator, or with --log
      metrics.csv, wandb/, wandb-id   with --log; see leash.ps.trackers
      report.html    by `leash report`: the run in pictures and words
      report/        its pictures, as PNG files
      logs/          what the processes of `leash launch` printed
      trainlossMODEL.txt, stalenessMODEL.txt   with --demo-logs; see leash.ps.runs.demo_logs
"""

import dataclasses
import itertools
import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from leash.ps.errors import UsageError
from leash.ps.runs import journal
from leash.ps.runs.disk import THIS_HOST, Disk, Writing
from leash.ps.words import DONE

RUNS: Final = "runs"
# The files and folders that a run leaves, and by which a later one would go.
OF_A_RUN: Final = (
    "config.yaml", "events.jsonl", journal.NAME, "summary.json", "checkpoints", "tensorboard",
    "report.html", "report", "logs", "metrics.csv", "wandb", "wandb-id",
)  # fmt: skip
KEPT: Final = re.compile(r"(events|summary)-\d+\.jsonl?")  # of its earlier servers
MACHINES_FILE: Final = "virtual.yaml"  # the machines of a run in virtual time


def free_folder(name: str, date: Callable[[], time.struct_time] = time.localtime) -> Path:
    """The path of a folder below runs/ that is not there yet, named after date, time and `name`."""
    stem = time.strftime("%Y%m%d-%H%M%S-", date()) + name
    folders = (Path(RUNS, stem if n == 1 else f"{stem}-{n}") for n in range(1, 1000))
    return next(folder for folder in folders if not folder.exists())


class RunDir:
    """The paths of one run directory; writes config.yaml and summary.json."""

    def __init__(
        self, path: Path, disk: Disk = THIS_HOST, *, goes_on: bool = False, fresh: bool = False
    ) -> None:
        """Makes the folder.

        Args:
            path: of the folder.
            disk: where it is, with all files that the run leaves.
            goes_on: a run that was left there, and is not done, may go on.
            fresh: what a run has left there is moved to a folder in it, `before-1`.

        Raises:
            UsageError: that fails, nobody can write there, or the folder holds a run already.
        """
        self.path: Final = path
        self.disk: Final = disk
        self._config: str = ""  # what could not be written yet
        ended = None if fresh else self._ended()
        if ended is not None and not goes_on:
            raise UsageError(f"--run-dir {path}: a run has left its summary there; take another")
        # A server may have been killed between its summary and its last checkpoint.
        if ended == DONE and disk.exists(self.checkpoint("final")):
            raise UsageError(
                f"--run-dir {path}: the run there is done; take another, or begin anew with --fresh"
            )
        disk.require_folder("--run-dir", path)
        if fresh:
            self._move_away()

    @classmethod
    def at(
        cls, path: str | None, name: str, date: Callable[[], time.struct_time] = time.localtime,
        disk: Disk = THIS_HOST, *, goes_on: bool = False, fresh: bool = False,
    ) -> "RunDir":  # fmt: skip
        """Makes the given folder, or a new one below runs/ named after date, time and `name`."""
        if path is not None:
            return cls(Path(path), disk, goes_on=goes_on, fresh=fresh)
        return cls(free_folder(name, date), disk)

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def journal(self) -> Path:
        return self.path / journal.NAME

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def logs(self) -> Path:
        """The folder for the output of processes."""
        return self.path / "logs"

    def checkpoint(self, name: str) -> Path:
        """The path of a checkpoint with this name."""
        return self.path / "checkpoints" / f"{name}.safetensors"

    @property
    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that was written last; None if there is none."""
        return next(iter(self.checkpoints), None)

    @property
    def checkpoints(self) -> list[Path]:
        """All checkpoints, the newest first."""
        files = self.disk.files_in(self.checkpoint("final").parent)
        written = [(path, when) for path, when in files if path.suffix == ".safetensors"]
        last = self.checkpoint("final")  # which may be the same file as that of an epoch
        newest = sorted(written, key=lambda file: (-file[1], file[0] != last))
        return [path for path, _ in newest]

    def keep_earlier(self, generation: int) -> None:
        """Keeps what the newest of a run's earlier servers has left, under other names.

        Args:
            generation: of that server. If there are such names already, a server after it could not
                begin, and what it has left is nothing.
        """
        for path in (self.events, self.summary):
            kept = path.with_stem(f"{path.stem}-{generation}")
            if self.disk.exists(path) and not self.disk.exists(kept):
                self.disk.rename(path, kept)

    def continuing_command(self, command: str) -> str | None:
        """The command line that goes on where this run has ended; None without a checkpoint.

        Args:
            command: of `leash`, which has written config.yaml here.
        """
        checkpoint = self.newest_checkpoint
        if checkpoint is None:
            return None
        config = str(self.config)
        words = ["leash", command, "--config", config, "--resume", str(checkpoint)]
        return shlex.join(words)

    def write_config(self, options: Any) -> None:
        """Writes all options of a command, defaults included, but without this folder's path.

        It replaces the file that a run has left which was killed.

        Raises:
            OSError: it could not be written; `try_config_again` tries it again.
        """
        settings = dataclasses.asdict(options)
        del settings["run_dir"]
        self._config = yaml.safe_dump(settings, sort_keys=False)
        self.try_config_again()

    @property
    def lacks_config(self) -> bool:
        """Whether config.yaml could not be written."""
        return bool(self._config)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    def try_config_again(self) -> None:
        """Writes config.yaml, if that was asked for and could not be done. Raises OSError."""
        if self._config:
            self._write(self.config, self._config)
            self._config = ""

    def begin_summary(self, summary: dict[str, Any]) -> Writing:
        """Begins to write summary.json."""
        text = json.dumps(summary, indent=1, allow_nan=False) + "\n"
        return self.disk.begin_text(self.summary, text.encode())

    def read_summary(self) -> dict[str, Any] | None:
        """What summary.json has of the run; None before it is written."""
        try:
            summary: dict[str, Any] = json.loads(self.summary.read_text())
        except FileNotFoundError:
            return None
        return summary

    def _ended(self) -> str | None:
        """The word with which a run has ended here; None if none has."""
        if not self.disk.exists(self.summary):
            return None
        file = self.disk.open(self.summary)
        try:
            return str(json.loads(file.read(0, file.nbytes)).get("ended", ""))
        except ValueError:  # nobody can say that it was done
            return ""
        finally:
            file.close()

    def _move_away(self) -> None:
        """Moves what a run has left here to a folder of its own, where nothing reads it."""
        left = [path for path in map(self.path.joinpath, OF_A_RUN) if self.disk.exists(path)]
        files = (path for path, _ in self.disk.files_in(self.path))
        left += [path for path in files if KEPT.fullmatch(path.name)]
        if left:
            numbers = itertools.count(1)
            before = next(
                p for n in numbers if not self.disk.exists(p := self.path / f"before-{n}")
            )
            self.disk.make_folder(before)
            for path in left:
                self.disk.rename(path, before / path.name)

    def _write(self, path: Path, text: str) -> None:
        self.disk.replace(path, [text.encode()])


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader always finds a whole one, the old one or the new one."""
    THIS_HOST.replace(path, [text.encode()])
