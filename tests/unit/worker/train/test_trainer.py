"""The loop of a worker, with an optimizer that answers by script and a clock that a test moves."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from leash.ps.errors import NonfiniteError, StoppingError, UsageError
from leash.ps.options.worker import WorkerOptions
from leash.ps.wire.messages import OVER, STOPPED_BY_TIMEOUT, TRAIN, Leased, Report, Welcome
from leash.worker.client.control.doing import Doing
from leash.worker.datasets import Positions, epoch_order, permutation
from leash.worker.datasets.base import Batch
from leash.worker.datasets.memory import InMemoryDataset, StoredSamples
from leash.worker.train.task import Task
from leash.worker.train.trainer import Trainer

SIZE = 10
BATCH = 4  # 4, 4 and 2 in an epoch of the whole split
LR = 0.25
SEED = 5
RANK = 2
WHOLE_SPLIT = permutation(SIZE, 0, 0)
# Seconds, whose sums floats hold exactly.
READ_S, DELAY_S, COMPUTE_S, STRETCH_S, WAIT_S = 1.0, 0.5, 2.0, 0.25, 4.0
STEP_S = READ_S + DELAY_S + COMPUTE_S + STRETCH_S


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    """A trainer seeds torch: other tests shall not notice."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class TinyDataset(InMemoryDataset):
    """Keeps the positions of every batch; to read one takes its time."""

    def __init__(self, clock: Clock, classes: int) -> None:
        made = torch.Generator().manual_seed(1)
        self.x = torch.randn(SIZE, 3, generator=made)
        self.y = torch.arange(SIZE) % classes if classes else torch.randn(SIZE, 2, generator=made)
        samples = StoredSamples(self.x, self.y)
        super().__init__("tiny", samples, None, sample_shape=(3,), classes=classes)
        self.read_s = READ_S
        self.batches: list[list[int]] = []
        self._clock = clock

    @property
    def visited(self) -> list[int]:
        return [position for batch in self.batches for position in batch]

    def train_batches(self, positions: Positions, batch_size: int) -> Iterator[Batch]:
        for start in range(0, len(positions), batch_size):
            batch = positions[start : start + batch_size]
            self._clock.now_s += self.read_s
            self.batches.append(batch.tolist())
            yield next(super().train_batches(batch, batch_size))


class TimedModel(nn.Module):
    """To compute takes its time; keeps torch's seed, and whether it was in training mode."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.0)
        self.compute_s = COMPUTE_S
        self.seen: list[tuple[int, bool]] = []
        self._clock = clock

    def forward(self, x: Tensor) -> Tensor:
        self._clock.now_s += self.compute_s
        self.seen.append((torch.initial_seed(), self.training))
        out: Tensor = self.dropout(self.linear(x))
        return out


@dataclass
class FakeStraggler:
    """Takes its time before a step and after computing, and keeps what it was told."""

    clock: Clock
    delay_s: float = DELAY_S
    stretch_s: float = STRETCH_S
    complains: str | None = None
    told: list[tuple[float, int]] = field(default_factory=list)

    def before_step(self) -> None:
        self.clock.now_s += self.delay_s

    def after_compute(self, compute_s: float, samples: int) -> None:
        self.told.append((compute_s, samples))
        self.clock.now_s += self.stretch_s

    def complaint(self) -> str | None:
        return self.complains


@dataclass
class FakeClient:
    doing = Doing()
    """Of a client, what a trainer uses: leases by script, and reports are kept."""

    settings: dict[str, Any]
    leases: list[Leased]
    welcome: Welcome
    rank: int
    incarnation: int = 7
    steps: int = 0
    deadline_s: float = 0.0
    reports: list[Report] = field(default_factory=list)  # but for those of its plan
    plans: list[Report] = field(default_factory=list)
    asked: list[tuple[float, ...]] = field(default_factory=list)

    def report(self, report: Report) -> None:
        (self.plans if report.kind == "plan" else self.reports).append(report)

    def lease(self, *request: float) -> Leased:
        self.asked.append(request)
        return self.leases.pop(0)


@torch.no_grad()
def descend(model: nn.Module) -> None:
    """A step of plain sgd. Not torch's own, whose first call imports its compiler for seconds."""
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.sub_(LR * parameter.grad)


