"""What a worker remembers of its run, for a server that was started again and has older values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Chunk
from leash.ps.wire.messages import Offer
from leash.worker.client.memory import Slab


@dataclass(frozen=True, slots=True)
class Answered:
    """The newest parameters that a worker was answered with.

    Attributes:
        values: a slab of them. Unchanged by others as long as they may be offered.
        newest: of each chunk its version, and the step whose answer it was; 0 for a pull.
        generation: of the server that gave them.
    """

    values: Slab
    newest: Sequence[tuple[int, int]]
    generation: int

    def offers(self, chunks: Sequence[Chunk], worker: int, incarnation: int) -> list[bytes]:
        """Writes the headers that offer them, one for each chunk.

        Args:
            chunks: the layout's.
            worker: the rank.
            incarnation: of its process now.
        """
        return [
            encode(Offer(worker, incarnation, c.index, c.dtype, self.generation, version, step))
            for c, (version, step) in zip(chunks, self.newest, strict=True)
        ]


def merged(kept: Slab, answers: Slab, chunks: Sequence[Chunk], answered: Sequence[bool]) -> Slab:
    """Copies what a worker has, with those answers to an open step in it that have come.

    Args:
        kept: the parameters with which that step began.
        answers: where its answers are written.
        chunks: the layout's.
        answered: of each chunk, whether its answer has come.
    """
    values = kept.copy()
    for chunk, has_come in zip(chunks, answered, strict=True):
        if has_come:
            values[chunk.start : chunk.stop] = answers[chunk.start : chunk.stop]
    return values


class Counted:
    """Counts the samples of a worker whose steps were answered."""

    def __init__(self) -> None:
        """Begins with none."""
        self.epochs = 0  # how many it has completed of a share of its own
        self.of_epoch = 0  # samples answered since then
        self.of_lease = 0  # samples answered since it got its newest lease
        self.newest_lease = 0  # the number of that; 0: it has none of the server that it is with
        self.holder = 0  # the incarnation that got that lease: numbers begin anew with each

    def step(self, samples: int) -> None:
        """Counts a step that was answered."""
        self.of_epoch += samples
        self.of_lease += samples

    def epoch(self, epochs: int) -> None:
        """Notes that so many epochs are completed."""
        self.epochs, self.of_epoch = epochs, 0

    def lease(self, number: int, holder: int) -> None:
        """Notes that a lease has come to this incarnation.

        Args:
            number: of the lease; 0: all that it had are others' now.
            holder: the incarnation.
        """
        self.of_lease, self.newest_lease, self.holder = 0, number, holder


class Remembered:
    """Keeps what a worker tells a server that was started again: its newest answers, and counts.

    Attributes:
        answered: what it offers; None until that is noted, and once a server has given newer
            values.
        lost: how many steps had no answer, and are not pushed again.
        step: the one that it pushes next if all go on in lockstep; 0 for none.
        begun: whether it has begun to push that.
        counted: the samples whose steps were answered.
    """

    def __init__(self) -> None:
        """Has nothing to offer yet."""
        self.answered: Answered | None = None
        self.lost: int = 0
        self.step: int = 0
        self.begun: bool = False
        self.counted: Final = Counted()
        self._kept: Callable[[], Slab] | None = None
        self._generation = 0  # of the server that gave what this process has

    def keep(self, kept: Callable[[], Slab]) -> None:
        """Notes who keeps what this worker was answered with.

        Args:
            kept: gives a slab of that, the answers to the open step left out.
        """
        self._kept = kept

    @property
    def is_kept(self) -> bool:
        """Whether anybody keeps what this worker was answered with, so that it can be offered."""
        return self._kept is not None

    @property
    def values(self) -> Slab | None:
        """A slab of what it offers; None if it has nothing to offer."""
        return None if self.answered is None else self.answered.values

    def note(self, answered: Callable[[Slab], tuple[Slab, Sequence[tuple[int, int]]]]) -> None:
        """Notes what to offer, unless that is noted already, or nobody keeps it.

        Args:
            answered: gives it with the newest answers, as `Exchange.answered` does.
        """
        if self._kept is not None and self.answered is None:
            self.answered = Answered(*answered(self._kept()), self._generation)

    def has_now(self, generation: int) -> None:
        """Notes that this process has what a server has.

        Args:
            generation: of that server.
        """
        self._generation, self.answered = generation, None
        self.has_told()
        self.counted.lease(0, 0)

    def has_told(self) -> None:
        """Notes that a server has counted which steps this worker has lost."""
        self.lost, self.step, self.begun = 0, 0, False

    def forget(self) -> None:
        """Lets go of the values, and of whoever keeps them."""
        self._kept = self.answered = None
