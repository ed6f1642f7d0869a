"""Work by leases: the server hands out ranges of an epoch as workers need them."""

from collections.abc import Iterator
from typing import Final

from leash.ps.errors import EvictedError
from leash.ps.wire.messages import OVER, REST, RETURN, Leased
from leash.worker.datasets import Positions, permutation
from leash.worker.optim.optimizer import PSOptimizer
from leash.worker.train.work import Piece

REST_S: Final = 0.05  # a worker for which nothing is left asks again after so many seconds
FORGETTING: Final = 0.95  # each new step multiplies the weight of all older ones by this


class Speed:
    """Measures how many samples a second a worker computes: a mean over about twenty steps.

    The first step, which allocates, is no measure: it counts only until there is another.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._samples = 0.0
        self._seconds = 0.0

    def add(self, samples: int, seconds: float) -> None:
        """Notes a step.

        Args:
            samples: how many it had.
            seconds: how long it computed, without waiting for anybody.
        """
        self._steps += 1
        if self._steps == 2:
            self._samples = self._seconds = 0.0
        self._samples = FORGETTING * self._samples + samples
        self._seconds = FORGETTING * self._seconds + seconds

    @property
    def samples_per_s(self) -> float:
        """The speed; 0 before the first step."""
        return self._samples / self._seconds if self._seconds > 0 else 0.0


class LeaseWork:
    """Asks for the next lease once all samples of the last one are pushed and answered."""

    def __init__(
        self, optimizer: PSOptimizer, speed: Speed, *, size: int, epochs: int, batch_size: int
    ) -> None:
        """Holds no lease yet.

        Args:
            optimizer: whose client asks for leases.
            speed: of this worker, which the server is told with every request.
            size: how many samples the training split has.
            epochs: how many this worker wants to train for.
            batch_size: that this worker was started with.
        """
        self._optimizer: Final = optimizer
        self._client: Final = optimizer.client
        self._speed: Final = speed
        self._size: Final = size
        self._epochs: Final = epochs
        self._batch_size: Final = batch_size
        # The server's seed, whatever this worker's own is: all workers need the same permutation.
        self._seed: Final = int(self._client.settings["seed"])
        self._incarnation = 0  # of this worker when it got its newest lease

    def pieces(self) -> Iterator[Piece]:
        """Gives the samples of one lease after the other, until all epochs are done."""
        while (leased := self._next()).order != OVER:
            order = permutation(self._size, self._seed, leased.epoch)
            yield Piece(
                leased.epoch, order[leased.first : leased.first + leased.count],
                leased.batch_size, leased.local_steps, leased.first, self._size,
            )  # fmt: skip

    def is_held(self) -> bool:
        """Whether this worker still has its lease: it loses it when it has to say hello again."""
        return self._client.incarnation == self._incarnation

    def lose(self, positions: Positions) -> None:
        """Does nothing: the server leases these samples again."""

    def _next(self) -> Leased:
        """Asks until the server says to train, or that the training is over."""
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