class FakeOptimizer:
    """In the shape of PSOptimizer: plain sgd, whose every push waits for an answer.

    As there, steps that have not been pushed are lost when it says hello again.
    """

    def __init__(self, model: nn.Module, client: FakeClient, clock: Clock) -> None:
        self.client = client
        self.local_steps = 1
        self.pending_steps = 0
        self.wait_seconds = 0.0
        self.evictions = 0
        self.wait_s = WAIT_S
        self.begun: list[int] = []  # the samples of each step
        self.closed: list[str] = []  # the reasons of its byes
        self.at_step: dict[int, Callable[[], None]] = {}  # what happens instead of its push
        self._model = model
        self._clock = clock

    def zero_grad(self) -> None:
        self._model.zero_grad()

    def begin_step(self, *, samples: int) -> None:
        self.begun.append(samples)

    def step(self) -> None:
        descend(self._model)
        self.wait_seconds = 0.0
        self.pending_steps += 1
        if len(self.begun) in self.at_step:
            self.at_step[len(self.begun)]()
        elif self.pending_steps >= self.local_steps:
            self._push()

    def flush(self) -> None:
        assert self.pending_steps
        self._push()

    def _push(self) -> None:
        self._clock.now_s += self.wait_s
        self.wait_seconds = self.wait_s
        self.client.steps += 1
        self.pending_steps = 0

    def rejoin(self, *, evicted: bool = False) -> None:
        self.evictions += evicted
        self.client.incarnation += 1
        self.pending_steps = 0

    def close(self, reason: str) -> None:
        self.closed.append(reason)


@dataclass
class Training:
    """A trainer, and everything around it."""

    trainer: Trainer
    clock: Clock
    dataset: TinyDataset
    model: TimedModel
    start: TimedModel  # the model as it was before
    straggler: FakeStraggler
    optimizer: FakeOptimizer
    client: FakeClient
    said: list[str]

    def run(self) -> int:
        return self.trainer.run()


def make_training(
    *,
    share: Positions = WHOLE_SPLIT,
    leases: list[Leased] | None = None,
    epochs: int = 2,
    completed: int = 0,
    samples: int = 0,
    told_share: int = 0,
    local_steps: str = "1",
    seed: int = SEED,
    rank: int = RANK,
    classes: int = 2,
    prompt: bool = False,
    **options: Any,
) -> Training:
    """
    Args:
        share: of the samples.
        leases: instead of a share; behind them comes the order that all is over.
        completed: epochs of its share, when this worker joins the run.
        samples: of the next one, likewise.
        told_share: how many samples an epoch of it had, as the server says.
        prompt: nothing takes any time.
    """
    clock = Clock()
    model, dataset = TimedModel(clock), TinyDataset(clock, classes)
    straggler = FakeStraggler(clock)
    orders = [*(leases or []), Leased(rank, 0, OVER, 0, 0, 0, 0, 0)]
    welcome = Welcome(
        rank, 7, 1, 65536, 16, [5001], 1.0, 5.0, {}, epochs=completed, samples=samples,
        share=told_share,
    )  # fmt: skip
    client = FakeClient({"seed": seed, "local_steps": local_steps}, orders, welcome, rank)
    optimizer = FakeOptimizer(model, client, clock)
    if prompt:
        dataset.read_s = model.compute_s = straggler.delay_s = straggler.stretch_s = 0.0
        optimizer.wait_s = 0.0
    said: list[str] = []
    trainer = Trainer(
        WorkerOptions(rank=rank, batch_size=BATCH, **options),
        Task("linear", "tiny", None, epochs, seed, (1, rank)),
        dataset, share if leases is None else None, model,
        optimizer, straggler, said.append, clock,  # type: ignore[arg-type]
    )  # fmt: skip
    start = copy.deepcopy(model)
    return Training(trainer, clock, dataset, model, start, straggler, optimizer, client, said)


