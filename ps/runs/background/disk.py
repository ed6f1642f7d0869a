"""The files of this host, of which none keeps the caller's thread waiting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from leash.ps.runs.background.in_time import (
    FileInTime,
    ForcedFileInTime,
    opened_in_time,
    remove_in_time,
)
from leash.ps.runs.background.writing import BackgroundWriting, Writer
from leash.ps.runs.checkpoint_file import Plan
from leash.ps.runs.disk import (
    THIS_HOST,
    EndedWriting,
    ForcedFile,
    GrowingFile,
    ThisHost,
    Writing,
)


class BackgroundDisk(ThisHost):
    """The files of this host, with checkpoints written beside the caller's thread."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._writers: Final[list[Writer]] = []
        self._free: Final[dict[bool, Writer]] = {}  # by whether it is a process
        self._count = 0

    def begin(self, paths: Sequence[Path], plan: Plan, *, is_urgent: bool = True) -> Writing:
        content = plan.as_json().encode()
        return self._begin("begin", paths, content, is_process=not is_urgent)

    def begin_text(self, path: Path, content: bytes) -> Writing:
        return self._begin("text", [path], content, is_process=False)

    def create(self, path: Path) -> GrowingFile:
        return FileInTime(opened_in_time(lambda: THIS_HOST.create(path)))

    def append(self, path: Path) -> ForcedFile:
        return ForcedFileInTime(opened_in_time(lambda: THIS_HOST.append(path)))

    def remove(self, path: Path) -> None:
        remove_in_time(path)

    @property
    def descriptors(self) -> list[int]:
        return [writer.end.fileno() for writer in self._writers if not writer.is_gone]

    def attend(self) -> None:
        for writer in self._writers:
            writer.attend()

    def close(self) -> None:
        """Ends the writers."""
        for writer in self._writers:
            writer.close()

    def _begin(
        self, what: str, paths: Sequence[Path], content: bytes, *, is_process: bool
    ) -> Writing:  # fmt: skip
        self._count += 1
        try:
            writer = self._writer(is_process=is_process)
            writer.writing = BackgroundWriting(writer, self._count, what, paths, content)
        except OSError as error:  # too many processes, or files
            return EndedWriting(error)
        return writer.writing

    def _writer(self, *, is_process: bool) -> Writer:
        """One that has nothing to do."""
        known = self._free.get(is_process)
        is_free = known is not None and (known.writing is None or known.writing.is_over)
        if known is None or known.is_gone or not is_free:
            known = self._free[is_process] = Writer(is_process=is_process)
            self._writers.append(known)
        return known
