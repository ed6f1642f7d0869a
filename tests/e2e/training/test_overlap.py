"""Gradients that leave during backward lead to the same parameters, bit by bit."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import NonfiniteError, StoppingError, UsageError
from leash.worker import PSOptimizer
from support.gpus import DEVICES
from support.servers import RunningServer, serving

STEPS = 4
WIDE = 200


class Net(nn.Module):
    """Tied weights, batch-norm's buffers, a layer without a gradient; 20 chunks of 64 KiB."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDE, WIDE)
        self.norm = nn.BatchNorm1d(WIDE)
        self.unused = nn.Linear(WIDE, WIDE)
        self.middle = nn.ModuleList(nn.Linear(WIDE, WIDE) for _ in range(6))
        self.middle[3].weight = self.first.weight
        self.last = nn.Linear(WIDE, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.tanh(self.first(x)))
        for layer in self.middle:
            x = torch.tanh(layer(x))
        out: Tensor = self.last(x)
        return out


def build() -> nn.Module:
    torch.manual_seed(11)
    return Net()


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * rank + step)
    samples = 4 + rank
    return (
        torch.randn(samples, WIDE, generator=generator),
        torch.randint(5, (samples,), generator=generator),
    )


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), targets)


def train(model: nn.Module, optimizer: PSOptimizer, rank: int = 1, steps: int = STEPS) -> None:
    device = next(model.parameters()).device
    for step in range(steps):
        inputs, targets = (each.to(device) for each in batch(rank, step))
        optimizer.zero_grad()
        optimizer.begin_step(samples=len(targets))
        loss_of(model, inputs, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def train_together(workers: int, *, overlap: bool, transport: str, device: str) -> list[Tensor]:
    models = {rank: build().to(device) for rank in range(1, workers + 1)}

    def work(rank: int) -> list[Tensor]:
        model = models[rank]
        with PSOptimizer(
            model.named_parameters(), server.address, rank, buffers=model.named_buffers(),
            overlap=overlap, transport=transport,
        ) as optimizer:  # fmt: skip
            train(model, optimizer, rank)
        return [tensor.clone() for tensor in model.state_dict().values()]

    settings: dict[str, Any] = {"workers": workers, "policy": "bsp", "chunk_kib": 64}
    with (
        serving(**settings, lr=0.05, momentum=0.9) as server,
        ThreadPoolExecutor(workers) as pool,
    ):
        results = list(pool.map(work, models))
        assert server.join() == 0
    for result in results[1:]:
        for mine, first in zip(result, results[0], strict=True):
            assert torch.equal(mine, first)
    return results[0]


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_an_overlapped_run_is_bitwise_equal_to_one_that_is_not(
    workers: int, transport: str, device: str
) -> None:
    overlapped = train_together(workers, overlap=True, transport=transport, device=device)
    plain = train_together(workers, overlap=False, transport=transport, device=device)
    for mine, other in zip(overlapped, plain, strict=True):
        if device == "cpu":
            assert torch.equal(mine, other)
        else:  # whose matrix products may be rounded otherwise each time
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@contextmanager
def overlapping(model: nn.Module, **settings: Any) -> Iterator[tuple[RunningServer, PSOptimizer]]:
    with (
        serving(has_lane=False, lr=0.1, chunk_kib=64, **settings) as server,
        PSOptimizer(
            model.named_parameters(), server.address, rank=1, overlap=True, transport="tcp"
        ) as optimizer,
    ):
        yield server, optimizer


def test_the_parameters_lie_in_two_places_in_turn() -> None:
    model = build()
    seen = []
    with overlapping(model) as (_, optimizer):
        for _ in range(3):
            seen.append([parameter.data_ptr() for parameter in model.parameters()])
            train(model, optimizer, steps=1)
    assert seen[0] == seen[2]
    assert not set(seen[0]) & set(seen[1])


def test_a_nan_comes_out_of_the_step_and_not_of_backward() -> None:
    model = build()
    with overlapping(model) as (_, optimizer):
        inputs, targets = batch(1, 0)
        optimizer.begin_step()
        loss = loss_of(model, inputs * torch.inf, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        with pytest.raises(NonfiniteError, match=r"step 1 of worker 1: .*take a smaller --lr$"):
            optimizer.step()


def test_an_evicted_worker_comes_back_by_itself() -> None:
    model = build()
    with overlapping(model) as (server, optimizer):
        train(model, optimizer, steps=1)
        while server.server.metrics.evictions == 0:
            server.clock.skip(60.0)
            server.thread.join(0.05)  # a moment for its loop
        train(model, optimizer, steps=2)
        assert optimizer.evictions == 1
        assert optimizer.version == 2


def test_a_server_that_stops_ends_the_step() -> None:
    model = build()
    with overlapping(model) as (_, optimizer):
        train(model, optimizer, steps=1)
        optimizer.client.deadline_s = 0.0
        optimizer.zero_grad()
        optimizer.begin_step()
        loss_of(model, *batch(1, 1)).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(StoppingError):
            optimizer.step()


def test_zero_grad_between_backward_and_step_is_an_error() -> None:
    model = build()
    with overlapping(model) as (_, optimizer):
        optimizer.begin_step()
        loss_of(model, *batch(1, 0)).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(UsageError, match="overlap=False"):
            optimizer.zero_grad()


def test_a_closure_begins_its_step_by_itself() -> None:
    model = build()
    with overlapping(model) as (_, optimizer):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, *batch(1, 0))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        first = optimizer.step(closure, samples=5)
        second = optimizer.step(closure, samples=5)
        assert isinstance(first, Tensor)
        assert isinstance(second, Tensor)
        assert second < first


def test_after_close_the_model_belongs_to_torch_again() -> None:
    model = build()
    with overlapping(model) as (_, optimizer):
        train(model, optimizer, steps=1)
        assert optimizer.overlap
    alone = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.get_parameter("last.bias").detach().clone()
    loss_of(model, *batch(1, 0)).backward()  # type: ignore[no-untyped-call]
    alone.step()
    assert not torch.equal(model.get_parameter("last.bias"), before)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_recurrent_net_trains_as_with_torchs_own_sgd(overlap: bool) -> None:
    """Its layers keep lists of their weights; and what a user writes to a weight counts."""
    torch.manual_seed(1)
    model, inputs = nn.LSTM(4, 8, num_layers=2), torch.randn(5, 3, 4)
    alone = nn.LSTM(4, 8, num_layers=2)
    alone.load_state_dict(model.state_dict())
    reference = torch.optim.SGD(alone.parameters(), lr=0.1)
    with (
        serving(lr=0.1, nonfinite="apply") as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=overlap) as optimizer,
    ):
        for _ in range(4):
            optimizer.zero_grad()
            optimizer.begin_step()
            reference.zero_grad()
            for each in (model, alone):
                each(inputs)[0].square().sum().backward()
            optimizer.step()
            reference.step()
    for mine, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
