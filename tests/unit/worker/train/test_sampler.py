"""A loop that draws ahead, against the server's own leases and a model of every sample."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from leash import LeaseSampler, PSOptimizer
from leash.ps.errors import UsageError
from leash.ps.server.leases.leases import Leases
from leash.ps.wire.messages import Lease, Leased
from support.servers import serving

SIZE = 60


class Office:
    """The leases of a run, and the samples that the server has answered, by rank."""

    def __init__(self) -> None:
        self.leases = Leases(weighted=False, local_steps=1)
        self.answered: Counter[int] = Counter()
        self.incarnations = 0

    def leave(self, rank: int, applied: int = 0) -> None:
        self.leases.release(rank, self.answered[rank], applied)


@dataclass
class FakeClient:
    """One worker's way to the leases."""

    office: Office
    rank: int
    settings: dict[str, Any] = field(default_factory=lambda: {
        "seed": 5, "data_plan": "lease", "batch_plan": "equal", "local_steps": "1",
        "planned_epochs": None,
    })  # fmt: skip
    incarnation: int = 0
    number: int = 0
    on_pause: Callable[[], object] | None = None  # what the others do meanwhile

    def hello(self) -> None:
        self.office.incarnations += 1
        self.incarnation, self.number = self.office.incarnations, 0

    def lease(self, samples: int, epochs: int, batch: int, speed: float, ahead: int = 0) -> Leased:
        self.number += 1
        message = Lease(self.rank, self.incarnation, self.number, samples, epochs, batch, speed,
                        ahead)  # fmt: skip
        answered = self.office.answered[self.rank]
        return self.office.leases.ask(message, answered, lockstep=False)

    def pause(self, _: float) -> None:
        if self.on_pause is None:
            raise WaitingError
        self.on_pause()


class WaitingError(Exception):
    """The worker would wait for others."""


@dataclass
class FakeOptimizer:
    """Steps that are answered at once; with local steps, every so many."""

    client: FakeClient
    local_steps: int = 1
    sampler: Any = None
    group: Any = None
    pending_steps: int = 0
    wait_seconds: float = 0.0
    unpushed: int = 0

    def step(self, samples: int) -> None:
        self.unpushed += samples
        self.pending_steps += 1
        if self.pending_steps == self.local_steps:
            self.flush()
        if self.sampler is not None:
            self.sampler.stepped(samples)

    def flush(self) -> None:
        self.client.office.answered[self.client.rank] += self.unpushed
        self.pending_steps = self.unpushed = 0

    def rejoin(self, *, evicted: bool = False) -> None:
        self.pending_steps = self.unpushed = 0
        self.client.office.leave(self.client.rank)
        self.client.hello()


class Loop:
    """A loop of somebody's own, which takes one batch at a time, with some fetched ahead."""

    def __init__(
        self, office: Office, rank: int, *, batch: int = 7, prefetch: int = 0, epochs: int = 1,
        local_steps: int = 1, drop_last: bool = False,
    ) -> None:  # fmt: skip
        self.client = FakeClient(office, rank)
        self.client.hello()
        self.optimizer = FakeOptimizer(self.client, local_steps)
        self.trained: Counter[int] = Counter()
        self.epochs_seen: list[int] = []
        self._prefetch = prefetch
        sampler = LeaseSampler(range(SIZE), optimizer=self.optimizer)  # type: ignore[arg-type]
        batches = BatchSampler(sampler, batch, drop_last)
        self._life = self._live(sampler, batches, epochs)

    def _live(
        self, sampler: LeaseSampler, batches: BatchSampler, epochs: int
    ) -> Iterator[list[int]]:
        for epoch in sampler.epochs(epochs):
            self.epochs_seen.append(epoch)
            fetched: deque[list[int]] = deque()
            for batch in batches:
                fetched.append(batch)
                if len(fetched) > self._prefetch:
                    yield fetched.popleft()
            yield from fetched

    def train(self) -> bool:
        """Trains a batch; False if there is none any more."""
        batch = next(self._life, None)
        if batch is None:
            return False
        self.optimizer.step(len(batch))
        self.trained.update(batch)
        return True

    def train_all(self) -> None:
        while self.train():
            continue


def test_one_worker_draws_every_sample_once_an_epoch() -> None:
    loop = Loop(Office(), 1, epochs=3)
    loop.train_all()
    assert loop.trained == Counter(dict.fromkeys(range(SIZE), 3))
    assert loop.epochs_seen == [1, 2, 3]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("local_steps", [1, 3])
def test_two_workers_draw_every_sample_once_however_far_they_fetch_ahead(
    prefetch: int, local_steps: int
) -> None:
    office = Office()
    loops = [
        Loop(office, rank, prefetch=prefetch, local_steps=local_steps, batch=4, epochs=2)
        for rank in (1, 2)
    ]
    for loop, other in (loops, loops[::-1]):
        loop.client.on_pause = other.train
    while sum(loop.train() for loop in loops):
        continue
    assert loops[0].trained + loops[1].trained == Counter(dict.fromkeys(range(SIZE), 2))
    assert all(loop.trained for loop in loops)
    assert (office.leases.samples_twice, office.leases.completed) == (0, 2)


