"""Softened staleness: the formulas of the papers, against numpy, torch and a naive model."""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leash.ps._core import (
    AdagradOptions,
    AdamOptions,
    ChunkSpec,
    DelayCompensation,
    Nonfinite,
    Outcome,
    Rule,
    SgdOptions,
    Shard,
    StalenessRate,
    codecs,
    instruction_sets,
    kernels,
)
from support.values import random_values, unaligned

Array: TypeAlias = NDArray[Any]

SIZES = [0, 1, 15, 16, 17, 1023, 1025, 4097]
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}
NAMES = {np.float32: "f32", np.float64: "f64"}
ASP: dict[str, Any] = {"rule": Rule()}
SSP: dict[str, Any] = {"rule": Rule(bound=1)}
CONSTANT = DelayCompensation("constant", strength=0.3)
ADAPTIVE = DelayCompensation("adaptive", strength=0.7, decay=0.9)

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
every_kind = pytest.mark.parametrize("kind", ["constant", "adaptive"])


# The learning rate


@pytest.mark.parametrize("staleness", [0, 1, 2, 15, 10**6])
def test_the_rate_is_that_of_the_papers(staleness: int) -> None:
    assert StalenessRate().factor(staleness) == 1.0
    assert StalenessRate("inverse").factor(staleness) == 1 / max(1, staleness)
    assert StalenessRate("poly").factor(staleness) == pytest.approx((1 + staleness) ** -0.5)
    assert StalenessRate("poly", power=0.0).factor(staleness) == 1.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: StalenessRate("slow"), "decay: expected 'none' 'inverse' 'poly', got 'slow'"),
        (lambda: StalenessRate("poly", power=-1.0), "power: expected a finite number of at least"),
        (lambda: DelayCompensation("on"), "kind: expected 'none' 'constant' 'adaptive', got 'on'"),
        (lambda: DelayCompensation("constant", strength=np.inf), "strength: expected a finite"),
        (lambda: DelayCompensation("adaptive", decay=1.0), "decay: expected a number from 0 to"),
    ],
)
def test_a_setting_that_cannot_be_is_named(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    ("options", "of_torch", "settings"),
    [
        (SgdOptions(lr=0.1, momentum=0.9, nesterov=True), torch.optim.SGD,
         {"momentum": 0.9, "nesterov": True}),
        (AdamOptions(lr=0.1), torch.optim.Adam, {}),
        (AdamOptions(lr=0.1, weight_decay=0.1, decoupled=True), torch.optim.AdamW,
         {"weight_decay": 0.1}),
        (AdagradOptions(lr=0.1), torch.optim.Adagrad, {}),
    ],
    ids=["sgd", "adam", "adamw", "adagrad"],
)  # fmt: skip
@pytest.mark.parametrize("rate", [StalenessRate("inverse"), StalenessRate("poly", power=0.7)])
def test_every_optimizer_goes_by_the_rate_of_each_push(
    options: Any, of_torch: Any, settings: dict[str, Any], rate: StalenessRate
) -> None:
    shard = make_shard(17, np.float64, options, workers=3, staleness_rate=rate)
    parameter = torch.zeros(17, dtype=torch.float64, requires_grad=True)
    optimizer = of_torch([parameter], lr=0.1, **settings)
    steps = dict.fromkeys((1, 2, 3), 0)
    for number, worker in enumerate([1, 2, 2, 3, 1, 1, 2, 3, 1]):
        gradient = random_values(17, np.float64, number)
        steps[worker] += 1
        (reply,) = shard.push(0, worker, steps[worker], 1, gradient.copy(), True).replies
        optimizer.param_groups[0]["lr"] = 0.1 * rate.factor(reply.staleness)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    assert shard.stats().max_staleness == 3
    np.testing.assert_allclose(
        values_of(shard, 17, np.float64), parameter.detach().numpy(), rtol=1e-12, atol=1e-14
    )


# The kernels


@every_isa
@every_dtype
@every_kind
def test_a_kernel_has_the_bits_of_numpy(isa: str, dtype: Any, kind: str) -> None:
    compensation = CONSTANT if kind == "constant" else ADAPTIVE
    for n in SIZES:
        w, backup, g, squares = (random_values(n, dtype, seed) for seed in range(4))
        squares = squares * squares
        strength, expected = dtype(0.3), squares
        if kind == "adaptive":
            expected = dtype(0.9) * squares + dtype(1 - 0.9) * g * g
            strength = dtype(0.7) / np.sqrt(expected + dtype(1e-7))
        corrected: Array = np.empty_like(w)
        mean_square = squares if kind == "adaptive" else None
        kernels.compensate(isa, w, backup, mean_square, unaligned(g), corrected, compensation)
        assert corrected.tobytes() == (g + strength * (w - backup) * g * g).tobytes()
        assert squares.tobytes() == expected.tobytes()


