"""LeaseSampler: a loop of one's own draws the samples that the server leases to its worker.

::

    drawn     ▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪  by the DataLoader, which may fetch ahead
    stepped   ▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪          step(samples=…) has counted them
              └─ used ───────┘└ ahead ┘ the server leases these again if the worker dies now

The server knows the samples of every answered step, and a DataLoader keeps the order in which they
were drawn. So a request for the next lease only has to say how many are drawn ahead, and the server
knows at any time which positions a worker has used. All of a run's leases are kept there; nothing
about them is kept here that a worker which takes this one's place would need.
"""

import time
from collections.abc import Callable, Iterator, Sized
from typing import Any, Final

from torch.utils.data import Sampler

from leash.ps.errors import UsageError
from leash.ps.options.plan import AUTO, LEASE, WEIGHTED
from leash.ps.wire.messages import TRAIN, Leased
from leash.worker.datasets import Positions, permutation
from leash.worker.optim.optimizer import PSOptimizer, current_optimizer
from leash.worker.train.leasing import LeaseRequests, Speed

FIRST_BATCH: Final = 32  # until a step has told how large batches are
NO_EPOCHS: Final = (
    "LeaseSampler: say for how many epochs: sampler.epochs(10), or --epochs 10 of the server"
)
NO_EPOCH_BEGUN: Final = (
    "LeaseSampler: the server says when an epoch begins; put the loop over the DataLoader into "
    "`for epoch in sampler.epochs(N):`, and go through it once in each"
)
NOT_DRAWN: Final = (
    "LeaseSampler: epoch {} went by and nothing was drawn; go through the DataLoader in it"
)


class LeaseSampler(Sampler[int]):
    """Draws the samples that the server leases to this worker, as a sampler of a DataLoader.

    Every sample is drawn once an epoch, by one of the workers, and fast workers draw more. When a
    worker dies, the others draw what it had not used; samples that were applied by then are used
    twice, and ``samples_twice`` in summary.json counts them.

    A sample is used once a step has counted it: ``step(samples=len(batch))``, or
    ``begin_step(samples=len(batch))``. Batches have to come in the order in which they were drawn,
    which is what a DataLoader does, whatever its ``num_workers``; one that the loop leaves out, or
    that ``drop_last`` drops, counts as used.

    Every process shuffles by the server's seed, so there is no ``set_epoch``. There is no length
    either: nobody knows yet how many samples will be this worker's.

    Examples:
        With a server on this host, started by ``leash server --lr 0.1``:

        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from leash import LeaseSampler, PSOptimizer
        >>> inputs = torch.randn(500, 4)
        >>> dataset = TensorDataset(inputs, inputs.sum(1, keepdim=True))
        >>> model = torch.nn.Linear(4, 1)
        >>> sampler = LeaseSampler(dataset)
        >>> loader = DataLoader(dataset, batch_size=50, sampler=sampler)
        >>> address = "tcp://127.0.0.1:29500"
        >>> with PSOptimizer(model.named_parameters(), address, rank=1) as optimizer:
        ...     for epoch in sampler.epochs(2):
        ...         for inputs, targets in loader:
        ...             optimizer.zero_grad()
        ...             torch.nn.functional.mse_loss(model(inputs), targets).backward()
        ...             _ = optimizer.step(samples=len(inputs))
        ...         print(epoch)
        1
        2
    """

    def __init__(
        self,
        dataset: Sized,
        *,
        batch_size: int | None = None,
        optimizer: PSOptimizer | None = None,
    ) -> None:
        """Draws nothing yet; `epochs` does.

        Args:
            dataset: whose samples to draw, of a known length; the same in every worker.
            batch_size: of the DataLoader, so that leases are whole batches. By default what the
                first steps say.
            optimizer: of this worker; by default the only one that is open in this process when
                `epochs` begins.

        Raises:
            UsageError: the data set has no length, or no samples; or the batch size is below 1.
        """
        try:
            self._size: Final = len(dataset)
        except TypeError as error:
            raise UsageError("LeaseSampler: this data set has no length, so that its samples have "
                             "no numbers; give one that has") from error  # fmt: skip
        if self._size < 1:
            raise UsageError("LeaseSampler: the data set has no samples")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"LeaseSampler: batch_size={batch_size}: give a number from 1")
        self._batch_size: Final = batch_size
        self._optimizer: Final = optimizer
        self._draws: _Draws | None = None

    def epochs(self, count: int | None = None) -> Iterator[int]:
        """Gives the number of each epoch that is to be trained, and waits for others in the end.

        What a worker leaves that dies late is given to those that have finished. So an epoch may
        come twice, and after the last one this waits until nobody can leave anything any more.

        Args:
            count: how many epochs the run has, the same in every worker; by default what the server
                was started with. A worker that joins late begins with the epoch of the others.

        Yields:
            The number of an epoch, from 1; go through the DataLoader once.

        Raises:
            UsageError: there is no open optimizer, or no number of epochs; this run has no leases;
                or the loop did not go through the DataLoader.
            PlanMismatchError: another worker has another data set, or other epochs.
            LeashError: whatever else ends this worker's part.
        """
        optimizer = self._optimizer or current_optimizer()
        if optimizer.group is not None:
            raise UsageError("LeaseSampler: a worker of several processes has no leases; take "
                             "torch's DistributedSampler over all of them")  # fmt: skip
        _require_leases(optimizer.client.settings)
        draws = _Draws(optimizer, self._size, _epochs_of(optimizer, count), self._batch_size)
        self._draws, optimizer.sampler = draws, draws
        try:
            while draws.begin_pass():
                yield draws.epoch
                draws.require_drawn()
        finally:
            self._draws = optimizer.sampler = None

    def __iter__(self) -> Iterator[int]:
        if self._draws is None:
            raise UsageError(NO_EPOCH_BEGUN)
        return self._draws.positions()