def lease(first: int, count: int, *, epoch: int = 1, local_steps: int = 1) -> Leased:
    return Leased(RANK, 1, TRAIN, epoch, first, count, BATCH, local_steps)


def losses_of(training: Training, batches: list[list[int]]) -> list[float]:
    """The oracle: a plain loop over these batches, from the same start."""
    model, data = training.start.linear, training.dataset
    losses = []
    for batch in batches:
        model.zero_grad()
        loss = (F.cross_entropy if data.classes else F.mse_loss)(
            model(data.x[batch]), data.y[batch]
        )
        loss.backward()  # type: ignore[no-untyped-call]
        descend(model)
        losses.append(loss.item())
    return losses


def mean(losses: list[float], samples: list[int]) -> float:
    return sum(x * n for x, n in zip(losses, samples, strict=True)) / sum(samples)


def raising(error: BaseException) -> Callable[[], None]:
    def throw() -> None:
        raise error

    return throw


# What it trains on.


def test_a_share_is_visited_once_an_epoch_in_batches_and_in_the_order_of_that_epoch() -> None:
    share = WHOLE_SPLIT[:7]
    training = make_training(share=share)
    assert training.run() == 0
    batches = training.dataset.batches
    assert [len(batch) for batch in batches] == [4, 3, 4, 3]
    for epoch, of_epoch in ((1, batches[:2]), (2, batches[2:])):
        order = epoch_order(share, SEED, RANK, epoch).tolist()
        assert of_epoch == [order[:4], order[4:]]
    assert batches[0] != batches[2]


@pytest.mark.parametrize("classes", [2, 0])
def test_parameters_and_losses_are_those_of_a_plain_loop(classes: int) -> None:
    """Without classes it is a regression, whose loss is another."""
    training = make_training(classes=classes)
    training.run()
    losses = losses_of(training, training.dataset.batches)
    expected = [mean(losses[:3], [4, 4, 2]), mean(losses[3:], [4, 4, 2])]
    assert training.trainer.totals.loss_by_epoch == pytest.approx(expected, rel=1e-6)
    assert torch.equal(training.model.linear.weight, training.start.linear.weight)
    assert torch.equal(training.model.linear.bias, training.start.linear.bias)


def test_every_step_weighs_what_its_batch_has() -> None:
    training = make_training()
    training.run()
    assert training.optimizer.begun == [4, 4, 2, 4, 4, 2]
    totals = training.trainer.totals
    assert (totals.steps, totals.local_steps, totals.samples) == (6, 6, 2 * SIZE)


