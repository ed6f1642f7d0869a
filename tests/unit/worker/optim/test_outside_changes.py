"""Changes of parameters outside step(): each way to make one is noticed, and nothing else is."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.worker.optim.local_steps import LocalSteps
from leash.worker.optim.outside_changes import OUTSIDE_PARTS
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.optim.streaming import StepStream
from support.exchanges import PromptExchange
from support.gpus import LazyGpu

Change = Callable[[nn.Module], Any]


def build() -> nn.Sequential:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 300))


def stream_of(model: nn.Module, gpu: LazyGpu | None = None, *, overlap: bool = False) -> StepStream:
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers(), gpu=gpu)
    if gpu is not None:
        for place in slabs.places:  # on a GPU no tensor is a view of a slab
            place.is_view = False
            place.tensor.data = place.tensor.detach().clone()
    exchange = PromptExchange(slabs.layout, lr=0.1)
    exchange.start(slabs.parameters)
    return StepStream(slabs, exchange, overlap=overlap)


def backward(model: nn.Module) -> None:
    out: Tensor = model(torch.linspace(-1, 1, 64).view(8, 8))
    out.square().mean().backward()  # type: ignore[no-untyped-call]


def step(model: nn.Module, stream: StepStream) -> None:
    model.zero_grad()
    stream.begin(8)
    backward(model)
    stream.finish()


def weight(model: nn.Module) -> nn.Parameter:
    return model.get_parameter("3.weight")


@torch.no_grad()
def clamped(model: nn.Module) -> None:
    weight(model).clamp_(-0.01, 0.01)


def loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()})


@torch.no_grad()
def masked(model: nn.Module) -> None:
    weight(model)[0] = 0


def from_a_vector(model: nn.Module) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0.5, model.parameters())


def other_memory(model: nn.Module) -> None:
    weight(model).data = weight(model).data * 0.5


def set_by_init(model: nn.Module) -> None:
    nn.init.ones_(weight(model))


CHANGES: list[Change] = [clamped, loaded, masked, from_a_vector, other_memory, set_by_init]
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
everywhere = pytest.mark.parametrize("on_gpu", [False, True], ids=["view", "copied"])


@every_change
@everywhere
@pytest.mark.parametrize("overlap", [False, True])
def test_a_change_between_two_steps_is_an_error_that_names_the_ways_out(
    change: Change, on_gpu: bool, overlap: bool
) -> None:
    model = build()
    stream = stream_of(model, LazyGpu() if on_gpu else None, overlap=overlap)
    step(model, stream)
    change(model)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"publish\(\).*inner=.*clamp=") as told:
            stream.begin(8)
    assert ".weight was changed outside step()" in str(told.value)


@every_change
@everywhere
def test_a_change_between_begin_and_finish_is_one_too(change: Change, on_gpu: bool) -> None:
    model = build()
    stream = stream_of(model, LazyGpu() if on_gpu else None)
    stream.begin(8)
    backward(model)
    change(model)
    with pytest.raises(UsageError, match="changed outside"):
        stream.finish()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("index", [0, 1, 2399, 4799])
@everywhere
def test_a_write_through_data_is_found_within_as_many_steps_as_there_are_parts(
    dtype: torch.dtype, index: int, on_gpu: bool
) -> None:
    model = build().to(dtype)
    slabs = ModelSlabs(model.named_parameters())
    for place in slabs.places if on_gpu else ():
        place.is_view = False
        place.tensor.data = place.tensor.detach().clone()
    stream = StepStream(slabs, Echo(slabs), overlap=False)
    stream.finish()
    weight(model).data.view(-1)[index] += 1
    kept = weight(model).data.clone()

    def steps_with_a_hook() -> None:
        for _ in range(OUTSIDE_PARTS):
            stream.finish()
            weight(model).data.copy_(kept)

    with pytest.raises(UsageError, match=r"3\.weight was changed"):
        steps_with_a_hook()


class Echo(PromptExchange):
    """Answers every step with the parameters that the worker began with."""

    def __init__(self, slabs: ModelSlabs) -> None:
        super().__init__(slabs.layout)
        self.start(slabs.parameters)


@everywhere
@pytest.mark.parametrize("overlap", [False, True])
def test_nothing_else_is_taken_for_a_change(on_gpu: bool, overlap: bool) -> None:
    """Buffers change in every forward pass; frozen layers, moved memory and steps are no change."""
    model = build()
    stream = stream_of(model, LazyGpu() if on_gpu else None, overlap=overlap)
    for number in range(OUTSIDE_PARTS + 2):
        step(model, stream)
        model[0].requires_grad_(number % 3 > 0)
        if number % 5 == 0:
            weight(model).data = weight(model).data.clone()
        model.get_buffer("1.running_mean").mul_(0.5)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_that_was_converted_is_an_error_until_it_is_converted_back(
    dtype: torch.dtype, overlap: bool
) -> None:
    model = build()
    stream = stream_of(model, overlap=overlap)
    step(model, stream)
    kept = copy.deepcopy(model.state_dict())
    model.to(dtype)
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"0\.weight was converted to {dtype}"):
            stream.begin(8)
    model.to(torch.float32).load_state_dict(kept)
    model.zero_grad()
    with pytest.raises(UsageError, match="publish"):  # what was loaded was a change
        stream.begin(8)


@pytest.mark.parametrize("overlap", [False, True])
def test_an_exchange_of_memory_between_two_parameters_is_an_error(overlap: bool) -> None:
    """Their values are the same, so that nothing else shows it."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].load_state_dict(model[0].state_dict())
    stream = stream_of(model, overlap=overlap)
    one, other = model[0].weight, model[1].weight
    one.data, other.data = other.data, one.data
    with pytest.raises(UsageError, match=r"0\.weight was given the memory of another parameter"):
        stream.begin(1)


@everywhere
def test_after_a_reload_the_values_count_and_gradients_are_still_there(on_gpu: bool) -> None:
    model = build()
    stream = stream_of(model, LazyGpu() if on_gpu else None)
    step(model, stream)
    stream.begin(8)
    backward(model)
    clamped(model)
    gradient = weight(model).grad
    assert gradient is not None
    before = gradient.clone()

    def pull(slab: Any) -> int:
        slab.view("f4")[:] = 0.25
        return 1

    stream.reload(pull)
    assert (weight(model) == 0.25).all()
    assert weight(model).grad is not None
    assert torch.equal(weight(model).grad, before)
    stream.finish()


@pytest.mark.parametrize("name", ["0.weight", "3.weight"])
def test_with_an_inner_optimizer_a_change_is_pushed_with_the_round(name: str) -> None:
    """Also of a parameter that has no gradient in the round, here one that is frozen."""
    model = build()
    model[0].requires_grad_(False)
    slabs = ModelSlabs(model.named_parameters())
    exchange = PromptExchange(slabs.layout, lr=1.0)
    exchange.start(slabs.parameters)
    rounds = LocalSteps(slabs, exchange, torch.optim.SGD(model.parameters(), lr=0.0), every=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(2):
        backward(model)
        rounds.finish()
        if rounds.pending:
            with torch.no_grad():
                model.get_parameter(name).add_(1)
    assert ("0.weight" in exchange.absent) == (name != "0.weight")
    for other, value in model.named_parameters():
        expected = before[other] + (other == name)
        torch.testing.assert_close(value.detach(), expected, rtol=0, atol=1e-6)