@settings(max_examples=60)
@given(
    batch=st.integers(1, 13), prefetch=st.integers(0, 5), steps=st.integers(0, 12),
    local_steps=st.integers(1, 4),
)  # fmt: skip
def test_what_a_dead_worker_had_not_pushed_is_drawn_by_another_and_nothing_else(
    batch: int, prefetch: int, steps: int, local_steps: int
) -> None:
    """Also what it had drawn ahead, and the local steps that it had not pushed."""
    office = Office()
    victim = Loop(office, 1, batch=batch, prefetch=prefetch, local_steps=local_steps)
    pushed: Counter[int] = Counter()
    for _ in range(steps):
        goes_on = victim.train()
        if not victim.optimizer.pending_steps:
            pushed = Counter(victim.trained)
        if not goes_on:
            break
    office.leave(1)
    other = Loop(office, 2, batch=batch)
    other.train_all()
    assert pushed + other.trained == Counter(range(SIZE))
    assert office.leases.samples_twice == 0
    assert office.leases.completed == 1


@pytest.mark.parametrize("prefetch", [0, 3])
def test_one_that_had_to_say_hello_again_trains_twice_what_the_server_counts(prefetch: int) -> None:
    office = Office()
    loop = Loop(office, 1, batch=5, prefetch=prefetch)
    for _ in range(4):
        assert loop.train()
    loop.optimizer.rejoin()
    loop.train_all()
    assert loop.trained.keys() == set(range(SIZE))
    assert loop.trained.total() - SIZE == office.leases.samples_twice
    assert office.leases.samples_twice == 5 * prefetch


def test_what_drop_last_drops_counts_as_used() -> None:
    office = Office()
    loop = Loop(office, 1, batch=7, epochs=2, drop_last=True)
    loop.train_all()
    assert loop.trained.total() == 2 * (SIZE - SIZE % 7)
    assert office.leases.completed == 2


def test_the_last_epoch_ends_only_when_nobody_can_leave_anything_any_more() -> None:
    office = Office()
    slow, fast = Loop(office, 1, batch=10), Loop(office, 2, batch=10)
    assert slow.train()
    with pytest.raises(WaitingError):
        fast.train_all()
    assert not slow.trained & fast.trained
    left = SIZE - (slow.trained + fast.trained).total()
    assert left == 22  # the rest of the first lease, which has 32 samples


def test_an_epoch_that_nobody_draws_in_is_an_error() -> None:
    client = FakeClient(Office(), 1)
    client.hello()
    sampler = LeaseSampler(range(SIZE), optimizer=FakeOptimizer(client))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="epoch 1 went by and nothing was drawn"):
        list(sampler.epochs(2))


def test_a_loop_without_epochs_or_a_second_one_within_an_epoch_is_an_error() -> None:
    client = FakeClient(Office(), 1)
    client.hello()
    sampler = LeaseSampler(range(SIZE), optimizer=FakeOptimizer(client))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"for epoch in sampler\.epochs\(N\)"):
        iter(sampler)
    epochs = sampler.epochs(1)
    next(epochs)
    assert len(list(sampler)) > 0
    with pytest.raises(UsageError, match="go through it once in each"):
        iter(sampler)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data_plan": "static"}, "start its server with --data-plan lease"),
        ({"batch_plan": "weighted"}, "start the server without it"),
        ({}, r"say for how many epochs: sampler\.epochs\(10\)"),
    ],
)
def test_a_run_whose_leases_it_cannot_honour_is_refused(changes: dict[str, str], says: str) -> None:
    client = FakeClient(Office(), 1)
    client.settings.update(changes)
    sampler = LeaseSampler(range(SIZE), optimizer=FakeOptimizer(client))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=says):
        next(sampler.epochs())


@pytest.mark.parametrize(
    ("dataset", "options", "says"),
    [
        (iter(()), {}, "this data set has no length"),
        ((), {}, "has no samples"),
        (range(3), {"batch_size": 0}, "batch_size=0: give a number from 1"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(
    dataset: Any, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        LeaseSampler(dataset, **options)


def test_without_an_open_optimizer_or_with_two_it_has_to_be_named() -> None:
    torch = pytest.importorskip("torch")
    sampler = LeaseSampler(range(SIZE))
    with pytest.raises(UsageError, match="has 0 open PSOptimizers: make one first"):
        next(sampler.epochs(1))
    model = torch.nn.Linear(1, 1)
    with (
        serving() as one,
        serving() as two,
        PSOptimizer(model.named_parameters(), one.address, 1) as optimizer,
    ):
        second = PSOptimizer(torch.nn.Linear(1, 1).named_parameters(), two.address, 1)
        with pytest.raises(UsageError, match="has 2 open PSOptimizers"):
            next(sampler.epochs(1))
        second.close()
        epochs = sampler.epochs(1)
        assert next(epochs) == 1
        model(torch.ones(1, 1)).sum().backward()
        with pytest.raises(UsageError, match=r"call step\(samples=len\(batch\)\)"):
            optimizer.step()