@pytest.mark.parametrize("size", range(1, 11))
def test_drop_last_leaves_out_what_fills_no_batch(size: int) -> None:
    share, leases = WHOLE_SPLIT[:size], [lease(0, size)]
    kept = size - size % BATCH
    for training in (
        make_training(share=share, epochs=1, drop_last=True),
        make_training(leases=leases, epochs=1, drop_last=True),
    ):
        training.run()
        assert training.optimizer.begun == [BATCH] * (kept // BATCH)


@pytest.mark.parametrize(
    ("samples", "drop_last"),
    [(0, False), (4, False), (8, False), (10, False), (4, True), (8, True)],
)
def test_one_that_takes_anothers_place_goes_on_where_that_rank_was(
    samples: int, drop_last: bool
) -> None:
    share = SIZE - SIZE % BATCH if drop_last else SIZE
    epochs, samples = 2 + samples // share, samples % share
    training = make_training(
        epochs=4, completed=epochs, samples=samples, told_share=share, drop_last=drop_last
    )
    training.run()
    orders = {epoch: epoch_order(WHOLE_SPLIT, SEED, RANK, epoch).tolist() for epoch in (3, 4)}
    expected = orders[3][samples:share] + orders[4][:share] if epochs == 2 else orders[4][:share]
    assert training.dataset.visited == expected
    told = [report.epoch for report in training.client.reports if report.kind == "epoch"]
    assert told == [3, 4][epochs - 2 :]
    assert len(training.said) == len(told)  # nothing but its epochs


def test_other_data_than_those_of_the_run_that_goes_on_are_refused() -> None:
    training = make_training(epochs=3, completed=1, samples=4, told_share=SIZE + 2)
    with pytest.raises(UsageError, match="had 12 samples in the run that goes on here, and has 10"):
        training.run()
    assert training.dataset.visited == []
    assert training.optimizer.closed == ["failed"]


def test_one_that_comes_when_all_epochs_are_done_trains_on_nothing_and_is_done() -> None:
    training = make_training(epochs=2, completed=2)
    assert training.run() == 0
    assert not training.dataset.batches
    assert not training.client.reports
    assert not training.said
    assert training.optimizer.closed == ["done"]


def test_leases_are_trained_on_in_their_order_and_epochs_end_when_one_of_the_next_comes() -> None:
    leases = [lease(0, 4), lease(8, 2), lease(0, 5, epoch=2)]
    training = make_training(leases=leases)
    training.run()
    first, second = (permutation(SIZE, SEED, epoch).tolist() for epoch in (1, 2))
    batches = [first[0:4], first[8:10], second[0:4], second[4:5]]
    assert training.dataset.batches == batches
    losses = losses_of(training, batches)
    expected = [mean(losses[:2], [4, 2]), mean(losses[2:], [4, 1])]
    assert training.trainer.totals.loss_by_epoch == pytest.approx(expected, rel=1e-6)
    kinds = [(report.kind, report.epoch) for report in training.client.reports]
    assert [kind for kind in kinds if kind[0] == "epoch"] == [("epoch", 1), ("epoch", 2)]


def test_the_speed_that_a_lease_is_asked_with_is_that_of_computing_alone() -> None:
    training = make_training(leases=[lease(0, 4), lease(4, 4)])
    training.run()
    asked = [(SIZE, 2, BATCH, speed) for speed in (0.0, BATCH / STEP_S, BATCH / STEP_S)]
    assert training.client.asked == asked


# Time.


def test_a_step_computes_while_it_reads_sleeps_and_computes_and_waits_for_its_answer() -> None:
    training = make_training(epochs=1)
    training.run()
    assert training.trainer.totals.compute_s == 3 * STEP_S
    assert training.trainer.totals.wait_s == 3 * WAIT_S
    assert training.clock.now_s == 100.0 + 3 * (STEP_S + WAIT_S)
    assert training.said == [
        f"epoch 1: loss {training.trainer.totals.loss_by_epoch[0]:.4f}, "
        f"waiting {100 * WAIT_S / (WAIT_S + STEP_S):.0f} % of its time so far"
    ]


def test_slowness_is_made_of_what_the_step_itself_computed() -> None:
    """Neither reading nor the delay is stretched."""
    training = make_training(epochs=1)
    training.run()
    assert training.straggler.told == [(COMPUTE_S, 4), (COMPUTE_S, 4), (COMPUTE_S, 2)]


def test_what_passes_between_two_steps_is_nobodys_computing() -> None:
    training = make_training(epochs=1)
    report = training.client.report

    def report_slowly(message: Report) -> None:
        training.clock.now_s += 1000.0
        report(message)

    training.client.report = report_slowly  # type: ignore[assignment, method-assign]
    training.run()
    assert training.trainer.totals.compute_s == 3 * STEP_S


@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(None, math.inf), (8.0, 108.0)])
def test_a_workers_own_time_begins_when_it_is_made(
    timeout_s: float | None, deadline_s: float
) -> None:
    assert make_training(timeout_s=timeout_s).client.deadline_s == deadline_s


# Local steps.


def test_a_share_ends_with_a_push_of_the_local_steps_that_are_left() -> None:
    training = make_training(local_steps="2", epochs=2)
    training.run()
    totals = training.trainer.totals
    assert (totals.local_steps, totals.steps, training.client.steps) == (6, 4, 4)
    assert totals.compute_s == 6 * STEP_S
    assert totals.wait_s == 4 * WAIT_S
    assert training.optimizer.pending_steps == 0


