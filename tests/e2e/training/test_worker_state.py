"""Gradients that were sent, and what a worker's state_dict brings to another process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.worker import PSOptimizer
from leash.worker.client.encoding import Encoding
from support.servers import serving


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Embedding(5, 6, sparse=True), nn.Linear(6, 8), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    outputs: Tensor = model(torch.tensor([step % 5, 1]))
    return outputs.square().sum()


def backward(model: nn.Module, step: int = 0) -> None:
    loss_of(model, step).backward()  # type: ignore[no-untyped-call]


def own_norm(model: nn.Module) -> float:
    """As people write it."""
    return sum(p.grad.norm().item() ** 2 for p in model.parameters() if p.grad is not None) ** 0.5


def by_the_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.data.clamp_(-1, 1)


def noise(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad += torch.randn(parameter.shape)


USES: list[Callable[[nn.Module], Any]] = [
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0),
    lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True),
    lambda model: nn.utils.clip_grad_value_(model.parameters(), 1.0),
    lambda model: nn.utils.get_total_norm([p.grad for p in model.parameters()]),
    lambda model: model.zero_grad(set_to_none=False),
    own_norm, by_the_data, noise,
]  # fmt: skip


def test_whatever_uses_a_gradient_that_was_sent_is_an_error_that_names_the_mend() -> None:
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.01)
    with (
        serving(lr=0.01) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=True) as mine,
    ):
        for step, use in enumerate(USES):
            mine.zero_grad()
            mine.begin_step()
            backward(model, step)
            with pytest.raises(UsageError, match=r"clip_grad_norm_, .*overlap=False"):
                use(model)
            assert "sent" in repr(model.get_parameter("1.weight").grad)
            mine.step()
            with pytest.raises(UsageError, match="overlap=False"):  # nor after the step
                use(model)
            theirs.zero_grad()
            backward(alone, step)
            theirs.step()
    for (name, p), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_a_second_backward_is_named_as_such() -> None:
    model = build()
    with (
        serving() as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=True) as optimizer,
    ):
        optimizer.begin_step()
        backward(model)
        with pytest.raises(UsageError, match="computed twice"):
            backward(model)
        optimizer.close("failed")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_state_with_averages_is_refused_and_one_without_is_taken() -> None:
    model = build()
    momentum = torch.optim.Adagrad(model.parameters(), lr=0.1)
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as optimizer,
    ):
        with pytest.raises(UsageError, match=r"live on the server.*--resume"):
            optimizer.load_state_dict(momentum.state_dict())
        optimizer.load_state_dict(plain.state_dict())
        backward(model)
        optimizer.step()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(list(model.parameters())[1:], lr=0.1)


def train(model: nn.Module, optimizer: PSOptimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_worker_goes_on_from_its_state_as_if_it_had_never_left(steps: int) -> None:
    """Also in the middle of a round, with the inner optimizer's averages."""
    ends = []
    for leaves in (False, True):
        model = build()
        with serving(outer_lr=0.5) as server:
            optimizer = PSOptimizer(
                model.named_parameters(), server.address, 1, inner=adamw(model), local_steps=2
            )
            train(model, optimizer, range(steps))
            state = optimizer.state_dict()
            if leaves:
                optimizer.close("failed")
                model = build()
                optimizer = PSOptimizer(
                    model.named_parameters(), server.address, 1, inner=adamw(model), local_steps=2
                )
                optimizer.load_state_dict(state)
                assert optimizer.pending_steps == steps % 2
            train(model, optimizer, range(steps, 7))
            optimizer.close()
            ends.append([parameter.detach().clone() for parameter in model.parameters()])
    for there, gone in zip(*ends, strict=True):
        assert torch.equal(there, gone)


def test_what_rounding_left_over_is_a_part_of_the_state() -> None:
    model = build()
    encoding = Encoding("topk", topk_ratio=0.1)
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, encoding=encoding) as optimizer,
    ):
        backward(model)
        optimizer.step()
        state = optimizer.state_dict()
        residual = optimizer.client.residual
        assert residual.any()
        kept = residual.copy()
        residual[:] = 0
        optimizer.load_state_dict(state)
        assert (residual == kept).all()
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as optimizer,
        pytest.raises(UsageError, match="take the same model and codec"),
    ):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("had_inner", [False, True])
def test_the_state_of_an_inner_optimizer_needs_one(had_inner: bool) -> None:
    models = [build(), build()]
    inners = [adamw(models[0]) if had_inner else None, None if had_inner else adamw(models[1])]
    states = []
    for model, inner in zip(models, inners, strict=True):
        with (
            serving(**({} if inner is None else {"outer_lr": 1.0})) as server,
            PSOptimizer(model.named_parameters(), server.address, 1, inner=inner) as optimizer,
        ):
            if not states:
                states.append(optimizer.state_dict())
                continue
            with pytest.raises(UsageError, match="inner optimizer; make this one with"):
                optimizer.load_state_dict(states[0])
