"""Hands checkpoints out to those who ask for one: `leash save`, and `PSOptimizer.save`.

::

    save 17 ▸ saved 17: not yet     the next checkpoint is for whoever has asked by then
    save 17 ▸ saved 17: 98,304 bytes
    read 17 from 0 ▸ piece          at most PIECE_NBYTES of them
    read 17 from 65,536 ▸ piece

A file stays open, so that whoever reads it gets one whole checkpoint, also while later ones take
its place. Where the disk is full, it is a file in memory.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from leash.ps.errors import HeaderError, LeashError, NotReadyError, TooManyError
from leash.ps.runs.disk import OpenFile
from leash.ps.wire.messages import PIECE_NBYTES

MOST: Final = 8  # checkpoints that are handed out at the same time
IDLE_S: Final = 60.0  # one that nobody has read from for so long is let go


@dataclass(slots=True)
class _Save:
    """One that somebody has asked for."""

    asked_s: float  # when its last message came
    is_at_work: bool = False  # a checkpoint is being written for it
    file: OpenFile | None = None  # once there is one
    is_read: bool = False  # whether somebody has read it to its end
    failure: LeashError | None = None  # why there is none


class Saves:
    """Knows who has asked for a checkpoint, and which file each of them gets."""

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        is_possible: bool = True,
    ) -> None:
        """Begins with nobody.

        Args:
            now: seconds on a clock that never goes back.
            is_possible: whether this server writes checkpoints at all.
        """
        self._now: Final = now
        self._is_possible: Final = is_possible
        self._saves: Final[dict[int, _Save]] = {}
        self._fetched = 0

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for a checkpoint that nobody writes yet."""
        return any(self._waits(save) and not save.is_at_work for save in self._saves.values())

    @property
    def times_fetched(self) -> int:
        """How often somebody has read a checkpoint to its end."""
        return self._fetched

    def take_up(self) -> list[int]:
        """Takes those who wait now: a checkpoint is begun for them, and then `serve` or `fail`."""
        numbers = [n for n, save in self._saves.items() if self._waits(save)]
        for number in numbers:
            self._saves[number].is_at_work = True
        return numbers

    def put_back(self, numbers: Collection[int]) -> None:
        """Has these wait for another checkpoint."""
        for number in numbers:
            if number in self._saves:
                self._saves[number].is_at_work = False

    def ask(self, number: int, *, has_values: bool) -> int | None:
        """Notes that somebody asks for a checkpoint, or asks again whether it is there.

        Args:
            number: drawn at random by whoever asks.
            has_values: whether the model has its first values.

        Returns:
            The size of the file; None if it is not there yet.

        Raises:
            HeaderError: this server writes none.
            NotReadyError: there is nothing to write yet, or it could not be written.
            TooManyError: too many ask at the same time.
        """
        if not self._is_possible:
            raise HeaderError("save: this server has no run directory, and writes no checkpoints")
        if not has_values:
            raise NotReadyError("save: the model has no values yet; ask again once training began")
        self._forget_the_idle()
        save = self._saves.get(number)
        if save is None:
            if not self._makes_room():
                raise TooManyError(f"save: expected at most {MOST} at the same time")
            save = self._saves[number] = _Save(self._now())
        save.asked_s = self._now()
        if save.failure is not None:
            del self._saves[number]
            raise NotReadyError(f"save: {save.failure}")
        return None if save.file is None else save.file.nbytes

    def read(self, number: int, offset: int) -> bytes:
        """Reads a piece of a file, which is empty only at its end.

        Raises:
            HeaderError: there is no such file, or it is not so long.
        """
        save = self._saves.get(number)
        if save is None or save.file is None:
            raise HeaderError(f"read.number: no checkpoint {number} is here: ask for one first")
        if offset > save.file.nbytes:
            raise HeaderError(f"read.offset: expected at most {save.file.nbytes}, got {offset}")
        save.asked_s = self._now()
        is_end = offset + PIECE_NBYTES >= save.file.nbytes
        self._fetched += is_end and not save.is_read
        save.is_read |= is_end
        return save.file.read(offset, PIECE_NBYTES)

    def serve(self, numbers: Collection[int], reopen: Callable[[], OpenFile]) -> None:
        """Gives a file to these, each opened anew."""
        for number in numbers:
            save = self._saves.get(number)
            if save is not None and self._waits(save):
                save.file = reopen()

    def fail(self, numbers: Collection[int], failure: LeashError) -> None:
        """Lets these know why there is no file."""
        for number in numbers:
            save = self._saves.get(number)
            if save is not None and save.file is None:
                save.failure = failure

    def close(self) -> None:
        """Lets all files go."""
        for number in list(self._saves):
            self._forget(number)

    @staticmethod
    def _waits(save: _Save) -> bool:
        return save.file is None and save.failure is None

    def _forget_the_idle(self) -> None:
        for number in [n for n, s in self._saves.items() if self._now() - s.asked_s > IDLE_S]:
            self._forget(number)

    def _makes_room(self) -> bool:
        """Whether there is room for one more, for which one that was read to its end may go.

        Until then it stays, since its last piece may be asked for again.
        """
        read = [number for number, save in self._saves.items() if save.is_read]
        if len(self._saves) >= MOST and read:
            self._forget(read[0])
        return len(self._saves) < MOST

    def _forget(self, number: int) -> None:
        save = self._saves.pop(number)
        if save.file is not None:
            save.file.close()