@every_isa
def test_the_largest_gradient_is_left_alone_where_nothing_has_changed(isa: str) -> None:
    w: Array = np.ones(33, np.float32)
    g = np.full(33, np.finfo(np.float32).max)
    corrected: Array = np.empty(33, np.float32)
    kernels.compensate(isa, w, w.copy(), None, g, corrected, CONSTANT)
    assert corrected.tobytes() == g.tobytes()


# The shard, beside a naive model


@dataclass
class Naive:
    """DC-ASGD as algorithm 2 of its paper has it, with an explicit backup for each worker."""

    w: Array
    sgd: dict[str, Any]
    kind: str
    backups: dict[int, Array] = field(default_factory=dict)
    momentum: Array | None = None
    mean_square: Array | None = None

    def push(self, worker: int, gradient: Array) -> None:
        g = -gradient if self.sgd["maximize"] else gradient
        strength: Any = 0.3
        if self.kind == "adaptive":
            before = np.zeros_like(g) if self.mean_square is None else self.mean_square
            self.mean_square = 0.9 * before + (1 - 0.9) * g**2
            strength = 0.7 / np.sqrt(self.mean_square + 1e-7)
        g = g + strength * g**2 * (self.w - self.backups.get(worker, self.w))
        self.w = self.w - self.sgd["lr"] * self.direction(g + self.sgd["weight_decay"] * self.w)

    def direction(self, g: Array) -> Array:
        factor = self.sgd["momentum"]
        if not factor:
            return g
        if self.momentum is None:
            self.momentum = g
        else:
            self.momentum = factor * self.momentum + (1 - self.sgd["dampening"]) * g
        return g + factor * self.momentum if self.sgd["nesterov"] else self.momentum


def sgd_settings(**changed: Any) -> dict[str, Any]:
    return {"lr": 0.2, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
            "maximize": False, **changed}  # fmt: skip


SGD = [
    sgd_settings(),
    sgd_settings(weight_decay=0.1, maximize=True),
    sgd_settings(momentum=0.8, dampening=0.3),
    sgd_settings(momentum=0.8, nesterov=True, weight_decay=0.1),
]


def make_shard(n: int, dtype: Any, options: Any, workers: int, **settings: Any) -> Shard:
    spec = ChunkSpec(values=n, dtype=NAMES[dtype], kind="parameter")
    shard = Shard([spec], options, **{**ASP, "nonfinite": Nonfinite.RAISE, **settings})
    shard.init(0, np.zeros(n, dtype))
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
    return shard


def values_of(shard: Shard, n: int, dtype: Any) -> Array:
    out: Array = np.empty(n, dtype)
    shard.pull(0, None, out)
    return out


class Race:
    """A shard and the naive model, with the workers in any order."""

    def __init__(self, n: int, dtype: Any, sgd: dict[str, Any], kind: str, seed: int) -> None:
        self.n, self.dtype = n, dtype
        compensation = CONSTANT if kind == "constant" else ADAPTIVE
        self.shard = make_shard(n, dtype, SgdOptions(**sgd), 4, compensation=compensation)
        self.naive = Naive(np.zeros(n), sgd, kind)
        self.steps = dict.fromkeys(range(1, 5), 0)
        self.rng = np.random.default_rng(seed)

    def push(self, worker: int, wants_payload: bool = True) -> None:
        gradient = self.rng.standard_normal(self.n).astype(self.dtype)
        self.steps[worker] += 1
        payload = unaligned(gradient)
        self.shard.push(0, worker, self.steps[worker], 1, payload, wants_payload)
        self.naive.push(worker, gradient.astype(np.float64))
        if wants_payload:
            self.got(worker, payload)

    def repeat(self, worker: int) -> None:
        if self.steps[worker] == 0:
            return
        payload = unaligned(np.full(self.n, np.pi, self.dtype))
        pushed = self.shard.push(0, worker, self.steps[worker], 1, payload, True)
        assert pushed.outcome is Outcome.DUPLICATE
        self.got(worker, payload)

    def repeat_an_older_step(self, worker: int) -> None:
        """A ghost: its worker has long gone on."""
        if self.steps[worker] > 1:
            payload = unaligned(np.full(self.n, np.pi, self.dtype))
            self.shard.push(0, worker, self.steps[worker] - 1, 1, payload, True)

    def pull(self, worker: int) -> None:
        out: Array = np.empty(self.n, self.dtype)
        self.shard.pull(0, worker, out)
        self.got(worker, out)

    def come_back(self, worker: int) -> None:
        self.shard.leave(worker)
        self.steps[worker] = self.shard.first_step() - 1
        self.shard.join(worker, self.steps[worker])
        self.pull(worker)

    def got(self, worker: int, answer: Any) -> None:
        actual = np.frombuffer(answer, self.dtype).astype(np.float64)
        scale = 1 + float(np.abs(self.naive.w).max(initial=0.0))
        np.testing.assert_allclose(
            actual, self.naive.w, rtol=0, atol=50 * TOLERANCE[self.dtype] * scale
        )
        self.naive.backups[worker] = self.naive.w


