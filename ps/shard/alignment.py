"""Holds a shard at a step: where all of its chunks have applied it, and none the next one.

::

    chunk     0 1 2 3 4                        ▪ the mean of step 7 is applied
    asked     ▪ ▪ ▪ ▫ ▫    for step 7          ▫ it is not
    later     ▪ ▪ ▪ ▪ ▪    held: no message of a worker is taken until the end

Under bsp a worker begins step 8 once it has all answers of step 7. So no chunk can apply step 8
before every chunk, of every shard, has applied step 7; and whoever looks after each message sees
the shard in that state. The chunks differ again only if a worker has gone in the midst of a step:
then the next step of the others is waited for.
"""

from typing import Final

from leash.ps.shard.model import ServedModel


class Alignment:
    """Knows which chunks have not come to the step at which a shard is to be held."""

    def __init__(self) -> None:
        self._step: int | None = None  # the one that was asked for; None: the shard goes its way
        self._behind: Final[list[int]] = []  # chunks that had not come to it when last seen

    def begin(self, model: ServedModel | None, step: int) -> int | None:
        """Asks for this step, or the next one that all chunks have.

        Args:
            model: with the shard's chunks, if there is one.
            step: the least that will do.

        Returns:
            The step at which all chunks are; None if they are not there yet.
        """
        if self._step is None or step > self._step:
            self._step = step
            self._behind[:] = _numbers(model)
        return self._step if self.is_reached(model) else None

    @property
    def is_asked_for(self) -> bool:
        """Whether the shard is to be held at a step."""
        return self._step is not None

    def end(self) -> None:
        """Asks for nothing any more."""
        self._step = None
        self._behind.clear()

    def is_reached(self, model: ServedModel | None) -> bool:
        """Whether all chunks are at the step. Looks at few of them, however many there are."""
        if self._step is None:
            return False
        if model is None or not model.own:
            return True
        shard = model.shard
        while self._behind and shard.minimum(self._behind[-1]) >= self._step:
            self._behind.pop()
        if self._behind:
            return False
        steps = [shard.minimum(chunk) for chunk in _numbers(model)]
        least, most = min(steps), max(steps)
        if least == most == self._step:
            return True
        self._step = most
        self._behind[:] = _numbers(model)
        return least == most


def _numbers(model: ServedModel | None) -> list[int]:
    return [chunk.index for chunk in model.own] if model is not None else []
