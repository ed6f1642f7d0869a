"""bsp with k workers is one process on the joint batch: to rounding, and bit by bit with itself."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from leash.worker import PSOptimizer
from leash.worker.train.leasing import LeaseWork, Speed
from support.gpus import DEVICES
from support.servers import serving

STEPS = 20
BATCH = 12  # of all workers together
OPTIONS = [
    {"lr": 0.05},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
]


def build_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5)).to(dtype)


def batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, 30, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(5, (BATCH,), generator=generator)


def train_alone(
    options: dict[str, float], dtype: torch.dtype, steps: int = STEPS, device: str = "cpu"
) -> Tensor:
    """One process, torch's own SGD, the joint batch: the oracle."""
    model = build_model(dtype).to(device)
    optimizer = torch.optim.SGD(model.parameters(), **options)  # type: ignore[arg-type]
    for step in range(steps):
        inputs, targets = (each.to(device) for each in batch(step, dtype))
        train_step(model, optimizer.zero_grad, optimizer.step, inputs, targets)
    return flat(model).cpu()


def train_together(
    workers: int,
    options: dict[str, float],
    dtype: torch.dtype,
    *,
    weights: list[int] | None = None,
    lr_scaling: str = "none",
    device: str = "cpu",
) -> Tensor:
    """A server and `workers` workers, each with its part of every batch."""
    ends = part_ends(weights or [1] * workers)
    settings = {"workers": workers, "policy": "bsp", "chunk_kib": 64, "lr_scaling": lr_scaling}

    # Before the threads begin: they share torch's random state.
    models = [build_model(dtype).to(device) for _ in range(workers)]

    def work(rank: int) -> Tensor:
        model = models[rank - 1]
        with PSOptimizer(model.named_parameters(), server.address, rank) as optimizer:
            for step in range(STEPS):
                inputs, targets = (each.to(device) for each in batch(step, dtype))
                part = slice(ends[rank - 1], ends[rank])
                samples = ends[rank] - ends[rank - 1]
                train_step(
                    model, optimizer.zero_grad, lambda n=samples: optimizer.step(samples=n),
                    inputs[part], targets[part],
                )  # fmt: skip
        return flat(model).cpu()

    with serving(**settings, **options) as server, ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(work, range(1, workers + 1)))
        assert server.join() == 0
    for result in results[1:]:
        assert torch.equal(result, results[0])  # every worker ends with the same parameters
    return results[0]


def part_ends(weights: list[int]) -> list[int]:
    size = BATCH // sum(weights)
    ends = [0]
    for weight in weights:
        ends.append(ends[-1] + weight * size)
    return ends


def train_step(
    model: nn.Module,
    zero_grad: Callable[[], None],
    step: Callable[[], object],
    inputs: Tensor,
    targets: Tensor,
) -> None:
    zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    step()


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def relative_difference(result: Tensor, expected: Tensor) -> float:
    return float((result - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("options", OPTIONS, ids="-".join)
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_bsp_equals_one_process_on_the_joint_batch(
    workers: int, options: dict[str, float], device: str
) -> None:
    together = train_together(workers, options, torch.float32, device=device)
    assert relative_difference(together, train_alone(options, torch.float32, device=device)) < 1e-6


@pytest.mark.parametrize("workers", [2, 4])
def test_in_double_precision_only_the_order_of_sums_differs(workers: int) -> None:
    together = train_together(workers, OPTIONS[-1], torch.float64)
    assert relative_difference(together, train_alone(OPTIONS[-1], torch.float64)) < 1e-14


def test_unequal_parts_of_a_batch_count_by_their_samples() -> None:
    together = train_together(2, OPTIONS[1], torch.float64, weights=[3, 1])
    assert relative_difference(together, train_alone(OPTIONS[1], torch.float64)) < 1e-14


def test_weighted_batches_make_the_mean_over_their_samples() -> None:
    """Worker 1 says that it is three times as fast, and gets three times the batch."""
    batches, together = train_by_leases({1: 300.0, 2: 100.0})
    sizes = [[len(part) for part in parts] for parts in batches]
    assert sizes.count([9, 3]) > SAMPLES // 20
    model = build_model(torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), **OPTIONS[1])  # type: ignore[arg-type]
    for parts in batches:
        positions = [position for part in parts for position in part]
        train_step(model, optimizer.zero_grad, optimizer.step, *samples_at(positions))
    assert relative_difference(together, flat(model)) < 1e-13


SAMPLES = 120


def samples_at(positions: list[int]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*(batch(position, torch.float64) for position in positions), strict=True)
    return torch.stack([x[0] for x in inputs]), torch.stack([y[0] for y in targets])


def train_by_leases(speeds: dict[int, float]) -> tuple[list[list[list[int]]], Tensor]:
    """What every worker trained on in each step, by rank; and the parameters in the end."""
    steps: dict[int, dict[int, list[int]]] = {}
    models = {rank: build_model(torch.float64) for rank in speeds}
    settings = {"workers": len(speeds), "policy": "bsp", "lr_scaling": "none"}

    def work(rank: int) -> Tensor:
        model, speed = models[rank], Speed()
        speed.add(int(speeds[rank]), 1.0)
        with PSOptimizer(model.named_parameters(), server.address, rank) as optimizer:
            leases = LeaseWork(optimizer, speed, size=SAMPLES, epochs=2, batch_size=6)
            for piece in leases.pieces():
                positions = piece.positions.tolist()
                for first in range(0, len(positions), piece.batch_size):
                    part = positions[first : first + piece.batch_size]
                    train_step(
                        model, optimizer.zero_grad, partial(optimizer.step, samples=len(part)),
                        *samples_at(part),
                    )  # fmt: skip
                    steps.setdefault(optimizer.client.steps, {})[rank] = part
            return flat(model)

    with (
        serving(batch_plan="weighted", **settings, **OPTIONS[1]) as server,
        ThreadPoolExecutor(len(speeds)) as pool,
    ):
        results = list(pool.map(work, sorted(speeds)))
        assert server.join() == 0
    by_step = [[part for _, part in sorted(parts.items())] for _, parts in sorted(steps.items())]
    trained_last = max(steps[max(steps)])
    return by_step, results[trained_last - 1]


def test_linear_scaling_is_one_process_with_k_times_the_learning_rate() -> None:
    options = OPTIONS[1]
    together = train_together(4, options, torch.float64, lr_scaling="linear")
    scaled = {**options, "lr": 4 * options["lr"]}
    assert relative_difference(together, train_alone(scaled, torch.float64)) < 1e-14


def test_two_runs_are_bitwise_equal() -> None:
    first, second = (train_together(4, OPTIONS[-1], torch.float32) for _ in range(2))
    assert torch.equal(first, second)


def test_the_oracle_would_notice_a_step_too_few() -> None:
    short = train_alone(OPTIONS[0], torch.float64, STEPS - 1)
    assert relative_difference(short, train_alone(OPTIONS[0], torch.float64)) > 1e-4