@every_dtype
@every_kind
@pytest.mark.parametrize("sgd", SGD, ids=["plain", "decay", "momentum", "nesterov"])
@pytest.mark.parametrize("n", [1, 17, 1025, 2500])
def test_workers_in_any_order_give_what_a_naive_model_gives(
    dtype: Any, kind: str, sgd: dict[str, Any], n: int
) -> None:
    race = Race(n, dtype, sgd, kind, seed=n)
    for worker in (1, 2, 3):  # the fourth begins without a pull
        race.pull(worker)
    actions = [race.push, race.push, race.push, race.pull, race.repeat, race.repeat_an_older_step,
               race.come_back, lambda worker: race.push(worker, wants_payload=False)]  # fmt: skip
    for _ in range(60):
        actions[race.rng.integers(len(actions))](int(race.rng.integers(1, 5)))
    assert race.shard.stats().max_staleness > 3


@every_kind
def test_a_worker_whose_answer_waited_is_compensated_from_what_the_answer_brought(
    kind: str,
) -> None:
    compensation = CONSTANT if kind == "constant" else ADAPTIVE
    shard = make_shard(1, np.float64, SgdOptions(lr=0.1), 3, **SSP, compensation=compensation)
    naive = Naive(np.zeros(1), sgd_settings(lr=0.1), kind)
    memory = {}

    def push(worker: int, step: int, value: float) -> None:
        memory[worker] = np.array([value])
        result = shard.push(0, worker, step, 1, memory[worker], True)
        naive.push(worker, np.array([value]))
        for reply in result.replies:
            np.testing.assert_allclose(memory[reply.worker], naive.w, rtol=1e-12)
            naive.backups[reply.worker] = naive.w

    for worker in (1, 2, 3):
        shard.pull(0, worker, np.empty(1))
        naive.backups[worker] = naive.w
    push(1, 1, 1.0)
    push(1, 2, 2.0)
    assert shard.parked() == 1
    push(2, 1, -3.0)
    push(3, 1, 1.5)
    assert shard.parked() == 0
    push(1, 3, 2.5)
    push(2, 2, 0.5)
    np.testing.assert_allclose(values_of(shard, 1, np.float64), naive.w, rtol=1e-12)


@pytest.mark.parametrize("codec", ["bf16", "f16"])
@pytest.mark.parametrize("bound", [None, 1])
def test_a_worker_has_what_its_codec_makes_of_the_parameters(codec: str, bound: int | None) -> None:
    n = 1500
    shard = make_shard(
        n, np.float32, SgdOptions(lr=1.0), 2, rule=Rule(bound=bound),
        compensation=DelayCompensation("constant", strength=0.5),
    )  # fmt: skip
    sent = random_values(n, np.float32, 1)
    payload = bytearray(2 * n)
    codecs.encode_half(codec, sent, payload)
    gradient: Array = np.empty(n, np.float32)
    codecs.decode(codec, bytes(payload), gradient)
    shard.push(0, 1, 1, 1, payload, True, codec=codec)
    had: Array = np.empty(n, np.float32)
    codecs.decode(codec, bytes(payload), had)
    w = values_of(shard, n, np.float32)
    assert w.tobytes() == (np.float32(0) - gradient).tobytes()
    # What it has is a rounding of the parameters, or the test would show nothing.
    w = w - random_values(n, np.float32, 2)
    shard.push(0, 2, 1, 1, random_values(n, np.float32, 2), False)
    shard.push(0, 1, 2, 1, sent.copy(), True)
    expected = w - (sent + np.float32(0.5) * (w - had) * sent * sent)
    assert values_of(shard, n, np.float32).tobytes() == expected.tobytes()


def test_a_pull_in_a_codec_is_remembered_as_it_was_read() -> None:
    first = random_values(700, np.float32, 1)
    shard = Shard(
        [ChunkSpec(values=700, dtype="f32", kind="parameter")], SgdOptions(lr=1.0), **ASP,
        nonfinite=Nonfinite.RAISE, compensation=CONSTANT,
    )  # fmt: skip
    shard.init(0, first)
    shard.join(1, 0)
    payload = bytearray(1400)
    shard.pull(0, 1, payload, "bf16")
    had: Array = np.empty(700, np.float32)
    codecs.decode("bf16", bytes(payload), had)
    assert had.tobytes() != first.tobytes()
    g = random_values(700, np.float32, 2)
    shard.push(0, 1, 1, 1, g.copy(), True)
    expected = first - (g + np.float32(0.3) * (first - had) * g * g)
    assert values_of(shard, 700, np.float32).tobytes() == expected.tobytes()


