"""Weights & Biases, by its own library.

Its environment variables count, as ever: WANDB_MODE (``offline`` sends nothing), WANDB_PROJECT,
WANDB_ENTITY, WANDB_NAME, WANDB_RUN_ID, WANDB_API_KEY and the others.
"""

import os
import uuid
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import yaml

from leash.ps.trackers.curves import Point

ID_NAME: Final = "wandb-id"
PROJECT: Final = "leash"


class WandbRun:
    """Logs to one run of W&B, which may go on. Implements leash.ps.trackers.feed.Tracker.

    Attributes:
        place: where people find it: an address, or the folder that ``wandb sync`` sends.
    """

    def __init__(self, folder: Path) -> None:
        """Begins the run, or goes on with it. Raises what the library does.

        Args:
            folder: the run's, where the library has its files too.
        """
        import wandb

        self._run: Final[Any] = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", folder.resolve().name),
            id=os.environ.get("WANDB_RUN_ID") or _id_of(folder),
            dir=str(folder),
            config=_config_of(folder),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._known: Final[set[str]] = set()  # tags whose axis it knows
        is_offline = self._run.offline
        self.place: Final[str] = (
            f"offline: wandb sync {Path(self._run.dir).parent}"
            if is_offline
            else str(self._run.url)
        )

    def write(self, points: Sequence[Point]) -> None:
        """Logs these points. Raises what the library does."""
        for (counts, step), group in groupby(points, lambda point: (point.counts, point.step)):
            row: dict[str, float] = {}
            for point in group:
                if point.tag not in self._known:
                    self._known.add(point.tag)
                    self._run.define_metric(point.tag, step_metric=counts)
                row[point.tag] = point.value
            self._run.log({**row, counts: step})

    def close(self) -> None:
        """Sends what is left, which takes as long as it takes."""
        self._run.finish()


def _id_of(folder: Path) -> str:
    """The number of the run at W&B, which stays the same when the run goes on."""
    path = folder / ID_NAME
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:8] + "\n", "utf-8")
    return path.read_text("utf-8").strip()


def _config_of(folder: Path) -> dict[str, Any]:
    """The settings of the run, as far as they are known."""
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    settings = yaml.safe_load(path.read_text("utf-8"))
    return settings if isinstance(settings, dict) else {}
