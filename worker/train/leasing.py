"""Work by leases: the server hands out ranges of an epoch as workers need them."""

from collections.abc import Callable, Iterator
from typing import Final

from leash.ps.errors import EvictedError
from leash.ps.wire.messages import OVER, REST, RETURN, Leased
from leash.worker.datasets import permutation
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


class LeaseRequests:
    """Asks for leases of one training, and says hello again where the server asks for that."""

    def __init__(self, optimizer: PSOptimizer, *, size: int, epochs: int) -> None:
        """Asks for nothing yet.

        Args:
            optimizer: whose client asks.
            size: how many samples the training set has.
            epochs: how many this worker wants to train for.
        """
        self._optimizer: Final = optimizer
        self._client: Final = optimizer.client
        self._size: Final = size
        self._epochs: Final = epochs
        self._incarnation = 0  # of this worker when it got its newest lease

    @property
    def is_held(self) -> bool:
        """Whether the newest lease is still this worker's, which loses it by another hello."""
        return self._client.incarnation == self._incarnation

    def ask(self, batch_size: int, samples_per_s: float, ahead: Callable[[], int]) -> Leased:
        """Asks, as a new process if need be; the answer is to train, to rest or that it is over.

        Args:
            batch_size: that this worker was started with.
            samples_per_s: its speed.
            ahead: says how many samples of earlier leases it has still to push.
        """
        while True:
            drawn_ahead = ahead()
            more = (drawn_ahead,) if drawn_ahead else ()  # whoever draws none need not say so
            try:
                leased = self._client.lease(
                    self._size, self._epochs, batch_size, samples_per_s, *more
                )
            except EvictedError:
                self._optimizer.rejoin(evicted=True)
                continue
            self._incarnation = self._client.incarnation
            if leased.order != RETURN:
                return leased
            self._optimizer.rejoin()

    def await_work(self, batch_size: int, samples_per_s: float) -> Leased:
        """Asks, with all earlier leases done, until the answer is to train or that it is over.

        Args:
            batch_size: as in `ask`.
            samples_per_s: as in `ask`.
        """
        while (leased := self.ask(batch_size, samples_per_s, lambda: 0)).order == REST:
            self._client.pause(REST_S)
        return leased


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
        self._requests: Final = LeaseRequests(optimizer, size=size, epochs=epochs)
        self._speed: Final = speed
        self._size: Final = size
        self._batch_size: Final = batch_size
        # The server's seed, whatever this worker's own is: all workers need the same permutation.
        self._seed: Final = int(optimizer.client.settings["seed"])

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
        return self._requests.is_held

    def lose(self, taken: int) -> None:
        """Does nothing: the server leases these samples again."""

    def _next(self) -> Leased:
        return self._requests.await_work(self._batch_size, self._speed.samples_per_s)