# What must not change


def trained(n: int, dtype: Any, options: Any, order: list[int], **settings: Any) -> bytes:
    shard = make_shard(n, dtype, options, 3, **settings)
    steps = dict.fromkeys((1, 2, 3), 0)
    for number, worker in enumerate(order):
        steps[worker] += 1
        shard.push(0, worker, steps[worker], 1, random_values(n, dtype, number), True)
    return values_of(shard, n, dtype).tobytes()


@every_dtype
@pytest.mark.parametrize("sgd", SGD, ids=["plain", "decay", "momentum", "nesterov"])
def test_one_worker_alone_has_the_bits_of_plain_sgd(dtype: Any, sgd: dict[str, Any]) -> None:
    plain = trained(4097, dtype, SgdOptions(**sgd), [1] * 6)
    for settings in (
        {"compensation": CONSTANT}, {"compensation": ADAPTIVE},
        {"staleness_rate": StalenessRate("inverse")}, {"staleness_rate": StalenessRate("poly")},
    ):  # fmt: skip
        assert trained(4097, dtype, SgdOptions(**sgd), [1] * 6, **settings) == plain


@every_dtype
@every_kind
def test_a_strength_of_0_has_the_bits_of_plain_sgd(dtype: Any, kind: str) -> None:
    options, order = SgdOptions(lr=0.1, momentum=0.9), [1, 2, 3, 3, 2, 1, 1, 2]
    off = DelayCompensation(kind, strength=0.0)
    assert trained(4097, dtype, options, order, compensation=off) == trained(
        4097, dtype, options, order
    )


@every_kind
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    options, order = SgdOptions(lr=0.1, momentum=0.9), [1, 2, 3, 3, 2, 1]
    compensation = CONSTANT if kind == "constant" else ADAPTIVE
    results = {
        trained(262_147, np.float32, options, order, compensation=compensation, threads=threads)
        for threads in (1, 2, 3)
    }
    assert len(results) == 1
    assert results != {trained(262_147, np.float32, options, order)}


def test_values_of_buffers_are_taken_as_they_are() -> None:
    specs = [ChunkSpec(values=3, dtype="f32", kind=kind) for kind in ("parameter", "buffer")]
    shard = Shard(specs, SgdOptions(lr=1.0), **ASP, nonfinite=Nonfinite.RAISE,
                  compensation=ADAPTIVE, staleness_rate=StalenessRate("inverse"))  # fmt: skip
    for chunk in (0, 1):
        shard.init(chunk, bytes(12))
    for worker in (1, 2):
        shard.join(worker, 0)
    for worker in (1, 2):
        payload = np.full(3, worker, np.float32)
        shard.push(1, worker, 1, 1, payload, True)
        assert payload.tolist() == [worker] * 3


# Checkpoints, and what does not go together


def test_the_mean_square_is_a_buffer_of_the_optimizer() -> None:
    shard = make_shard(3, np.float64, SgdOptions(momentum=0.5), 1, compensation=ADAPTIVE)
    assert shard.state_names() == ["momentum", "dc_mean_square"]
    assert not shard.has_state(0)
    shard.push(0, 1, 1, 1, np.array([1.0, 2.0, 3.0]), True)
    out = np.empty(3)
    shard.state(0, "dc_mean_square", out)
    np.testing.assert_allclose(out, (1 - 0.9) * np.array([1.0, 4.0, 9.0]), rtol=1e-15)
    shard.load_state(0, "dc_mean_square", np.zeros(3))
    shard.push(0, 1, 2, 1, np.array([1.0, 2.0, 3.0]), True)
    shard.state(0, "dc_mean_square", out)
    np.testing.assert_allclose(out, (1 - 0.9) * np.array([1.0, 4.0, 9.0]), rtol=1e-15)
    assert make_shard(3, np.float64, SgdOptions(), 1, compensation=CONSTANT).state_names() == []


@pytest.mark.parametrize("options", [AdamOptions(), AdagradOptions()])
def test_compensation_of_another_optimizer_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=r"compensation: expected 'none', .* SGD only"):
        make_shard(3, np.float32, options, 1, compensation=CONSTANT)


def test_compensation_of_a_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"compensation: expected 'none', .* nothing in a"):
        make_shard(
            3, np.float32, SgdOptions(), 1, rule=Rule(bound=0, gather="step"), compensation=CONSTANT
        )
