from dataclasses import dataclass, field
from typing import Any

import pytest

from leash.ps.errors import EvictedError
from leash.ps.wire.messages import OVER, REST, RETURN, TRAIN, Leased
from leash.worker.datasets import permutation
from leash.worker.train.leasing import LeaseWork, Speed


@dataclass
class FakeClient:
    """Gives these answers, one after the other; an exception is raised."""

    answers: list[Leased | Exception]
    settings: dict[str, Any] = field(default_factory=lambda: {"seed": 5})
    incarnation: int = 1
    pauses: int = 0
    asked: list[tuple[float, ...]] = field(default_factory=list)

    def pause(self, _: float) -> None:
        self.pauses += 1

    def lease(self, *request: float) -> Leased:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class FakeOptimizer:
    client: FakeClient
    rejoined: list[bool] = field(default_factory=list)

    def rejoin(self, *, evicted: bool = False) -> None:
        self.rejoined.append(evicted)
        self.client.incarnation += 1


def train(first: int, count: int, epoch: int = 1) -> Leased:
    return Leased(1, 1, TRAIN, epoch, first, count, 7, 2)


def order(word: str) -> Leased:
    return Leased(1, 1, word, 0, 0, 0, 0, 0)


def work_with(*answers: Leased | Exception) -> tuple[LeaseWork, FakeOptimizer]:
    optimizer = FakeOptimizer(FakeClient(list(answers)))
    work = LeaseWork(optimizer, Speed(), size=20, epochs=3, batch_size=4)  # type: ignore[arg-type]
    return work, optimizer


def test_a_lease_is_a_range_of_the_epochs_permutation() -> None:
    work, optimizer = work_with(train(0, 8), train(15, 5, epoch=2), order(OVER))
    first, second = work.pieces()
    assert first.positions.tolist() == permutation(20, 5, 1)[:8].tolist()
    assert second.positions.tolist() == permutation(20, 5, 2)[15:].tolist()
    assert (second.epoch, second.batch_size, second.local_steps) == (2, 7, 2)
    assert (second.begins_at, second.epoch_samples) == (15, 20)
    assert optimizer.client.asked == [(20, 3, 4, 0.0)] * 3


def test_one_that_rests_asks_again_and_says_hello_when_it_is_called_back() -> None:
    work, optimizer = work_with(order(REST), order(REST), order(RETURN), train(0, 8), order(OVER))
    assert len(list(work.pieces())) == 1
    assert optimizer.client.pauses == 2
    assert optimizer.rejoined == [False]


def test_an_eviction_is_answered_with_hello_and_counted() -> None:
    work, optimizer = work_with(EvictedError("too long"), train(0, 8), order(OVER))
    assert len(list(work.pieces())) == 1
    assert optimizer.rejoined == [True]


def test_a_lease_is_lost_with_the_incarnation_that_it_was_given_to() -> None:
    work, optimizer = work_with(train(0, 8), order(OVER))
    pieces = work.pieces()
    next(pieces)
    assert work.is_held()
    optimizer.rejoin()
    assert not work.is_held()


def test_speed_is_that_of_all_steps_but_the_first() -> None:
    speed = Speed()
    assert speed.samples_per_s == 0.0
    speed.add(10, 5.0)
    assert speed.samples_per_s == 2.0
    for samples, seconds in ((10, 0.1), (30, 0.3), (10, 0.1)):
        speed.add(samples, seconds)
    assert speed.samples_per_s == pytest.approx(100.0)


def test_speed_follows_a_change_within_some_tens_of_steps() -> None:
    speed = Speed()
    for _ in range(200):
        speed.add(10, 0.1)
    for _ in range(60):
        speed.add(10, 0.2)
    assert speed.samples_per_s == pytest.approx(50.0, rel=0.1)
