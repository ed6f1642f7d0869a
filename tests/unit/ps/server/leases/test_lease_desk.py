"""Leases of a run: who gets one, who waits for whom meanwhile, and what counts as trained on."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leash.ps.errors import HeaderError, NotReadyError, PlanMismatchError
from leash.ps.options.plan import LEASE, STATIC
from leash.ps.runs.journal import Granted
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.wire.messages import OVER, REST, RETURN, TRAIN, Lease, Leased, Remember, Report
from leash.ps.wire.shard_messages import Leave
from support.sockless import SocklessServer

SIZE = 24
BATCH = 4


@dataclass
class Office:
    """A desk, the run around it, and its workers' requests, each with its number."""

    server: SocklessServer
    desk: LeaseDesk
    epochs: int = 1
    numbers: Counter[int] = field(default_factory=Counter)

    def ask(self, worker: int, *, lockstep: bool = False, **changes: Any) -> Leased:
        self.numbers[worker] += 1
        request = {"number": self.numbers[worker], "samples": SIZE, "epochs": self.epochs,
                   "batch_size": BATCH, "samples_per_s": 0.0, **changes}  # fmt: skip
        incarnation = self.server.incarnation(worker) if worker else 0
        member = self.server.members.workers[worker] if worker else self.observer
        return self.desk.lease(member, Lease(worker, incarnation, **request), lockstep=lockstep)

    def push(self, worker: int, *samples: int) -> None:
        """Steps with so many samples each."""
        for count in samples:
            step = self.server.metrics.workers[worker].steps + 1
            self.server.push(worker, step, count)

    def leave(self, worker: int, state: str = "evicted", *, lockstep: bool = False) -> None:
        """What the coordinator does, in its order."""
        member = self.server.members.workers[worker]
        self.server.members.leave(member, state)
        self.server.shards.leave(member, state)
        self.desk.release(worker, lockstep=lockstep)

    @property
    def observer(self) -> Any:
        return next(iter(self.server.members.observers.values()))


def make_office(
    policy: str = "ssp", workers: int = 2, *, epochs: int = 1, starts: bool = True, **options: Any
) -> Office:
    server = SocklessServer(policy, workers=workers, **options)
    desk = LeaseDesk(
        server.options, server.rule.policy.name, server.members, server.metrics, server.shards
    )
    if starts:
        server.start()
    return Office(server, desk, epochs)


def positions(order: Leased) -> list[int]:
    return list(range(order.first, order.first + order.count))


# Who gets one.


@pytest.mark.parametrize(
    ("policy", "options", "plan"),
    [
        ("bsp", {}, STATIC),
        ("bsp", {"data_plan": "lease"}, LEASE),
        ("bsp", {"batch_plan": "weighted"}, LEASE),
        ("bsp", {"local_steps": "auto"}, LEASE),
        ("bsp", {"local_steps": "8"}, STATIC),
        ("ssp", {}, LEASE),
        ("asp", {"data_plan": "static"}, STATIC),
    ],
)
def test_workers_of_a_run_with_leases_get_them_and_others_do_not(
    policy: str, options: dict[str, Any], plan: str
) -> None:
    office = make_office(policy, **options)
    assert office.desk.planned == plan
    if plan == LEASE:
        assert office.ask(1).order == TRAIN
    else:
        with pytest.raises(PlanMismatchError, match="fixed shares: --data-plan static"):
            office.ask(1)


def test_the_plan_in_use_is_leases_once_somebody_has_one() -> None:
    """A worker with a share of its own asks for none."""
    office = make_office()
    assert (office.desk.planned, office.desk.data_plan) == (LEASE, STATIC)
    office.ask(2)
    assert office.desk.data_plan == LEASE


def test_an_observer_trains_on_nothing() -> None:
    office = make_office()
    office.server.hello(0)
    with pytest.raises(HeaderError, match="an observer does not train"):
        office.ask(0)
    assert office.desk.data_plan == STATIC


def test_nothing_is_leased_before_the_start_and_the_missing_are_named() -> None:
    office = make_office(workers=30, starts=False)
    office.server.hello(2)
    with pytest.raises(NotReadyError) as refused:
        office.ask(2)
    assert str(refused.value) == "waiting for workers 1, 3-21"


def test_a_request_that_cannot_be_honoured_counts_nobody_out() -> None:
    office = make_office("bsp", data_plan="lease", shards=2)
    with pytest.raises(HeaderError, match="number: expected"):
        office.ask(1, number=7)
    with pytest.raises(HeaderError, match="batch_size: expected"):
        office.ask(2, number=1, batch_size=0)
    assert office.server.counted() == [[1, 2], [1, 2]]
    assert office.server.events.named("left") == []