def test_a_share_whose_steps_are_all_pushed_is_not_pushed_again() -> None:
    training = make_training(local_steps="3", epochs=1)
    training.run()
    assert training.trainer.totals.steps == training.client.steps == 1


def test_a_fixed_share_with_as_many_local_steps_as_suit_all_has_one() -> None:
    """Nobody measures it."""
    training = make_training(local_steps="auto", epochs=1)
    training.run()
    assert training.trainer.totals.steps == 3


def test_each_lease_says_how_many_local_steps_it_has() -> None:
    training = make_training(
        leases=[lease(0, 8, local_steps=2), lease(8, 2, local_steps=3)], local_steps="auto"
    )
    training.run()
    assert training.trainer.totals.steps == training.client.steps == 2
    assert training.trainer.totals.local_steps == 3


# Being left behind.


def left_behind_at(step: int, **more: Any) -> Training:
    training = make_training(leases=[lease(0, 10), lease(4, 6)], epochs=1, **more)

    def is_left_behind() -> None:
        training.clock.now_s += 500.0  # it slept, or its host did
        training.optimizer.rejoin(evicted=True)

    training.optimizer.at_step[step] = is_left_behind
    return training


def test_one_that_is_left_behind_gives_up_its_lease_and_asks_for_another() -> None:
    training = left_behind_at(2)
    assert training.run() == 0
    order = permutation(SIZE, SEED, 1).tolist()
    assert training.dataset.batches == [order[0:4], order[4:8], order[4:8], order[8:10]]
    assert training.optimizer.closed == ["done"]


def test_the_step_in_which_it_was_left_behind_says_nothing_of_its_speed() -> None:
    training = left_behind_at(2)
    training.run()
    assert training.client.asked[1][-1] == BATCH / STEP_S


def test_local_steps_of_a_lease_that_was_lost_are_not_pushed() -> None:
    training = left_behind_at(1)
    training.client.leases[0] = lease(0, 10, local_steps=3)
    training.run()
    assert training.client.steps == 2  # of the second lease, a push for each of its batches


def test_reports_are_signed_with_the_incarnation_that_it_has_by_then() -> None:
    training = left_behind_at(2)
    training.run()
    assert [report.incarnation for report in training.client.reports] == [7, 8, 8, 8, 8]


def test_the_seconds_that_it_reports_begin_at_0_with_each_incarnation() -> None:
    training = left_behind_at(2)
    training.run()
    totals, reports = training.trainer.totals, training.client.reports
    of_each = {report.incarnation: (report.compute_s, report.wait_s) for report in reports}
    assert of_each[7] == (STEP_S, WAIT_S)  # its first step: of the second it had not told yet
    told = [sum(parts) for parts in zip(*of_each.values(), strict=True)]
    assert told == [totals.compute_s, totals.wait_s]


def left_behind_in_a_share_at(step: int, local_steps: str = "1") -> Training:
    training = make_training(epochs=1, local_steps=local_steps)
    training.optimizer.at_step[step] = lambda: training.optimizer.rejoin(evicted=True)
    training.run()
    return training


def batches_of_the_epoch() -> list[list[int]]:
    """Of the whole split, if nothing is lost."""
    order = epoch_order(WHOLE_SPLIT, SEED, RANK, 1).tolist()
    return [order[first : first + BATCH] for first in range(0, SIZE, BATCH)]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_step_of_a_fixed_share_that_was_lost_is_taken_again_next(step: int) -> None:
    training, whole = left_behind_in_a_share_at(step), batches_of_the_epoch()
    assert training.dataset.batches == whole[:step] + whole[step - 1 :]
    assert [report.epoch for report in training.client.reports if report.kind == "epoch"] == [1]


