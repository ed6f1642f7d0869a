"""TensorBoard's files, in the run directory's folder `tensorboard`. They need no PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from leash.ps.trackers.curves import Point

BOARD_FOLDER: Final = "tensorboard"


class TensorboardFiles:
    """Writes a file of scalars. Implements leash.ps.trackers.feed.Tracker."""

    def __init__(self, folder: Path) -> None:
        """Opens another file beside those of before. Raises OSError, ImportError.

        Args:
            folder: the run's.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event: Final[Any] = Event
        self._summary: Final[Any] = Summary
        self._writer: Final[Any] = EventFileWriter(str(folder / BOARD_FOLDER))

    def write(self, points: Sequence[Point]) -> None:
        """Adds these points to their curves. Raises OSError."""
        for point in points:
            scalar = self._summary.Value(tag=point.tag, simple_value=point.value)
            self._writer.add_event(self._event(
                wall_time=point.wall_s, step=point.step, summary=self._summary(value=[scalar])
            ))  # fmt: skip
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left. Raises OSError."""
        self._writer.close()
