"""What is done with the whole gradient of a step, against torch."""

import math

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import ArgumentError, NonfiniteError, UsageError
from leash.worker.optim.gradients import (
    WholeGradient,
    check_clip_norm,
    first_nonfinite,
    require_finite,
)
from leash.worker.optim.slabs import ModelSlabs

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def build(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(2)
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4, sparse=True, dtype=dtype),
            "first": nn.Linear(4, 33, dtype=dtype),
            "frozen": nn.Linear(3, 3, dtype=dtype).requires_grad_(False),
            "empty": nn.ParameterDict({"weight": torch.empty(0, 4, dtype=dtype)}),
        }
    )


def with_gradients(model: nn.Module) -> nn.Module:
    hidden = model.get_submodule("embed")(torch.tensor([1, 1, 3]))
    loss: Tensor = model.get_submodule("first")(hidden).square().sum()
    (loss + model.get_parameter("empty.weight").sum()).backward()  # type: ignore[no-untyped-call]
    return model


def gradient_of(model: nn.Module, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient._values() if gradient.is_sparse else gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["embed.weight", "first.weight", "first.bias"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_step_and_slot(
    dtype: torch.dtype, name: str, bad: float
) -> None:
    model = build(dtype)
    slabs = ModelSlabs(model.named_parameters())
    whole = WholeGradient(slabs, None, refuses=True)
    with_gradients(model)
    whole.prepare(7, 2)
    gradient_of(model, name).view(-1)[-1] = bad
    with pytest.raises(NonfiniteError, match=rf"step 7 of worker 2: slot {name} has"):
        whole.prepare(7, 2)
    WholeGradient(slabs, None, refuses=False).prepare(7, 2)


def test_a_large_finite_gradient_is_none_of_them() -> None:
    model = with_gradients(build(torch.float64))
    gradient_of(model, "first.weight")[:] = 1e308
    assert first_nonfinite(ModelSlabs(model.named_parameters()).places) is None


def test_a_gradient_that_is_not_contiguous_is_looked_at_too() -> None:
    parameter = nn.Parameter(torch.zeros(3, 5))
    places = ModelSlabs([("w", parameter)]).places
    parameter.grad = torch.zeros(5, 3).T
    assert first_nonfinite(places) is None
    parameter.grad[2, 3] = math.nan
    assert first_nonfinite(places) is places[0]


@pytest.mark.parametrize("max_norm", [0.01, 1e6])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_is_clipped_as_torch_does(dtype: torch.dtype, max_norm: float) -> None:
    mine, theirs = build(dtype), build(dtype)
    for model in (mine, theirs):
        model.get_submodule("embed").sparse = False  # type: ignore[assignment]
        with_gradients(model)
    whole = WholeGradient(ModelSlabs(mine.named_parameters()), max_norm, refuses=True)
    whole.prepare(1, 2)
    nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    for name in ("embed.weight", "first.weight", "first.bias"):
        assert torch.equal(gradient_of(mine, name), gradient_of(theirs, name)), name


def test_a_norm_that_cannot_be_is_refused() -> None:
    for norm in (0.0, -1.0, math.nan):
        with pytest.raises(ArgumentError, match="a number above 0"):
            check_clip_norm(norm, overlap=False)
    with pytest.raises(ArgumentError, match="overlap=False"):
        check_clip_norm(1.0, overlap=True)
    check_clip_norm(None, overlap=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_nobody_could_train_are_refused_by_name(dtype: torch.dtype) -> None:
    model = build(dtype)
    slabs = ModelSlabs(model.named_parameters())
    require_finite(slabs, slabs.parameters)
    with torch.no_grad():
        slabs.places[1].values.view(-1)[-1] = math.inf
    with pytest.raises(UsageError, match=rf"parameter {slabs.places[1].slot.name} has a NaN"):
        require_finite(slabs, slabs.parameters)