@pytest.mark.parametrize(("step", "first_lost"), [(1, 0), (2, 0), (3, 2)])
def test_all_local_steps_of_a_round_that_was_lost_are_taken_again(
    step: int, first_lost: int
) -> None:
    training, whole = left_behind_in_a_share_at(step, local_steps="2"), batches_of_the_epoch()
    assert training.dataset.batches == whole[:step] + whole[first_lost:]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, SIZE),
    local_steps=st.integers(1, 4),
    begins_at=st.integers(0, 2),
    lost_at=st.sets(st.integers(1, 12), max_size=5),
)
def test_whatever_is_lost_every_sample_is_pushed_once_an_epoch(
    size: int, local_steps: int, begins_at: int, lost_at: set[int]
) -> None:
    share, samples = WHOLE_SPLIT[:size], min(begins_at * BATCH, size - 1)
    training = make_training(
        share=share, epochs=2, samples=samples, told_share=size, local_steps=str(local_steps),
        prompt=True,
    )  # fmt: skip
    optimizer, pushed = training.optimizer, list[int]()
    push = optimizer._push

    def push_and_note() -> None:
        of_round = training.dataset.batches[-optimizer.pending_steps :]
        pushed.extend(position for batch in of_round for position in batch)
        push()

    for step in lost_at:
        optimizer.at_step[step] = lambda: optimizer.rejoin(evicted=True)
    optimizer._push = push_and_note  # type: ignore[method-assign]
    training.run()
    orders = [epoch_order(share, SEED, RANK, epoch).tolist() for epoch in (1, 2)]
    assert pushed == orders[0][samples:] + orders[1]


def test_the_last_round_of_a_share_is_taken_again_too_if_its_push_was_lost() -> None:
    training = make_training(epochs=1, local_steps="5")
    push, pushes = training.optimizer._push, []

    def lose_the_first() -> None:
        pushes.append(training.optimizer.pending_steps)
        if len(pushes) == 1:
            training.optimizer.rejoin(evicted=True)
        else:
            push()

    training.optimizer._push = lose_the_first  # type: ignore[method-assign]
    training.run()
    assert training.dataset.batches[3:] == training.dataset.batches[:3]


def test_a_worker_with_a_share_tells_its_plan_first_and_one_with_leases_has_none() -> None:
    training = make_training(epochs=5, completed=3)
    training.run()
    (plan,) = training.client.plans
    assert (plan.worker, plan.incarnation, plan.epoch, plan.samples) == (RANK, 7, 5, SIZE)
    leasing = make_training(leases=[lease(0, 4)])
    leasing.run()
    assert not leasing.client.plans


# Reports.


def test_an_epoch_is_reported_when_it_ends_and_training_while_it_goes_on() -> None:
    training = make_training()
    training.run()
    reports = training.client.reports
    kinds = [(report.kind, report.epoch) for report in reports]
    assert kinds == [("training", 0)] * 3 + [("epoch", 1)] + [("training", 1)] * 3 + [("epoch", 2)]
    losses = losses_of(training, training.dataset.batches)
    told = [report.loss for report in reports if report.kind == "training"]
    assert told == pytest.approx(losses, rel=1e-6)
    second = reports[1]
    assert (second.worker, second.incarnation, second.step, second.samples) == (RANK, 7, 2, 8)
    assert (second.accuracy, second.compute_s, second.wait_s) == (0.0, 2 * STEP_S, 2 * WAIT_S)


def test_an_epoch_whose_steps_are_all_reported_has_no_loss_to_add() -> None:
    training = make_training(epochs=1)
    training.run()
    assert math.isnan(training.client.reports[-1].loss)


def test_training_is_reported_four_times_a_second_with_its_mean_loss_since_then() -> None:
    training = make_training(prompt=True, epochs=1)
    training.model.compute_s = 0.125
    training.run()
    reports = training.client.reports  # after 0.125, 0.25 and 0.375 s
    assert [(report.kind, report.step) for report in reports] == [
        ("training", 1), ("training", 3), ("epoch", 3),
    ]  # fmt: skip
    losses = losses_of(training, training.dataset.batches)
    assert reports[0].loss == pytest.approx(losses[0])
    assert reports[1].loss == pytest.approx(mean(losses[1:], [4, 2]))


