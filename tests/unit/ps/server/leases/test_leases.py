"""Leases against a model of every position, and against the clock of simulated workers."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leash.ps.errors import HeaderError, PlanMismatchError, SupersededError
from leash.ps.runs.position import LeasePosition, Position
from leash.ps.server.leases.leases import Leases
from leash.ps.wire.messages import OVER, REST, RETURN, TRAIN, Lease, Leased
from leash.worker.datasets.base import in_batches
from support.crew import Crew

SIZE = 60
BATCH = 10
EPOCHS = 2


def request(worker: int, number: int, speed: float = 0.0, **changes: int) -> Lease:
    plain = Lease(worker, 7, number, SIZE, 1, BATCH, speed)
    return replace(plain, **changes)  # type: ignore[arg-type]


def positions(order: Leased) -> range:
    return range(order.first, order.first + order.count)


class Asker:
    """A worker that asks, and gets an answer to everything that it pushes."""

    def __init__(self, leases: Leases, worker: int, *, epochs: int = 1) -> None:
        self.leases, self.worker, self.epochs = leases, worker, epochs
        self.number = self.answered = 0

    def ask(self, speed: float = 0.0) -> Leased:
        self.number += 1
        message = request(self.worker, self.number, speed, epochs=self.epochs)
        order = self.leases.ask(message, self.answered, lockstep=False)
        self.answered += order.count
        return order

    def leave(self, unanswered: int = 0, applied: int = 0) -> None:
        """It goes, and this many of the samples of its lease were not answered."""
        self.leases.release(self.worker, self.answered - unanswered, applied)


@pytest.fixture
def leases() -> Leases:
    return Leases(weighted=False, local_steps=1)


def test_two_workers_get_every_position_once(leases: Leases) -> None:
    first, second = Asker(leases, 1), Asker(leases, 2)
    seen: Counter[int] = Counter()
    orders = [first.ask(), second.ask()]
    while orders[-1].order == TRAIN:
        seen.update(positions(orders[-1]))
        orders.append((first if len(orders) % 2 else second).ask(100.0))
        if len(orders) == 3:
            seen.update(positions(orders[0]))
    assert seen == Counter(range(SIZE))


def test_who_finds_nothing_left_goes_on_with_the_next_epoch(leases: Leases) -> None:
    slow, fast = Asker(leases, 1, epochs=2), Asker(leases, 2, epochs=2)
    held = slow.ask()
    epochs = [fast.ask().epoch for _ in range(7)]
    assert held.epoch == 1
    assert epochs == [1] * 5 + [2] * 2
    assert leases.completed == 0  # of the first one a lease is still held
    assert slow.ask().epoch == 2
    assert leases.completed == 1


def test_who_finds_nothing_left_of_the_last_epoch_rests_until_all_is_done(leases: Leases) -> None:
    slow, fast = Asker(leases, 1), Asker(leases, 2)
    slow.ask()
    orders = [fast.ask().order for _ in range(7)]
    assert orders == [TRAIN] * 5 + [REST] * 2
    assert leases.is_resting(2)
    assert not leases.is_resting(1)
    assert slow.ask().order == fast.ask().order == OVER
    assert leases.completed == 1


def test_what_a_worker_leaves_unanswered_goes_to_one_that_rests(leases: Leases) -> None:
    """It has to say hello first, since nobody waits for its steps any more."""
    victim, other = Asker(leases, 1), Asker(leases, 2)
    lost = victim.ask()
    for _ in range(6):
        order = other.ask()
    assert order.order == REST
    victim.leave(unanswered=4, applied=3)
    assert leases.samples_twice == 3
    assert other.ask().order == RETURN
    other.leave()  # its hello ends what it was before
    again = Asker(leases, 2)
    assert positions(again.ask()) == positions(lost)[-4:]
    assert again.ask().order == OVER


def test_one_that_draws_ahead_holds_several_leases_and_leaves_what_was_not_answered(
    leases: Leases,
) -> None:
    """It has pushed 15 of 30 samples, and 10 are behind a request for more."""
    assert positions(leases.ask(request(1, 1), 0, lockstep=False)) == range(10)
    assert positions(leases.ask(request(1, 2, ahead=10), 0, lockstep=False)) == range(10, 20)
    assert positions(leases.ask(request(1, 3, ahead=10), 10, lockstep=False)) == range(20, 30)
    assert leases.completed == 0
    leases.release(1, answered=15, applied=3)
    assert leases.samples_twice == 3
    other = Asker(leases, 2)
    assert [positions(other.ask()) for _ in range(3)] == [
        range(15, 20), range(20, 30), range(30, 40),
    ]  # fmt: skip


def test_one_that_holds_something_does_not_rest_where_nothing_is_left(leases: Leases) -> None:
    for number in range(1, 7):
        order = leases.ask(request(1, number), BATCH * (number - 1), lockstep=False)
    assert order.order == TRAIN
    assert leases.ask(request(1, 7, ahead=10), 50, lockstep=False).order == REST
    assert not leases.is_resting(1)
    assert leases.ask(request(1, 8), 60, lockstep=False).order == OVER


def test_what_was_drawn_ahead_before_a_hello_is_trained_on_twice(leases: Leases) -> None:
    first = leases.ask(request(1, 1), 0, lockstep=False)
    leases.release(1, answered=0, applied=0)
    again = leases.ask(request(1, 1, ahead=4), 0, lockstep=False)
    assert positions(again) == positions(first)
    assert leases.samples_twice == 4
    leases.release(1, answered=6, applied=0)  # four of before, and two of these
    assert positions(Asker(leases, 2).ask())[0] == 2


def test_a_repeated_request_gets_the_same_answer(leases: Leases) -> None:
    first = leases.ask(request(1, 1), 0, lockstep=False)
    assert leases.ask(request(1, 1), 0, lockstep=False) is first
    second = leases.ask(request(1, 2), first.count, lockstep=False)
    assert second.first == first.count


def test_an_old_copy_of_a_request_is_refused_and_grants_nothing(leases: Leases) -> None:
    orders = [leases.ask(request(1, n), (n - 1) * BATCH, lockstep=False) for n in (1, 2)]
    with pytest.raises(SupersededError, match="copy of 1"):
        leases.ask(request(1, 1), BATCH, lockstep=False)
    assert leases.ask(request(1, 2), BATCH, lockstep=False) is orders[1]


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_number_that_cannot_be_is_refused(leases: Leases, number: int) -> None:
    with pytest.raises(HeaderError, match=f"expected 1, got {number}"):
        leases.ask(request(1, number), 0, lockstep=False)
    assert not leases.in_use  # nor does it choose the run's data: another may
    leases.ask(request(1, 1, samples=SIZE + 1), 0, lockstep=False)
    assert leases.left() == {1: SIZE + 1}
    assert not leases.is_resting(1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": 59}, "60 training samples, got 59"),
        ({"epochs": 2}, "1 epochs, got 2"),
    ],
)
def test_another_task_than_the_runs_is_refused(
    leases: Leases, changes: dict[str, int], says: str
) -> None:
    leases.ask(request(1, 1), 0, lockstep=False)
    with pytest.raises(PlanMismatchError, match=says):
        leases.ask(request(2, 1, **changes), 0, lockstep=False)


@pytest.mark.parametrize("name", ["samples", "epochs", "batch_size"])
def test_nothing_to_train_on_is_refused(leases: Leases, name: str) -> None:
    with pytest.raises(HeaderError, match=f"lease.{name}: expected 1 or more"):
        leases.ask(request(1, 1, **{name: 0}), 0, lockstep=False)
    assert not leases.in_use


def test_a_speed_that_is_none_counts_as_unknown(leases: Leases) -> None:
    for number, speed in enumerate((float("nan"), -1.0, 0.0), start=1):
        order = leases.ask(request(1, number, speed), (number - 1) * BATCH, lockstep=False)
        assert order.count == BATCH


class LeasesModel(RuleBasedStateMachine):
    """Three workers ask, are answered, and go in the middle of anything."""

    workers = st.integers(1, 3)

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(weighted=False, local_steps=2)
        self.held: dict[int, list[tuple[int, int]]] = {}  # worker ▸ what it has to do, in order
        self.numbers: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.done: Counter[tuple[int, int]] = Counter()

    @rule(worker=workers, samples=st.integers(1, 25))
    def is_answered(self, worker: int, samples: int) -> None:
        left = self.held.get(worker, [])
        self.done.update(left[:samples])
        self.answered[worker] += len(left[:samples])
        self.held[worker] = left[samples:]

    @rule(worker=workers, speed=st.sampled_from([0.0, 1.0, 30.0, 1e6]), lockstep=st.booleans(),
          draws_ahead=st.booleans())  # fmt: skip
    def asks(self, worker: int, speed: float, lockstep: bool, draws_ahead: bool) -> None:
        if not draws_ahead:
            self.is_answered(worker, EPOCHS * SIZE)
        left = self.held.get(worker, [])
        self.numbers[worker] += 1
        message = request(worker, self.numbers[worker], speed, epochs=EPOCHS, ahead=len(left))
        order = self.leases.ask(message, self.answered[worker], lockstep=lockstep)
        if order.order == RETURN:
            self.goes(worker)
        elif order.order == TRAIN:
            assert order.count
            taken = {one for rest in self.held.values() for one in rest} | self.done.keys()
            leased = [(order.epoch, position) for position in positions(order)]
            assert not taken & set(leased)
            self.held[worker] = left + leased
        else:
            held = sum(map(len, self.held.values()))
            assert self.done.total() + held == EPOCHS * SIZE
            # Answered is not enough: whoever holds something says that it is done by asking.
            assert (order.order == OVER) == (self.leases.completed == EPOCHS)
            assert self.leases.is_resting(worker) == (order.order == REST and not left)
            if not left:
                self.held.pop(worker, None)
            assert order.order == OVER or self.held

    @rule(worker=workers)
    def goes(self, worker: int) -> None:
        twice, left = self.leases.samples_twice, self.held.pop(worker, [])
        self.leases.release(worker, self.answered[worker], 0)
        self.numbers[worker] = 0
        if self.leases.samples_twice > twice:  # a single one was left: the one before it is back
            epoch, position = left[0]
            del self.done[epoch, position - 1]

    @precondition(lambda self: self.leases.in_use)
    @invariant()
    def epochs_complete_in_their_order_and_only_when_done(self) -> None:
        for epoch in range(1, self.leases.completed + 1):
            assert sum(1 for e, _ in self.done if e == epoch) == SIZE
        assert set(self.done.values()) <= {1}


TestLeasesModel = LeasesModel.TestCase
TestLeasesModel.settings = settings(max_examples=40, stateful_step_count=40)


# Nobody is left a single sample.


@dataclass
class Cutter:
    """A worker that cuts its leases into batches as workers do, and may go between two of them."""

    leases: Leases
    rank: int
    batch_size: int
    size: int
    number: int = 0
    answered: int = 0
    epoch: int = 0
    batches: list[list[int]] = field(default_factory=list)  # those of its lease that are left
    is_over: bool = False
    done: Counter[tuple[int, int]] = field(default_factory=Counter)
    steps: list[int] = field(default_factory=list)  # how many samples each had

    def go_on(self, speed: float, *, lockstep: bool) -> None:
        """Takes a step, or asks for a lease if none is left of the last one."""
        if self.batches:
            batch = self.batches.pop(0)
            self.done.update((self.epoch, position) for position in batch)
            self.answered += len(batch)
            self.steps.append(len(batch))
            return
        self.number += 1
        message = Lease(self.rank, 1, self.number, self.size, EPOCHS, self.batch_size, speed)
        order = self.leases.ask(message, self.answered, lockstep=lockstep)
        self.is_over = order.order == OVER
        if order.order == RETURN:
            self.go()
        if order.order == TRAIN:
            self.epoch = order.epoch
            self.batches = list(in_batches(list(positions(order)), order.batch_size))

    def go(self) -> None:
        self.leases.release(self.rank, self.answered, 0)
        self.number, self.batches = 0, []


class Crewed(NamedTuple):
    batch_sizes: list[int]
    actions: list[tuple[int, bool]]  # (rank, whether it goes)
    lockstep: bool
    weighted: bool
    local_steps: int


def train_to_the_end(size: int, crewed: Crewed) -> tuple[Leases, list[Cutter]]:
    leases = Leases(weighted=crewed.weighted, local_steps=crewed.local_steps)
    crew = [
        Cutter(leases, rank, batch_size, size)
        for rank, batch_size in enumerate(crewed.batch_sizes, start=1)
    ]
    for place, goes in crewed.actions:
        worker = crew[place % len(crew)]
        worker.go() if goes else worker.go_on(40.0 * worker.rank, lockstep=crewed.lockstep)
    for _ in range(10 * EPOCHS * size + 100):
        for worker in crew:
            if not worker.is_over:
                worker.go_on(40.0 * worker.rank, lockstep=crewed.lockstep)
    assert all(worker.is_over for worker in crew)
    return leases, crew


CREWS = st.builds(
    Crewed,
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([False] * 4 + [True])), max_size=60),
    st.booleans(), st.booleans(), st.integers(1, 3),
)  # fmt: skip


@given(st.integers(2, 60), CREWS)
@settings(max_examples=200)
def test_no_step_has_a_single_sample_whoever_asks_for_how_many_and_goes(
    size: int, crewed: Crewed
) -> None:
    leases, crew = train_to_the_end(size, crewed)
    for worker in crew:
        assert worker.batch_size == 1 or 1 not in worker.steps
    done = sum((worker.done for worker in crew), Counter[tuple[int, int]]())
    assert set(done) == {(e, p) for e in range(1, EPOCHS + 1) for p in range(size)}
    assert done.total() == EPOCHS * size + leases.samples_twice
    if 1 not in crewed.batch_sizes:
        assert leases.samples_twice == 0


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
@pytest.mark.parametrize("workers", [1, 3])
def test_whatever_is_left_over_no_batch_is_one_sample_nor_two_too_long(
    batch_size: int, workers: int
) -> None:
    for left_over in range(1, batch_size + 1):
        size = 4 * batch_size + left_over
        crewed = Crewed([batch_size] * workers, [], False, False, 1)
        _, crew = train_to_the_end(size, crewed)
        steps = [samples for worker in crew for samples in worker.steps]
        assert sum(steps) == EPOCHS * size
        assert min(steps) > 1 or batch_size == 1
        assert max(steps) <= batch_size + 1


def test_a_position_that_nobody_else_can_use_is_leased_with_the_one_before_it() -> None:
    """A worker of batches of one has gone in the middle of positions that others trained on."""
    leases = Leases(weighted=False, local_steps=1)
    ones = Cutter(leases, 1, 1, 8)
    ones.go_on(0.0, lockstep=False)
    assert ones.batches == [[0], [1]]
    ones.go_on(0.0, lockstep=False)
    other = Cutter(leases, 2, 6, 8)
    other.go_on(0.0, lockstep=False)
    assert other.batches == [[2, 3, 4, 5, 6, 7]]
    ones.go()
    assert leases.samples_twice == 1
    other.go_on(0.0, lockstep=False)
    other.go_on(0.0, lockstep=False)
    assert other.batches == [[0, 1]]


# In virtual time.

TEN_SLEEPS = dict(enumerate((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2), start=1))
BATCHES = 600  # of 100 samples: MNIST


def limit_s(step_s: dict[int, float], batches: int) -> float:
    """No plan is faster: everybody works all the time."""
    return batches / sum(1 / seconds for seconds in step_s.values())


def test_ten_unequal_workers_finish_an_epoch_within_5_percent_of_the_limit() -> None:
    crew = Crew(Leases(weighted=False, local_steps=1), TEN_SLEEPS, 100 * BATCHES)
    assert crew.run() < 1.05 * limit_s(TEN_SLEEPS, BATCHES)
    assert crew.seen == Counter((1, position) for position in range(100 * BATCHES))


@pytest.mark.parametrize("bound", [0, 3])
def test_local_steps_let_bsp_and_ssp_finish_ten_epochs_near_the_limit(bound: int) -> None:
    crew = Crew(
        Leases(weighted=False, local_steps=None), TEN_SLEEPS, 100 * BATCHES, epochs=10, bound=bound
    )
    assert crew.run() < 1.1 * limit_s(TEN_SLEEPS, 10 * BATCHES)
    assert set(crew.seen.values()) == {1}
    assert len(crew.seen) == 10 * 100 * BATCHES


def test_without_local_steps_a_bound_lets_the_slowest_set_the_pace() -> None:
    """The simulation would notice: the limit is not reached whatever the plan."""
    crew = Crew(Leases(weighted=False, local_steps=1), TEN_SLEEPS, 100 * BATCHES, bound=3)
    assert crew.run() > 2 * limit_s(TEN_SLEEPS, BATCHES)


@pytest.mark.parametrize("bound", [0, 3, None])
def test_weighted_batches_finish_an_epoch_near_the_limit(bound: int | None) -> None:
    step_s = {1: 0.1, 2: 0.2, 3: 0.4}  # --heterogeneity 1,0.5,0.25
    crew = Crew(
        Leases(weighted=True, local_steps=1), step_s, 100 * BATCHES, bound=bound, scales=True
    )
    assert crew.run() < 1.05 * limit_s(step_s, BATCHES)
    assert crew.samples[1] / crew.samples[3] == pytest.approx(4, rel=0.05)
    assert max(crew.rounds.values()) < 1.05 * min(crew.rounds.values())


@pytest.mark.parametrize("bound", [0, 2, None])
def test_a_run_of_one_worker_more_than_there_are_samples_ends(bound: int | None) -> None:
    step_s = dict.fromkeys(range(1, 6), 1.0)
    crew = Crew(Leases(weighted=False, local_steps=1), step_s, 4, 1, epochs=3, bound=bound)
    crew.run()
    assert crew.samples.total() == 12


def test_leases_are_short_and_become_smaller_towards_the_end() -> None:
    crew = Crew(Leases(weighted=False, local_steps=1), TEN_SLEEPS, 100 * BATCHES)
    crew.run()
    of_first = [order.count for order in crew.orders if order.worker == 1 and order.count]
    assert max(of_first) == 1000  # 2 s of work
    assert of_first[-1] == 100
    after_the_largest = of_first[of_first.index(1000) :]
    assert after_the_largest == sorted(after_the_largest, reverse=True)


# Going on in another run.


class Pupil(Asker):
    """Is answered sample by sample, and notes in `trained` what was: (epoch, position)."""

    def __init__(
        self, leases: Leases, worker: int, *, epochs: int, trained: Counter[tuple[int, int]]
    ) -> None:
        super().__init__(leases, worker, epochs=epochs)
        self.trained = trained
        self.left: list[tuple[int, int]] = []  # of its lease, what has no answer yet

    def train(self, samples: int | None = None) -> None:
        """So many of its lease are answered, or all."""
        done, self.left = self.left[:samples], [] if samples is None else self.left[samples:]
        self.trained.update(done)
        self.answered += len(done)

    def go_on(self) -> str:
        """Ends its lease and asks for the next one; the order that it gets."""
        self.train()
        self.number += 1
        message = request(self.worker, self.number, epochs=self.epochs)
        order = self.leases.ask(message, self.answered, lockstep=False)
        self.left = [(order.epoch, position) for position in positions(order)]
        return order.order


def train_out(leases: Leases, workers: int, epochs: int, trained: Counter[tuple[int, int]]) -> None:
    """These workers train on all that is left."""
    crew = [Pupil(leases, rank, epochs=epochs, trained=trained) for rank in range(1, workers + 1)]
    while crew:
        crew = [pupil for pupil in crew if pupil.go_on() not in (OVER, REST)]


def handed_on(leases: Leases, answered: dict[int, int]) -> Leases:
    """New leases that go on where these are, by what a file holds of them."""
    position = Position.from_json(Position(0, 0, {}, leases.position(answered)).as_json())
    assert position.leases is not None
    again = Leases(weighted=False, local_steps=1)
    again.go_on(position.leases)
    return again


@settings(max_examples=150, deadline=None)
@given(
    planned=st.integers(1, 4),
    then_planned=st.integers(1, 5),
    then_workers=st.integers(1, 3),
    asked=st.lists(st.integers(1, 3), min_size=1, max_size=70),
    unanswered=st.dictionaries(st.integers(1, 3), st.integers(1, 9)),
    goes=st.none() | st.integers(1, 3),
)
def test_what_was_done_and_what_is_leased_afterwards_is_every_sample_of_every_epoch(
    planned: int, then_planned: int, then_workers: int, asked: list[int],
    unanswered: dict[int, int], goes: int | None,
) -> None:  # fmt: skip
    """Exactly once if all that was leased was answered, and otherwise at least once.

    The second run has as many workers and epochs as it likes.
    """
    leases, trained = Leases(weighted=False, local_steps=1), Counter[tuple[int, int]]()
    crew = {rank: Pupil(leases, rank, epochs=planned, trained=trained) for rank in (1, 2, 3)}
    resting: set[int] = set()
    for rank in asked:
        if rank not in resting and crew[rank].go_on() in (OVER, REST):
            resting.add(rank)
    for rank, pupil in crew.items():
        pupil.train(max(0, len(pupil.left) - unanswered.get(rank, 0)))
    is_all_answered = not any(pupil.left for pupil in crew.values())
    if goes is not None and crew[goes].number:
        crew[goes].leave(0)
    before = Counter(trained)
    again = handed_on(leases, {rank: pupil.answered for rank, pupil in crew.items()})
    assume(again.completed < then_planned)
    train_out(again, then_workers, then_planned, trained)
    wanted = {(e, p) for e in range(1, then_planned + 1) for p in range(SIZE)}
    assert trained.keys() >= wanted
    assert trained.keys() - wanted == before.keys() - wanted  # nothing beyond the last epoch
    if is_all_answered:
        assert set(trained.values()) == {1}
    # An epoch beyond the last one may have been done before one that came earlier.
    assert again.completed >= then_planned


def test_an_epoch_that_was_begun_is_left_where_fewer_are_planned() -> None:
    position = LeasePosition(SIZE, 1, {2: [(50, 60)], 3: [(20, 60)]})
    for planned, left in ((2, {2: 10}), (3, {2: 10, 3: 40}), (4, {2: 10, 3: 40, 4: SIZE})):
        leases, trained = Leases(weighted=False, local_steps=1), Counter[tuple[int, int]]()
        leases.go_on(position)
        pupil = Pupil(leases, 1, epochs=planned, trained=trained)
        pupil.go_on()
        assert leases.left() == left
        train_out(leases, 0, planned, trained)
        while pupil.go_on() != OVER:
            pass
        assert Counter(epoch for epoch, _ in trained) == left


def test_nobody_has_asked_yet_so_a_run_that_goes_on_is_where_the_one_before_was(
    leases: Leases,
) -> None:
    assert leases.position({}) is None
    position = LeasePosition(SIZE, 1, {2: [(10, 60)]})
    leases.go_on(position)
    assert leases.position({}) == position
    assert leases.completed == 1
    assert not leases.in_use


def test_a_position_changes_nothing_of_the_leases_themselves(leases: Leases) -> None:
    first, second = Asker(leases, 1, epochs=2), Asker(leases, 2, epochs=2)
    held = first.ask()
    second.ask()
    for _ in range(2):
        position = leases.position({1: held.count - 4, 2: 0})
    assert position is not None
    assert position.free[1][0] == (held.first + held.count - 4, SIZE)  # all that follows is free
    assert second.ask().first == 2 * held.count  # though nobody gets what is held


def test_other_data_than_those_of_the_checkpoint_are_refused_with_both_numbers(
    leases: Leases,
) -> None:
    leases.go_on(LeasePosition(SIZE, 1, {2: [(10, 60)]}))
    with pytest.raises(PlanMismatchError, match=f"had {SIZE} training samples, got 61"):
        leases.ask(request(1, 1, samples=61, epochs=2), 0, lockstep=False)
    assert leases.ask(request(1, 1, epochs=2), 0, lockstep=False).epoch == 2


def test_where_the_run_before_had_shares_any_data_are_leased_from_its_next_epoch(
    leases: Leases,
) -> None:
    leases.go_on(LeasePosition(0, 3, {}))
    order = leases.ask(request(1, 1, samples=61, epochs=5), 0, lockstep=False)
    assert (order.epoch, order.first) == (4, 0)
    assert leases.left() == {4: 61, 5: 61}
