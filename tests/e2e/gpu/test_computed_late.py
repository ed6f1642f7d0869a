"""A model on a GPU, which computes long after it was told to: every number is the right one."""

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.worker import PSOptimizer
from leash.worker.client.encoding import Encoding
from support.gpus import needs_gpu
from support.servers import serving

pytestmark = needs_gpu

GPU = "cuda"
VALUES = 1 << 22  # of each parameter: 16 MiB
LATE_CYCLES = 30_000_000  # some 20 ms


def compute_late() -> None:
    """Keeps the GPU busy, so that whatever it is told from now on happens later."""
    torch.cuda._sleep(LATE_CYCLES)  # type: ignore[no-untyped-call]


class Doubling(torch.autograd.Function):
    """Hands a value on; its gradient is doubled."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2.0


class Late(Doubling):
    """Its gradient comes late, long after backward has run the hooks."""

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        compute_late()
        return gradients[0] * 2.0


def poison() -> None:
    """Leaves NaNs in the memory that the next gradients will have."""
    with torch.no_grad():
        nans = [torch.full((VALUES,), torch.nan, device=GPU) for _ in range(8)]
    del nans


def factor(step: int, index: int) -> Tensor:
    return (torch.arange(VALUES, device=GPU) % (11 + index) + step).float()


@contextmanager
def training(
    named: Any, *, overlap: bool, transport: str = "shm", **settings: Any
) -> Iterator[PSOptimizer]:
    with (
        serving(**{"lr": 1.0, "policy": "asp", **settings}) as server,
        PSOptimizer(
            named, server.address, 1, overlap=overlap, transport=transport
        ) as optimizer,
    ):  # fmt: skip
        yield optimizer


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("stream", ["default", "side", "forward"])
@pytest.mark.parametrize("layer", [Late, Doubling])
def test_what_is_computed_is_sent_and_read_however_late_or_soon_it_comes(
    transport: str, overlap: bool, stream: str, layer: type[Doubling]
) -> None:
    """In a stream of the user's everything, or forward alone, whose stream backward takes too.

    A gradient that comes soon finds the one before still on its way to the processor.
    """
    weights = [nn.Parameter(torch.zeros(VALUES, device=GPU)) for _ in range(4)]
    expected = [torch.zeros(VALUES, device=GPU) for _ in range(4)]
    side = torch.cuda.Stream() if stream != "default" else None
    torch.cuda.synchronize()
    named = [(str(i), w) for i, w in enumerate(weights)]
    with (
        torch.cuda.stream(side) if stream == "side" else nullcontext(),
        training(named, overlap=overlap, transport=transport) as optimizer,
    ):
        for step in range(3):
            factors = [factor(step, i) for i in range(4)]
            poison()
            optimizer.zero_grad()
            optimizer.begin_step()
            now = torch.cuda.current_stream()
            if side is not None:
                side.wait_stream(now)
            with torch.cuda.stream(side) if stream == "forward" else nullcontext():
                terms = [(layer.apply(w) * f).sum() for w, f in zip(weights, factors, strict=True)]
                loss = torch.stack(terms).sum()
            if side is not None:
                now.wait_stream(side)
            loss.backward()
            if layer is Late:
                compute_late()
            seen = [w.detach().clone() for w in weights]  # late, and yet of before the step
            optimizer.step()
            after = [w.detach().clone() for w in weights]
            for i in range(4):
                assert torch.equal(seen[i], expected[i]), (step, i)
                expected[i] -= 2.0 * factors[i]
                assert torch.equal(after[i], expected[i]), (step, i)


class Split(nn.Module):
    """Half of it on the processor, half on the GPU, whose gradients come from two threads."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 64)
        self.here = nn.ModuleList(nn.Linear(64, 64) for _ in range(12))
        self.there = nn.ModuleList(nn.Linear(64, 64) for _ in range(12)).to(GPU)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words).mean(1)
        y = x.to(GPU)
        for here, there in zip(self.here, self.there, strict=True):
            x, y = torch.tanh(here(x)), torch.tanh(there(y))
        return y + x.to(GPU)


@pytest.mark.parametrize("transport", ["tcp", "shm"])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_model_on_processor_and_gpu_trains_as_with_torchs_own(
    overlap: bool, transport: str
) -> None:
    torch.manual_seed(1)
    model = Split().double()
    alone = copy.deepcopy(model)
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    settings = {"lr": 0.1, "momentum": 0.9, "chunk_kib": 64}
    words = torch.randint(50, (20, 8, 5))
    with training(
        model.named_parameters(), overlap=overlap, transport=transport, **settings
    ) as mine:
        for batch in words:
            mine.zero_grad()
            mine.begin_step()
            theirs.zero_grad()
            for each in (model, alone):
                each(batch).square().mean().backward()
            mine.step()
            theirs.step()
    for mine_now, expected in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine_now, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("codec", ["f32", "bf16", "f16", "int8", "topk"])