class _Draws:
    """The draws of one training: which lease is next, and how far drawing is ahead of training."""

    def __init__(
        self, optimizer: PSOptimizer, size: int, epochs: int, batch_size: int | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        settings = optimizer.client.settings
        self.epoch: int = 0  # the number of the epoch that the loop is in
        self._optimizer: Final = optimizer
        self._requests: Final = LeaseRequests(optimizer, size=size, epochs=epochs)
        self._size: Final = size
        self._seed: Final = int(settings["seed"])
        self._paces_rounds: Final = settings["local_steps"] == AUTO
        self._now: Final = now
        self._speed: Final = Speed()
        self._batch_size: Final = batch_size
        self._newest_batch = FIRST_BATCH
        self._next: Leased | None = None  # the lease that comes next, if it is there already
        self._passes = 0  # how many iterators over the samples there were
        self._is_drawn = True  # whether this epoch has an iterator
        self._drawn = 0  # how many samples the loop was given in this pass
        self._stepped = 0  # how many of these are behind steps
        self._unpushed = 0  # how many of these are behind local steps that have not been pushed
        self._ended_s: float | None = None  # when the last step of this pass ended
        self._order: tuple[int, Positions] | None = None  # an epoch, and its permutation

    # Passes.

    def begin_pass(self) -> bool:
        """Waits for the first lease of the next pass; False if the training is over."""
        self._drawn = self._stepped = 0  # what was drawn and left out does not come any more
        if self._next is None or not self._requests.is_held:
            self._optimizer.flush()
            leased = self._requests.await_work(self._batch, self._speed.samples_per_s)
            self._next = leased if leased.order == TRAIN else None
        self._is_drawn = False
        if self._next is None:
            return False
        self.epoch = max(self.epoch, self._next.epoch)
        return True

    def require_drawn(self) -> None:
        """Raises UsageError if the loop has not gone through its DataLoader."""
        if not self._is_drawn:
            raise UsageError(NOT_DRAWN.format(self.epoch))

    def positions(self) -> Iterator[int]:
        """Gives the samples of this pass. Raises UsageError for a second time."""
        if self._is_drawn:
            raise UsageError(NO_EPOCH_BEGUN)
        self._is_drawn = True
        self._passes += 1
        self._ended_s = None  # the time between two passes is none that a step takes
        return self._draw(self._passes)

    def _draw(self, number: int) -> Iterator[int]:
        while number == self._passes and (leased := self._take_next()) is not None:
            for position in self._positions_of(leased):
                if number != self._passes or not self._requests.is_held:
                    break  # the loop has gone on to another pass, or others have this lease now
                self._drawn += 1
                yield int(position)

    def _take_next(self) -> Leased | None:
        """The next lease of this epoch, or of an earlier one; None if nothing is left for now."""
        if self._next is None or not self._requests.is_held:
            self._next = self._ask()
        if self._next is None or self._next.epoch > self.epoch:
            return None
        leased, self._next = self._next, None
        if self._paces_rounds:
            self._optimizer.local_steps = leased.local_steps
        return leased

    def _ask(self) -> Leased | None:
        leased = self._requests.ask(self._batch, self._speed.samples_per_s, self._ahead)
        return leased if leased.order == TRAIN else None

    def _ahead(self) -> int:
        """How many samples were drawn and are not behind an answered push."""
        unpushed = self._unpushed if self._optimizer.pending_steps else 0
        return max(0, self._drawn - self._stepped + unpushed)

    def _positions_of(self, leased: Leased) -> Positions:
        if self._order is None or self._order[0] != leased.epoch:
            self._order = leased.epoch, permutation(self._size, self._seed, leased.epoch)
        return self._order[1][leased.first : leased.first + leased.count]

    # Steps.

    @property
    def _batch(self) -> int:
        return self._batch_size or self._newest_batch

    def stepped(self, samples: int) -> None:
        """Notes a step of the loop."""
        self._stepped += samples
        self._unpushed = self._unpushed + samples if self._optimizer.pending_steps else 0
        self._newest_batch = max(1, samples)
        now_s = self._now()
        if self._ended_s is not None:
            self._speed.add(samples, max(0.0, now_s - self._ended_s - self._optimizer.wait_seconds))
        self._ended_s = now_s
        if not self._requests.is_held and self._ahead() and self._next is None:
            # Others get what was drawn ahead, which this worker trains on all the same: the request
            # tells the server how many samples that are.
            self._next = self._ask()


def _epochs_of(optimizer: PSOptimizer, count: int | None) -> int:
    epochs = optimizer.client.settings["planned_epochs"] if count is None else count
    if epochs is None:
        raise UsageError(NO_EPOCHS)
    if epochs < 1:
        raise UsageError(f"epochs({epochs}): give a number from 1")
    return int(epochs)


def _require_leases(settings: dict[str, Any]) -> None:
    """Raises UsageError for a run without leases, or whose leases a sampler cannot honour."""
    if settings["data_plan"] != LEASE:
        raise UsageError("LeaseSampler: this run has fixed shares; start its server with "
                         "--data-plan lease, or take torch's DistributedSampler")  # fmt: skip
    if settings["batch_plan"] == WEIGHTED:
        raise UsageError("LeaseSampler: --batch-plan weighted sets the size of batches, and the "
                         "DataLoader has its own; start the server without it")  # fmt: skip