def test_weighted_batches_follow_the_speeds_that_workers_tell() -> None:
    office = make_office(batch_plan="weighted", epochs=50)
    for worker in (1, 2):
        assert office.ask(worker).batch_size == BATCH
        office.push(worker, BATCH)
    office.ask(1, samples_per_s=300.0)
    office.push(1, BATCH)
    slow = office.ask(2, samples_per_s=100.0)
    office.push(2, *[slow.batch_size] * (slow.count // slow.batch_size))
    fast = office.ask(1, samples_per_s=300.0)
    assert (fast.batch_size, slow.batch_size) == (6, 2)  # together as many as before


@pytest.mark.parametrize(("text", "steps"), [("1", 1), ("3", 3)])
def test_a_lease_says_how_many_local_steps_the_run_has(text: str, steps: int) -> None:
    order = make_office(local_steps=text).ask(1)
    assert (order.local_steps, order.count) == (steps, BATCH * steps)


@pytest.mark.parametrize(("lockstep", "batches"), [(True, [50, 50]), (False, [150, 50])])
def test_in_lockstep_all_lease_as_much_as_the_slowest_has_time_for(
    lockstep: bool, batches: list[int]
) -> None:
    office = make_office("bsp", data_plan="lease")
    for _ in range(9):  # the first leases are short
        orders = [
            office.ask(worker, lockstep=lockstep, samples=100_000, samples_per_s=speed)
            for worker, speed in ((1, 300.0), (2, 100.0))
        ]
    assert [order.count // BATCH for order in orders] == batches  # 2 s of work


def test_a_worker_that_reports_no_epochs_has_those_that_lie_behind_its_leases() -> None:
    office = make_office(epochs=2)
    assert office.desk.planned_epochs is None
    rows = []
    for _ in range(2):
        for worker in (1, 2):
            order = office.ask(worker, batch_size=SIZE // 2)
            rows.append((order.epoch, office.desk.epochs_of(worker)))
            office.push(worker, order.count)
    assert rows == [(1, 0), (1, 0), (2, 1), (2, 1)]
    assert office.desk.planned_epochs == 2
    assert [office.ask(worker).order for worker in (1, 2, 1)] == [REST, OVER, OVER]
    assert [office.desk.epochs_of(worker) for worker in (1, 2)] == [2, 2]


def test_a_worker_that_has_gone_keeps_its_epochs_and_no_more() -> None:
    office = make_office(epochs=3)
    office.ask(2)
    office.leave(2)
    while (order := office.ask(1, batch_size=SIZE)).epoch < 3:
        office.push(1, order.count)
    assert (office.desk.epochs_of(1), office.desk.epochs_of(2)) == (2, 0)


# Rest.


def resting_office(policy: str = "bsp") -> Office:
    """Worker 1 holds the whole epoch; worker 2 has found nothing left of it."""
    office = make_office(policy, data_plan="lease", shards=2)
    assert office.ask(1, batch_size=SIZE).count == SIZE
    assert office.ask(2).order == REST
    return office


def test_nobody_waits_for_a_worker_that_rests_on_any_shard() -> None:
    office = resting_office()
    assert office.server.counted() == [[1], [1]]
    incarnation = office.server.incarnation(2)
    assert office.server.far.told[-1] == Leave(2, incarnation, "resting")
    left = {"worker": 2, "incarnation": incarnation, "reason": "resting"}
    assert office.server.events.named("left") == [left]
    office.push(1, SIZE)
    assert office.server.answered(1) == [1]


def test_one_that_waits_for_a_worker_goes_on_when_that_one_rests() -> None:
    office = make_office("bsp", data_plan="lease", shards=2)
    office.ask(1, batch_size=SIZE)
    office.push(1, SIZE)
    assert office.server.answered(1) == []
    office.ask(2)
    assert office.server.answered(1) == [1]


def test_a_worker_that_rests_is_a_member_and_people_see_that_it_rests() -> None:
    office = resting_office()
    first, second = office.server.members.live
    assert (office.desk.state_of(first), office.desk.state_of(second)) == ("live", "resting")
    office.server.members.leave(second, "done")
    assert office.desk.state_of(second) == "done"


def test_a_worker_that_asks_while_it_rests_is_counted_out_once() -> None:
    office = resting_office()
    for _ in range(3):
        assert office.ask(2).order == REST
    assert len(office.server.events.named("left")) == 1
    assert office.server.metrics.evictions == 0


def test_a_worker_that_rests_is_called_back_when_somebody_goes_and_says_hello_first() -> None:
    office = resting_office()
    office.leave(1)
    assert office.ask(2).order == RETURN
    assert office.server.counted() == [[], []]  # its steps count when it has said hello
    office.leave(2, "replaced")
    office.server.hello(2)
    office.numbers.clear()
    assert positions(office.ask(2, batch_size=SIZE)) == list(range(SIZE))
    assert office.server.counted() == [[2], [2]]


def test_a_worker_that_rests_may_go_and_leaves_nothing() -> None:
    office = resting_office()
    office.leave(2)
    office.push(1, SIZE)
    assert office.ask(1).order == OVER
    assert office.server.metrics.samples_twice == 0


def test_training_is_over_for_all_when_the_last_lease_is_done() -> None:
    office = resting_office()
    office.push(1, SIZE)
    assert office.ask(1).order == OVER
    assert office.ask(2).order == OVER


# Leaving.


def test_what_was_answered_is_done_and_the_rest_goes_to_the_next_that_asks() -> None:
    office = make_office("asp", local_steps="3")
    assert positions(office.ask(1)) == list(range(12))
    office.push(1, BATCH)
    office.leave(1)
    assert positions(office.ask(2)) == list(range(BATCH, 12))


def test_what_was_applied_and_not_answered_is_leased_again_and_counted_as_twice() -> None:
    office = make_office("ssp", bound=1, local_steps="3", shards=2)
    office.ask(1)
    office.push(1, BATCH, BATCH)
    assert office.server.answered(1) == [1]
    office.leave(1)
    assert positions(office.ask(2)) == list(range(BATCH, 12))
    assert office.server.metrics.samples_twice == BATCH


def test_in_lockstep_what_was_not_answered_was_not_applied_and_counts_once() -> None:
    office = make_office("bsp", data_plan="lease", local_steps="3", shards=2)
    office.ask(1, lockstep=True)
    office.push(1, BATCH)
    office.leave(1, lockstep=True)
    assert positions(office.ask(2, lockstep=True)) == list(range(12))
    assert office.server.metrics.samples_twice == 0


def test_samples_of_an_earlier_lease_or_an_earlier_process_are_not_those_of_this_one() -> None:
    office = make_office("asp", epochs=2)
    office.ask(1)
    office.push(1, BATCH)
    office.ask(1)
    office.leave(1)
    office.server.hello(1)
    office.numbers.clear()
    assert positions(office.ask(1)) == list(range(BATCH, 2 * BATCH))
    office.leave(1)
    assert positions(office.ask(2)) == list(range(BATCH, 2 * BATCH))


def test_a_step_that_was_lost_with_its_process_is_not_counted_again_with_the_next() -> None:
    office = make_office("ssp", bound=1, local_steps="3")
    office.ask(1)
    office.push(1, BATCH, BATCH)  # the second waits, and is lost
    office.leave(1)
    for pushed in (0, 1):
        first_step = office.server.hello(1).first_step
        office.numbers.clear()
        assert positions(office.ask(1)) == list(range(BATCH, 12))
        for step in range(first_step, first_step + pushed):
            office.server.push(1, step, BATCH)
        office.leave(1)
        assert office.server.metrics.samples_twice == BATCH
    assert positions(office.ask(2)) == list(range(2 * BATCH, 12))


def test_who_held_nothing_leaves_nothing() -> None:
    office = make_office("asp")
    office.leave(1)
    assert office.ask(2).first == 0
    assert office.server.metrics.samples_twice == 0


# Epochs.


def test_epochs_are_completed_by_leases_whatever_workers_report() -> None:
    office = make_office("asp", epochs=2)
    office.server.metrics.report(
        Report(1, office.server.incarnation(1), "epoch", 2, 1, 1, 0.5, 0.0, 1.0, 1.0)
    )
    office.ask(1, batch_size=SIZE)
    office.desk.complete_epochs()
    assert office.server.metrics.epoch == 0
    office.push(1, SIZE)
    office.ask(1, batch_size=SIZE)  # whoever asks has done what it held
    office.desk.complete_epochs()
    assert office.server.metrics.epoch == 1
    office.push(1, SIZE)
    office.leave(1)  # the last answer was the last thing it got
    office.desk.complete_epochs()
    assert office.server.metrics.epoch == 2


def test_without_leases_epochs_are_completed_by_reports() -> None:
    office = make_office("asp", data_plan="static")
    for worker, completed in ((1, 0), (2, 1)):
        incarnation = office.server.incarnation(worker)
        office.server.metrics.report(
            Report(worker, incarnation, "epoch", 1, 1, 1, 0.5, 0.0, 1.0, 1.0)
        )
        office.desk.complete_epochs()
        assert office.server.metrics.epoch == completed


# All of it together, through the coordinator.

EPOCHS = 2
RANKS = (1, 2, 3)


class Trainee:
    """A worker of a run: it trains on what it is leased, one batch a step."""

    def __init__(self, server: SocklessServer, rank: int) -> None:
        self.server, self.rank = server, rank
        self.applied: Counter[tuple[int, int]] = Counter()  # (epoch, position)
        self.answered: Counter[tuple[int, int]] = Counter()
        self.is_over = False
        self.join()

    def join(self) -> None:
        self.is_here = True
        self.step = self.server.hello(self.rank).first_step - 1
        self.number = 0
        self.todo: list[tuple[int, int]] = []
        self.in_flight: list[tuple[int, int]] = []
        self.batch = 0
        self.since = len(self.server.sent)

    def go_on(self) -> None:
        """Whatever comes next for it, if it need not wait."""
        if self.is_over:
            return
        if not self.is_here:
            self.join()
        self.hear()
        if self.in_flight:
            return
        if self.todo:
            self.push()
        else:
            self.ask()

    def hear(self) -> None:
        if self.step in self.server.answered(self.rank, self.since):
            self.answered.update(self.in_flight)
            self.in_flight = []

    def push(self) -> None:
        self.step += 1
        self.in_flight, self.todo = self.todo[: self.batch], self.todo[self.batch :]
        self.applied.update(self.in_flight)
        self.server.push(self.rank, self.step, len(self.in_flight))

    def ask(self) -> None:
        self.number += 1
        incarnation = self.server.incarnation(self.rank)
        speed = 100.0 * self.rank if self.number > 1 else 0.0
        order = self.server.ask(
            Lease(self.rank, incarnation, self.number, SIZE, EPOCHS, BATCH, speed)
        )
        assert isinstance(order, Leased), order
        if order.order == TRAIN:
            self.batch = order.batch_size
            self.todo = [(order.epoch, p) for p in positions(order)]
        elif order.order == RETURN:
            self.join()
        elif order.order == OVER:
            self.server.bye(self.rank)
            self.is_over = True

    def vanish(self) -> None:
        if self.is_here and not self.is_over:
            self.hear()
            self.server.coordinator.evict(self.rank)
            self.is_here = False


actions = st.lists(st.tuples(st.sampled_from(["go on"] * 5 + ["vanish"]), st.sampled_from(RANKS)))


@given(
    st.sampled_from([("asp", None), ("ssp", 1), ("bsp", None)]), actions, st.sampled_from([1, 2])
)
@settings(max_examples=30)
def test_every_sample_is_trained_on_each_epoch_and_twice_only_if_that_is_counted(
    rule: tuple[str, int | None], actions: list[tuple[str, int]], shards: int
) -> None:
    server = SocklessServer(rule[0], rule[1], workers=3, data_plan="lease", shards=shards)
    trainees = {rank: Trainee(server, rank) for rank in RANKS}
    server.init()
    for action, rank in actions:
        if action == "vanish":
            trainees[rank].vanish()
        else:
            trainees[rank].go_on()
    for _ in range(40 * EPOCHS * SIZE):
        for trainee in trainees.values():
            trainee.go_on()
        if all(trainee.is_over for trainee in trainees.values()):
            break
    assert server.coordinator.finished
    everything = {(epoch, p) for epoch in range(1, EPOCHS + 1) for p in range(SIZE)}
    answered = sum((t.answered for t in trainees.values()), Counter[tuple[int, int]]())
    assert answered == Counter(everything)
    assert server.metrics.epoch == EPOCHS
    applied = sum((t.applied for t in trainees.values()), Counter[tuple[int, int]]())
    twice = 0 if rule[0] == "bsp" else applied.total() - len(everything)
    assert server.metrics.samples_twice == twice


@pytest.mark.parametrize(("number", "holder", "free"), [(1, 1000, 0), (2, 1000, 2), (2, 1001, 0)])
def test_a_lease_whose_answer_was_lost_with_the_server_is_free_again(
    number: int, holder: int, free: int
) -> None:
    """Likewise if the worker speaks of another one, which its next incarnation got."""
    office = make_office(workers=2)
    request = {"samples": SIZE, "epochs": 1, "batch_size": BATCH, "samples_per_s": 0.0}
    changes = [
        Granted(Lease(1, 1000, 1, **request), 0, lockstep=False),
        Granted(Lease(1, 1000, 2, **request), 4, lockstep=False),
    ]
    first = office.desk._no_leases()
    second = [first.ask(change.request, change.answered, lockstep=False) for change in changes][1]
    told = Remember(1, 1002, 0, 0, 0, 2, number, holder)
    office.desk.restore(changes, {1: told})
    position = office.desk.position()
    assert position is not None
    assert position.free[1][0][0] == second.first + free