def test_every_codec_and_dtype_moves_what_it_moves_from_the_processor(
    codec: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(2)
    values, factors = torch.randn(70_001, dtype=dtype), torch.randn(4, 70_001, dtype=dtype)
    results = []
    for device in ("cpu", GPU):
        weight = nn.Parameter(values.to(device, copy=True))
        with (
            serving(lr=0.1, momentum=0.9, chunk_kib=64) as server,
            PSOptimizer(
                [("w", weight)], server.address, 1, overlap=True, encoding=Encoding(codec)
            ) as optimizer,
        ):
            for each in factors:
                optimizer.zero_grad()
                optimizer.begin_step()
                (weight * each.to(device)).sum().backward()  # whose gradient is exactly `each`
                optimizer.step()
        results.append(weight.detach().cpu())
    assert torch.equal(*results)
    assert not torch.equal(results[0], values)


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 4))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("moves", [("cpu", GPU), (GPU, "cpu")], ids=["to it", "from it"])
def test_a_model_that_is_moved_while_it_trains_trains_on(
    overlap: bool, moves: tuple[str, str]
) -> None:
    model, alone = build().to(moves[0]), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1)
    with training(model.named_parameters(), overlap=overlap, lr=0.1) as mine:
        for step in range(6):
            inputs = torch.linspace(-1, 1 + step, 128).view(8, 16)
            device = moves[step // 3]
            if step == 3:
                mine.zero_grad()
                model.to(device)
            for each, optimizer in ((model, mine), (alone, theirs)):
                optimizer.zero_grad()
                if optimizer is mine:
                    mine.begin_step()
                out = each(inputs.to(next(each.parameters()).device))
                out.square().mean().backward()
                optimizer.step()
    for mine_now, expected in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(mine_now.cpu(), expected, rtol=1e-4, atol=1e-5)


def captured(model: nn.Module, inputs: Tensor) -> torch.cuda.CUDAGraph:
    """Forward and backward as a graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # torch asks for this before a capture
        for _ in range(3):
            torch.autograd.grad(model(inputs).square().mean(), list(model.parameters()))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(inputs).square().mean().backward()
    return graph


def test_a_captured_graph_is_replayed_before_each_step() -> None:
    model, alone = build().to(GPU), build().to(GPU)
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1)
    still = torch.zeros(8, 16, device=GPU)
    with training(model.named_parameters(), overlap=False, lr=0.1) as mine:
        graph = captured(model, still)
        for step in range(5):
            inputs = torch.linspace(-1, 1 + step, 128, device=GPU).view(8, 16)
            still.copy_(inputs)
            graph.replay()
            mine.step()
            theirs.zero_grad()
            alone(inputs).square().mean().backward()
            theirs.step()
            for mine_now, expected in zip(model.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(mine_now, expected, rtol=1e-4, atol=1e-5)


def test_with_overlap_a_captured_graph_is_refused() -> None:
    model = build().to(GPU)
    with training(model.named_parameters(), overlap=True) as optimizer:
        optimizer.begin_step()
        with pytest.raises(UsageError, match=r"CUDA graph.*overlap=False"):
            captured(model, torch.zeros(8, 16, device=GPU))
        optimizer.zero_grad()
        optimizer.begin_step()
        model(torch.ones(8, 16, device=GPU)).square().mean().backward()
        optimizer.step()
        assert optimizer.version == 1


def test_pages_are_locked_until_the_optimizer_is_closed_and_again_by_the_next() -> None:
    model = build().to(GPU)
    for _ in range(3):
        with training(model.named_parameters(), overlap=False) as optimizer:
            places = [place for each in optimizer._slabs.places for place in (each.values,)]
            assert all(place.is_pinned() for place in places)
        assert not any(place.is_pinned() for place in places)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_share_buffers_end_with_the_same_bits_and_each_run_as_the_one_before(
    workers: int, overlap: bool
) -> None:
    """From one run to the next a GPU's matrix products may be rounded otherwise."""

    def train_together() -> dict[str, Tensor]:
        models = [build().to(GPU) for _ in range(workers)]

        def work(rank: int) -> dict[str, Tensor]:
            model = models[rank - 1]
            with PSOptimizer(
                model.named_parameters(), server.address, rank, buffers=model.named_buffers(),
                overlap=overlap,
            ) as optimizer:  # fmt: skip
                for step in range(5):
                    optimizer.zero_grad()
                    optimizer.begin_step(samples=8)
                    inputs = torch.linspace(-rank, 1 + step, 128, device=GPU).view(8, 16)
                    model(inputs).square().mean().backward()
                    optimizer.step()
            return {name: tensor.clone() for name, tensor in model.state_dict().items()}

        with (
            serving(workers=workers, policy="bsp", lr=0.05, momentum=0.9) as server,
            ThreadPoolExecutor(workers) as pool,
        ):
            results = list(pool.map(work, range(1, workers + 1)))
        for result in results:
            assert all(torch.equal(result[name], results[0][name]) for name in result)
        return results[0]

    torch.testing.assert_close(train_together(), train_together(), rtol=1e-4, atol=1e-5)
