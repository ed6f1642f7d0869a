"""Rounds of local steps over slabs, with an exchange that answers at once."""

import copy

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import LeashError, ResyncError
from leash.worker.optim.local_steps import LocalSteps
from leash.worker.optim.slabs import ModelSlabs
from support.exchanges import PromptExchange
from support.gpus import LazyEvent, LazyGpu

OUTER_LR = 0.5


def build() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        out: Tensor = model(torch.linspace(-1, 1 + step, 128).view(8, 16)).square().mean()
        out.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)


def rounds_of(
    model: nn.Module, gpu: LazyGpu | None = None, *, every: int = 3
) -> tuple[LocalSteps, PromptExchange]:
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers(), gpu=gpu)
    if gpu is not None:
        for place in slabs.places:  # on a GPU no tensor is a view of a slab
            place.is_view = False
            place.tensor.data = place.tensor.detach().clone()
    exchange = PromptExchange(slabs.layout, lr=OUTER_LR)
    exchange.start(slabs.parameters)
    return LocalSteps(slabs, exchange, sgd(model), every), exchange


class Stepping(torch.optim.Optimizer):
    """Rounds in the shape of an optimizer, for the loop that torch's own goes through."""

    def __init__(self, rounds: LocalSteps) -> None:
        super().__init__([p for g in rounds.inner.param_groups for p in g["params"]], {})
        self._rounds = rounds

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self._rounds.finish(7)


def in_rounds(model: nn.Module, rounds: int, every: int) -> None:
    """The oracle: each round goes half of the way that torch's own optimizer goes."""
    inner = sgd(model)
    for _ in range(rounds):
        starts = [p.detach().clone() for p in model.parameters()]
        train(model, inner, every)
        with torch.no_grad():
            for start, now in zip(starts, model.parameters(), strict=True):
                now.copy_(start - OUTER_LR * (start - now))


def assert_alike(model: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    for name, mine in model.state_dict().items():
        torch.testing.assert_close(mine, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_round_goes_as_far_as_the_outer_rate_lets_it(on_gpu: bool) -> None:
    """Batch-norm statistics are taken over as values. A GPU copies as late as it may."""
    model = build()
    expected = copy.deepcopy(model)
    rounds, exchange = rounds_of(model, LazyGpu() if on_gpu else None)
    for _ in range(2):
        train(model, Stepping(rounds), 3)
        assert (rounds.pending, exchange.samples) == (0, 21)
        # What was pushed of a buffer is its values.
        assert_equal(exchange.gradients["1.running_mean"], model[1].running_mean)  # type: ignore[index]
    in_rounds(expected, rounds=2, every=3)
    assert_alike(model, expected)


def test_what_the_gpu_still_computes_at_the_end_of_a_round_is_no_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It computes for 100 seconds, and each copy takes one."""
    model, gpu, computed_s = build(), LazyGpu(), [0.0]

    class Computed(LazyEvent):
        def synchronize(self) -> None:
            computed_s[0] = 100.0

    rounds, _ = rounds_of(model, gpu, every=1)
    gpu.mark_compute = lambda: Computed(gpu, 0)  # type: ignore[method-assign]
    clock = "leash.worker.optim.local_steps.time.perf_counter"
    monkeypatch.setattr(clock, lambda: gpu.done + computed_s[0])
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    info = rounds.finish(7)
    assert info is not None
    assert info.wait_s == len([t for t in model.state_dict().values() if t.is_floating_point()])
    assert computed_s == [100.0]


def assert_equal(pushed: object, now: object) -> None:
    assert isinstance(now, Tensor)
    assert torch.equal(torch.as_tensor(pushed), now)


def test_a_model_that_has_left_its_slab_is_copied() -> None:
    model = build()
    expected = copy.deepcopy(model)
    rounds, _ = rounds_of(model)
    with torch.no_grad():
        model[0].weight.data = model[0].weight.detach().clone()  # type: ignore[index]
    for _ in range(2):
        train(model, Stepping(rounds), 3)
    in_rounds(expected, rounds=2, every=3)
    assert_alike(model, expected)


def test_a_graph_of_the_round_before_is_refused_by_backward() -> None:
    """As with every optimizer of torch: the parameters that it needs are others by now."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    rounds, _ = rounds_of(model)
    before = model(torch.ones(2, 4)).sum()
    rounds.begin(1)
    rounds.finish()
    rounds.flush()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        before.backward()


def test_after_a_failure_nothing_goes_on() -> None:
    model = build()
    rounds, exchange = rounds_of(model, every=2)
    train(model, Stepping(rounds), 1)
    exchange.fails_with = ResyncError("a gap", 3)
    with pytest.raises(LeashError, match="a gap"):
        train(model, Stepping(rounds), 1)
    assert rounds.pending == 0  # so that nobody pushes what is half done
    with pytest.raises(LeashError, match="a gap"):
        rounds.finish(1)
    with pytest.raises(LeashError, match="a gap"):
        rounds.flush()
