"""Rows whose norm is limited: torch.renorm after each step of torch's optimizers is the oracle."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from leash.ps._core import (
    AdagradOptions,
    AdamOptions,
    ChunkSpec,
    DelayCompensation,
    Nonfinite,
    Rule,
    SgdOptions,
    Shard,
    codecs,
)

Array = npt.NDArray[Any]

MAX_NORM = 1.5
# Rows within a block of 1024 values, over two, over several; a vector, which is one row; a tensor
# of another group, of which nothing is limited.
SHAPES: list[tuple[int, ...]] = [(50, 3), (20, 300), (3, 2500), (40,), (7, 2, 5), (30, 4)]
COUNTS = [int(np.prod(shape)) for shape in SHAPES]
SLOTS = range(len(SHAPES))
FREE = SLOTS[-1]
ASP = Rule()
BSP = Rule(bound=0, gather="step")
NUMPY: dict[str, Any] = {"f32": np.float32, "f64": np.float64}
RTOL = {"f32": 1e-6, "f64": 1e-12}

OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "sgd": (SgdOptions(lr=0.5), lambda p: torch.optim.SGD(p, lr=0.5)),
    "momentum": (SgdOptions(lr=0.5, momentum=0.9, nesterov=True),
                 lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9, nesterov=True)),
    "adamw": (AdamOptions(lr=0.1, weight_decay=0.1, decoupled=True),
              lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    "amsgrad": (AdamOptions(lr=0.1, amsgrad=True),
                lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True)),
    "adagrad": (AdagradOptions(lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
}  # fmt: skip


def row_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]


def numbers(seed: int, dtype: str, scale: float = 1.0) -> Array:
    values = np.random.default_rng(seed).standard_normal(sum(COUNTS)) * scale
    result: Array = values.astype(NUMPY[dtype])
    return result


def make_shard(
    options: Any, dtype: str = "f64", rule: Rule = ASP, workers: int = 1, **more: Any
) -> Shard:
    spec = ChunkSpec(sum(COUNTS), dtype, "parameter", COUNTS, list(SLOTS), [*map(row_of, SHAPES)])
    shard = Shard([spec], options, rule=rule, **{"nonfinite": Nonfinite.RAISE, **more})
    shard.init(0, numbers(0, dtype, 0.1))
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
        limit(shard, options, worker)
    return shard


def limit(
    shard: Shard, options: Any, worker: int, clamps: list[tuple[float, float]] | None = None
) -> None:
    groups = [int(slot == FREE) for slot in SLOTS]
    shard.set_options(worker, [options, options], groups, clamps or [], [MAX_NORM, np.inf])


def values_of(shard: Shard, dtype: str) -> Array:
    values = np.empty(sum(COUNTS), NUMPY[dtype])
    shard.pull(0, None, values)
    return values


def renormed(tensor: Tensor) -> Tensor:
    """torch.renorm, for which a vector has to be made a matrix of one row."""
    rows = tensor if tensor.dim() > 1 else tensor[None]
    return torch.renorm(rows, p=2, dim=0, maxnorm=MAX_NORM).reshape(tensor.shape)


class Reference:
    """torch, with a tensor for each slot."""

    def __init__(self, make: Any, dtype: str) -> None:
        self.tensors = [t.requires_grad_() for t in self.parts(numbers(0, dtype, 0.1))]
        self.optimizer = make(self.tensors)

    @staticmethod
    def parts(values: Array) -> list[Tensor]:
        flat = torch.from_numpy(values).split(COUNTS)
        return [t.clone().view(shape) for t, shape in zip(flat, SHAPES, strict=True)]

    def step(self, gradient: Array, absent: frozenset[int] = frozenset()) -> None:
        for slot, (tensor, part) in enumerate(zip(self.tensors, self.parts(gradient), strict=True)):
            tensor.grad = None if slot in absent else part
        self.optimizer.step()
        with torch.no_grad():
            for slot in set(SLOTS) - absent - {FREE}:
                self.tensors[slot].copy_(renormed(self.tensors[slot]))

    @property
    def values(self) -> Array:
        result: Array = torch.cat([t.detach().flatten() for t in self.tensors]).numpy()
        return result


def assert_alike(mine: Array, theirs: Array, dtype: str) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_ends_with_rows_as_torch_would_limit_them(name: str, dtype: str) -> None:
    options, make = OPTIMIZERS[name]
    shard, reference = make_shard(options, dtype), Reference(make, dtype)
    for step in range(1, 4 if dtype == "f64" else 2):  # f32: one step from the same values
        payload = numbers(step, dtype)
        reference.step(payload.copy())
        shard.push(0, 1, step, 1, payload, True)
        assert_alike(values_of(shard, dtype), reference.values, dtype)
        assert payload.tobytes() == values_of(shard, dtype).tobytes()  # the answer
    norms = reference.tensors[1].norm(dim=1)
    assert norms.tolist() == pytest.approx([MAX_NORM] * len(norms), rel=1e-6)


@pytest.mark.parametrize("dtype", NUMPY)
def test_a_mean_of_two_workers_ends_with_limited_rows_and_so_do_both_answers(dtype: str) -> None:
    options, make = OPTIMIZERS["momentum"]
    shard, reference = make_shard(options, dtype, BSP, workers=2), Reference(make, dtype)
    payloads = [numbers(worker, dtype) for worker in (1, 2)]
    reference.step(payloads[0] * NUMPY[dtype](0.5) + payloads[1] * NUMPY[dtype](0.5))
    for worker, payload in enumerate(payloads, start=1):
        shard.push(0, worker, 1, 1, payload, True)
    assert_alike(values_of(shard, dtype), reference.values, dtype)
    for payload in payloads:
        assert payload.tobytes() == values_of(shard, dtype).tobytes()


@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
def test_a_slot_without_a_gradient_keeps_rows_that_are_too_long(rule: Rule) -> None:
    options, make = OPTIMIZERS["sgd"]
    shard, reference = make_shard(options, rule=rule), Reference(make, "f64")
    large = numbers(5, "f64", 3.0)
    shard.publish(0, large)
    with torch.no_grad():
        for tensor, part in zip(reference.tensors, Reference.parts(large), strict=True):
            tensor.copy_(part)
    for step, absent in enumerate([{1, 3}, {0, 2, 4}, set()], start=1):
        payload = numbers(step, "f64")
        reference.step(payload.copy(), frozenset(absent))
        bits = sum(1 << slot for slot in absent).to_bytes(1, "little")
        shard.push(0, 1, step, 1, payload, True, absent=bits)
        assert_alike(values_of(shard, "f64"), reference.values, "f64")
        assert_alike(payload, reference.values, "f64")


@pytest.mark.parametrize("codec", ["bf16", "f16"])
@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
def test_an_answer_in_half_precision_has_the_limited_rows(rule: Rule, codec: str) -> None:
    shard = make_shard(OPTIMIZERS["sgd"][0], "f32", rule)
    payload, expected = bytearray(2 * sum(COUNTS)), bytearray(2 * sum(COUNTS))
    codecs.encode_half(codec, numbers(1, "f32"), payload)
    shard.push(0, 1, 1, 1, payload, True, codec=codec)
    codecs.encode_half(codec, values_of(shard, "f32"), expected)
    assert payload == expected
    rows = values_of(shard, "f32")[: COUNTS[0]].reshape(SHAPES[0])
    assert np.linalg.norm(rows, axis=1).max() <= MAX_NORM


def test_delays_are_compensated_against_the_limited_rows_that_a_worker_got() -> None:
    """With a strength of 0 nothing is corrected; else by the way from what the worker got."""
    options = OPTIMIZERS["sgd"][0]
    shard = make_shard(options, workers=2, compensation=DelayCompensation(
        kind="constant", strength=0.04))  # fmt: skip
    first = numbers(1, "f64")
    shard.push(0, 1, 1, 1, first, True)  # now worker 1 has what the answer says
    shard.push(0, 2, 1, 1, numbers(2, "f64"), True)
    before, gradient = values_of(shard, "f64"), numbers(3, "f64")
    corrected = gradient + 0.04 * (before - first) * gradient * gradient
    shard.push(0, 1, 2, 1, gradient.copy(), True)
    plain = Reference.parts(before - 0.5 * corrected)
    expected = [t if slot == FREE else renormed(t) for slot, t in enumerate(plain)]
    assert_alike(values_of(shard, "f64"), torch.cat([*map(torch.flatten, expected)]).numpy(), "f64")


@pytest.mark.parametrize("nonfinite", [Nonfinite.SKIP, Nonfinite.APPLY])
def test_a_number_that_is_not_finite_does_what_it_does_without_a_norm(nonfinite: Nonfinite) -> None:
    """A block that is left out is measured as it was; what is applied is limited as torch does."""
    shard = make_shard(OPTIMIZERS["sgd"][0], nonfinite=nonfinite)
    payload, bad = numbers(1, "f64"), (200, 1500)
    payload[bad[0]], payload[bad[1]] = np.nan, np.inf
    expected = numbers(0, "f64", 0.1)
    blocks = np.arange(sum(COUNTS)) // 1024
    begins = np.cumsum((0, *COUNTS))
    # A block ends where its group does, too, but both lie in blocks of one group.
    kept = ~np.isin(blocks, [i // 1024 for i in bad]) | (nonfinite == Nonfinite.APPLY)
    assert begins[FREE] // 1024 > max(bad) // 1024
    expected[kept] -= 0.5 * payload[kept]
    parts = [t if slot == FREE else renormed(t) for slot, t in enumerate(Reference.parts(expected))]
    shard.push(0, 1, 1, 1, payload.copy(), False)
    flat = torch.cat([*map(torch.flatten, parts)]).numpy()
    np.testing.assert_allclose(values_of(shard, "f64"), flat, rtol=1e-12)
    assert np.isfinite(flat).all() == (nonfinite == Nonfinite.SKIP)


def test_values_are_clamped_before_their_rows_are_limited() -> None:
    options = SgdOptions(lr=1.0)
    shard = make_shard(options)
    limit(shard, options, 1, [(-0.1, 0.3), (-np.inf, np.inf)])
    payload = numbers(1, "f64")
    plain = numbers(0, "f64", 0.1) - payload
    shard.push(0, 1, 1, 1, payload, False)
    parts = [
        t if slot == FREE else renormed(t.clamp(-0.1, 0.3))
        for slot, t in enumerate(Reference.parts(plain))
    ]
    assert_alike(values_of(shard, "f64"), torch.cat([*map(torch.flatten, parts)]).numpy(), "f64")


@pytest.mark.parametrize("nonfinite", [Nonfinite.RAISE, Nonfinite.APPLY])
@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
@pytest.mark.parametrize("dtype", NUMPY)
def test_threads_change_no_bit(dtype: str, rule: Rule, nonfinite: Nonfinite) -> None:
    shapes = [(3000, 7), (2, 50_000), (1, 30_011)]
    counts = [int(np.prod(shape)) for shape in shapes]
    spec = ChunkSpec(sum(counts), dtype, "parameter", counts, [0, 1, 2], [*map(row_of, shapes)])
    results = set()
    for threads in (1, 2, 5):
        shard = Shard([spec], SgdOptions(lr=0.5), rule=rule, nonfinite=nonfinite, threads=threads)
        shard.init(0, np.zeros(sum(counts), NUMPY[dtype]))
        shard.join(1, 0)
        shard.set_options(1, [SgdOptions(lr=0.5)], [0, 0, 0], [], [0.7])
        payload = np.random.default_rng(1).standard_normal(sum(counts)).astype(NUMPY[dtype])
        shard.push(0, 1, 1, 1, payload, True)
        rows = payload[: counts[0]].reshape(shapes[0])
        assert np.linalg.norm(rows, axis=1).max() == pytest.approx(0.7, rel=1e-6)
        results.add(payload.tobytes() + values_of_all(shard, sum(counts), dtype))
    assert len(results) == 1


def values_of_all(shard: Shard, n: int, dtype: str) -> bytes:
    values = np.empty(n, NUMPY[dtype])
    shard.pull(0, None, values)
    return values.tobytes()


@pytest.mark.parametrize(
    ("max_norms", "told"),
    [([-1.0, 1.0], "max_norm: expected a number of at least 0"),
     ([float("nan"), 1.0], "max_norm: expected a number"),
     ([1.0], "max_norms: expected a number for each group")],
)  # fmt: skip
def test_norms_that_cannot_be_are_refused(max_norms: list[float], told: str) -> None:
    shard = make_shard(SgdOptions())
    with pytest.raises(ValueError, match=told):
        shard.set_options(1, [SgdOptions()] * 2, [0] * len(SHAPES), [], max_norms)


@pytest.mark.parametrize(
    ("lengths", "rows"), [([6, 4], [3]), ([6, 4], [4, 4]), ([], [10]), ([6, 4], [6, 5])]
)
def test_rows_make_up_their_piece(lengths: list[int], rows: list[int]) -> None:
    with pytest.raises(ValueError, match="row_lengths"):
        ChunkSpec(10, "f32", "parameter", lengths, [*range(len(lengths))], rows)