def test_an_epoch_tells_the_loss_of_the_steps_that_no_report_has_told_yet() -> None:
    training = make_training(prompt=True, epochs=1)
    training.run()
    first, last = training.client.reports
    losses = losses_of(training, training.dataset.batches)
    assert (first.kind, last.kind) == ("training", "epoch")
    assert last.loss == pytest.approx(mean(losses[1:], [4, 2]))


@pytest.mark.parametrize("broken", [math.nan, 1e30])
def test_a_loss_that_is_no_number_is_told_as_none_and_spoils_no_later_epoch(broken: float) -> None:
    """The square of 1e30 is beyond the numbers of 32 bits; no report may say infinite."""
    training = make_training(prompt=True, classes=0)
    values = training.dataset.x.clone()

    def mend() -> None:
        training.dataset.x.copy_(values)
        with torch.no_grad():
            training.model.linear.weight.fill_(0.5)
            training.model.linear.bias.fill_(0.5)

    training.dataset.x.fill_(broken)
    training.optimizer.at_step[3] = mend
    training.run()
    first, second = training.trainer.totals.loss_by_epoch
    assert math.isnan(first)
    assert math.isfinite(second)
    assert math.isnan(training.client.reports[0].loss)


# Dropout.


def seeds_of(steps: int = 0, **changes: Any) -> list[int]:
    """Torch's seed in each step of an epoch, of a worker that has pushed so many before."""
    training = make_training(epochs=1, **changes)
    training.client.steps = steps
    training.run()
    return [seed for seed, _ in training.model.seen]


def test_dropout_is_another_for_every_worker_seed_and_step_and_the_same_in_every_run() -> None:
    seeds = {(seed, rank): seeds_of(seed=seed, rank=rank) for seed in (0, 1, 2) for rank in (2, 3)}
    together = [seed for of_one in seeds.values() for seed in of_one]
    assert len(set(together)) == len(together) == 3 * len(seeds)
    assert seeds[1, 3] == seeds_of(seed=1, rank=3)
    # The model's first values come from the seed itself.
    assert not set(together) & {0, 1, 2}


def test_a_run_that_goes_on_after_a_step_has_the_dropout_of_one_that_never_ended() -> None:
    whole = seeds_of()
    assert seeds_of(steps=1, samples=4, told_share=SIZE) == whole[1:]
    assert seeds_of(steps=2, samples=8, told_share=SIZE) == whole[2:]


def test_every_local_step_has_a_dropout_of_its_own() -> None:
    seeds = seeds_of(local_steps="2")
    assert len(set(seeds)) == 3
    assert seeds_of(steps=1, samples=8, told_share=SIZE, local_steps="2") == seeds[2:]


def test_a_step_that_is_taken_again_after_an_eviction_has_the_dropout_of_its_new_number() -> None:
    training = left_behind_in_a_share_at(2)
    seeds = [seed for seed, _ in training.model.seen]
    # The lost step was never pushed, so the server counts the next one in its place.
    assert seeds[2] == seeds[1]
    assert len(set(seeds)) == 3


def mask(seed: int, rank: int, step: int) -> list[bool]:
    """Which of 64 values the first step of a trainer keeps, after so many pushes."""
    training = make_training(epochs=1, seed=seed, rank=rank)
    kept: list[list[bool]] = []
    forward = training.model.forward

    def forward_and_drop(x: Tensor) -> Tensor:
        kept.append(F.dropout(torch.ones(64)).bool().tolist())
        return forward(x)

    training.model.forward = forward_and_drop  # type: ignore[method-assign]
    training.client.steps = step - 1
    training.run()
    return kept[0]


def test_the_same_seed_rank_and_step_drop_the_same_and_any_other_drops_otherwise() -> None:
    assert mask(1, 2, 3) == mask(1, 2, 3)
    others = [mask(1, 2, 4), mask(1, 3, 3), mask(2, 2, 3)]
    assert mask(1, 2, 3) not in others
    assert all(any(kept) and not all(kept) for kept in others)


