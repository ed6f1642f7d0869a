"""Work by leases: ranges of an epoch, handed out by the server as they are needed."""

from collections.abc import Iterator
from typing import Final

from leash.ps.errors import EvictedError
from leash.ps.wire.messages import OVER, REST, RETURN, Leased
from leash.worker.datasets import permutation
from leash.worker.optim.optimizer import PSOptimizer
from leash.worker.train.work import Piece

REST_S: Final = 0.05  # between two requests of a worker for which nothing is left
FORGETTING: Final = 0.95  # what a step weighs in the speed when the next one has been made


class Speed:
    """Samples a second while computing: a mean over the newest twenty steps or so.

    The first step is left out once there is another: it allocates, and is no measure.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._samples = 0.0
        self._seconds = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """A step was made, in so many seconds without waiting."""
        self._steps += 1
        if self._steps == 2:
            self._samples = self._seconds = 0.0
        self._samples = FORGETTING * self._samples + samples
        self._seconds = FORGETTING * self._seconds + seconds

    @property
    def samples_per_s(self) -> float:
        """0 before the first step."""
        return self._samples / self._seconds if self._seconds > 0 else 0.0


class LeaseWork:
    """Asks for the next lease when all of the last one is pushed and answered."""

    def __init__(
        self, optimizer: PSOptimizer, speed: Speed, *, size: int, epochs: int, batch_size: int
    ) -> None:
        """Args:
        size: samples in the training split.
        batch_size: that this worker was started with.
        """
        self._optimizer: Final = optimizer
        self._client: Final = optimizer.client
        self._speed: Final = speed
        self._size: Final = size
        self._epochs: Final = epochs
        self._batch_size: Final = batch_size
        # The server's, whatever this worker's own is: one seed, one permutation.
        self._seed: Final = int(self._client.settings["seed"])
        self._incarnation = 0  # that was given the newest lease

    def pieces(self) -> Iterator[Piece]:
        """Until every epoch is done, by whomever."""
        while (leased := self._next()).order != OVER:
            order = permutation(self._size, self._seed, leased.epoch)
            yield Piece(
                leased.epoch, order[leased.first : leased.first + leased.count],
                leased.batch_size, leased.local_steps, leased.first, self._size,
            )  # fmt: skip

    def is_held(self) -> bool:
        """Whoever had to say hello again has lost its lease."""
        return self._client.incarnation == self._incarnation

    def _next(self) -> Leased:
        """The next order to train, or that all is over."""
        while True:
            try:
                leased = self._client.lease(
                    self._size, self._epochs, self._batch_size, self._speed.samples_per_s
                )
            except EvictedError:
                self._optimizer.rejoin(evicted=True)
                continue
            self._incarnation = self._client.incarnation
            if leased.order == RETURN:
                self._optimizer.rejoin()
            elif leased.order == REST:
                self._client.pause(REST_S)
            else:
                return leased