def test_a_model_that_was_evaluated_is_trained_in_training_mode() -> None:
    training = make_training(epochs=1)
    training.model.eval()
    training.run()
    assert {is_training for _, is_training in training.model.seen} == {True}


# The end.


def test_a_worker_that_comes_to_its_end_is_done_and_has_reported_all_before() -> None:
    training = make_training()
    told_before: list[int] = []
    close = training.optimizer.close

    def close_and_note(reason: str) -> None:
        told_before.append(len(training.client.reports))
        close(reason)

    training.optimizer.close = close_and_note  # type: ignore[method-assign]
    assert training.run() == 0
    assert training.optimizer.closed == ["done"]
    assert told_before == [8]


def test_a_worker_whose_time_is_over_is_not_done(tmp_path: Path) -> None:
    training = make_training(save_path=str(tmp_path))
    training.optimizer.at_step[5] = raising(StoppingError(STOPPED_BY_TIMEOUT))
    assert training.run() == 0
    assert training.optimizer.closed == ["timeout"]
    assert training.said[-1] == "the time is over"
    saved = json.loads((tmp_path / "worker-2.json").read_text("utf-8"))
    assert saved["steps"] == 4
    assert len(saved["loss_by_epoch"]) == 1  # the second epoch has no end


@pytest.mark.parametrize(
    ("told", "said"),
    [("stopped", "stopped by leash stop"), ("stopped: too dear", "stopped: too dear")],
)
def test_a_worker_whose_run_somebody_has_stopped_ends_well(told: str, said: str) -> None:
    training = make_training()
    training.optimizer.at_step[5] = raising(StoppingError(told))
    assert training.run() == 0
    assert training.optimizer.closed == ["stopped"]
    assert training.said[-1] == said


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StoppingError("SIGTERM"), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (SystemExit(143), "stopped"),
        (NonfiniteError("a NaN"), "failed"),
        (RuntimeError("CUDA out of memory"), "failed"),
    ],
)
@pytest.mark.parametrize("where", ["step", "reading"])
def test_whatever_ends_a_worker_its_server_hears_why_and_nothing_is_saved(
    where: str, error: BaseException, reason: str, tmp_path: Path
) -> None:
    training = make_training(save_path=str(tmp_path))
    if where == "step":
        training.optimizer.at_step[2] = raising(error)
    else:
        training.dataset.train_batches = lambda *_: raising(error)()  # type: ignore
    with pytest.raises(type(error)) as raised:
        training.run()
    assert raised.value is error
    assert training.optimizer.closed == [reason]
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_was_too_slow_for_its_time_scale_says_so_in_the_end() -> None:
    training = make_training(epochs=1)
    training.straggler.complains = "--time-scale 0.1: this worker computes too long"
    training.run()
    assert training.said[-1] == training.straggler.complains
    assert len(training.said) == 2


def test_what_a_worker_did_is_saved_with_the_parameters_that_it_ended_with(tmp_path: Path) -> None:
    training = make_training(local_steps="2", save_path=str(tmp_path / "deep" / "down"))
    training.optimizer.evictions = 3
    training.run()
    folder = tmp_path / "deep" / "down"
    assert json.loads((folder / "worker-2.json").read_text("utf-8")) == {
        "rank": RANK,
        "model": "linear",
        "dataset": "tiny",
        "steps": 4,
        "local_steps": 6,
        "samples": 2 * SIZE,
        "loss_by_epoch": training.trainer.totals.loss_by_epoch,
        "compute_seconds": 6 * STEP_S,
        "wait_seconds": 4 * WAIT_S,
        "evictions": 3,
    }
    saved = load_file(folder / "worker-2.safetensors")
    state = training.model.state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)


def test_a_loss_that_is_no_number_is_saved_as_null(tmp_path: Path) -> None:
    training = make_training(epochs=1, save_path=str(tmp_path))
    training.dataset.x.fill_(math.nan)
    training.run()
    saved = json.loads((tmp_path / "worker-2.json").read_text("utf-8"))
    assert saved["loss_by_epoch"] == [None]
