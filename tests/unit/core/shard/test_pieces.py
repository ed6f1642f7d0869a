"""A gradient may be absent for some slots of a chunk: torch's optimizers are the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leash.ps._core import (
    AdagradOptions,
    AdamOptions,
    ChunkSpec,
    Nonfinite,
    Rule,
    SgdOptions,
    Shard,
)

Array = npt.NDArray[np.float64]

LENGTHS = (3, 1, 2, 1500, 4)
BEGINS = np.cumsum((0, *LENGTHS))
PIECES = range(len(LENGTHS))
ASP = Rule()
BSP = Rule(bound=0, gather="step")

# The core's options, and torch's optimizer with the same.
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "sgd": (SgdOptions(lr=0.1, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.01)),
    "momentum": (SgdOptions(lr=0.1, momentum=0.9, dampening=0.5),
                 lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5)),
    "nesterov": (SgdOptions(lr=0.1, momentum=0.9, nesterov=True),
                 lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "adamw": (AdamOptions(lr=0.1, weight_decay=0.1, decoupled=True),
              lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1)),
    "amsgrad": (AdamOptions(lr=0.1, amsgrad=True),
                lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True)),
    "adagrad": (AdagradOptions(lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2),
                lambda p: torch.optim.Adagrad(
                    p, lr=0.1, lr_decay=0.1, initial_accumulator_value=0.2)),
}  # fmt: skip
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

PRESENCE = st.lists(
    st.lists(st.booleans(), min_size=len(LENGTHS), max_size=len(LENGTHS)), min_size=1, max_size=8
)


def make_shard(options: Any, rule: Rule, workers: int = 1, **more: Any) -> Shard:
    spec = ChunkSpec(
        values=sum(LENGTHS), dtype="f64", kind="parameter", piece_lengths=LENGTHS,
        piece_slots=list(PIECES),
    )  # fmt: skip
    shard = Shard([spec], options, rule=rule, **{"nonfinite": Nonfinite.RAISE, **more})
    shard.init(0, first_values())
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
    return shard


def first_values() -> Array:
    return np.linspace(-1, 1, sum(LENGTHS))


def gradient(worker: int, step: int) -> Array:
    return np.random.default_rng([worker, step]).standard_normal(sum(LENGTHS))


def bits(present: list[bool]) -> bytes:
    """The slots that are absent, as a push names them."""
    return bytes([sum(1 << i for i in PIECES if not present[i])]) if not all(present) else b""


def push(shard: Shard, worker: int, step: int, present: list[bool], samples: int = 1) -> Any:
    """A step whose absent parts hold what must not be read; without any part, no payload at all."""
    payload = gradient(worker, step)
    for piece in PIECES:
        if not present[piece]:
            payload[BEGINS[piece] : BEGINS[piece + 1]] = 1e300
    if not any(present):
        return shard.push(0, worker, step, samples, None, True, answer=payload)
    return shard.push(0, worker, step, samples, payload, True, absent=bits(present))


def values_of(shard: Shard) -> Array:
    values = np.empty(sum(LENGTHS))
    shard.pull(0, None, values)
    return values


class Reference:
    """torch, with a tensor for each slot."""

    def __init__(self, name: str) -> None:
        values = torch.from_numpy(first_values())
        self.tensors = [t.clone().requires_grad_() for t in values.split(LENGTHS)]
        self.optimizer = OPTIMIZERS[name][1](self.tensors)

    def step(self, gradient: Array, present: list[bool]) -> None:
        for tensor, part, is_there in zip(
            self.tensors, torch.from_numpy(gradient).split(LENGTHS), present, strict=True
        ):
            tensor.grad = part.clone() if is_there else None
        self.optimizer.step()

    @property
    def values(self) -> Array:
        with torch.no_grad():
            return torch.cat(self.tensors).numpy()


@every_optimizer
@given(steps=PRESENCE)
@settings(max_examples=25)
def test_a_slot_without_a_gradient_takes_no_step(name: str, steps: list[list[bool]]) -> None:
    shard, reference = make_shard(OPTIMIZERS[name][0], ASP), Reference(name)
    for step, present in enumerate(steps, start=1):
        push(shard, 1, step, present)
        reference.step(gradient(1, step), present)
        np.testing.assert_allclose(values_of(shard), reference.values, rtol=1e-11, atol=1e-13)
    counts = [sum(present[piece] for present in steps) for piece in PIECES]
    assert shard.updates(0) == counts
    assert shard.version(0) == sum(any(present) for present in steps)


@every_optimizer
@given(steps=st.lists(st.tuples(PRESENCE.map(lambda s: s[0]), PRESENCE.map(lambda s: s[0])),
                      min_size=1, max_size=6))  # fmt: skip
@settings(max_examples=25)
def test_in_a_mean_an_absent_slot_counts_as_zeros_unless_nobody_has_it(
    name: str, steps: list[tuple[list[bool], list[bool]]]
) -> None:
    shard, reference = make_shard(OPTIMIZERS[name][0], BSP, workers=2), Reference(name)
    for step, presents in enumerate(steps, start=1):
        mean = np.zeros(sum(LENGTHS))
        for worker, present in enumerate(presents, start=1):
            push(shard, worker, step, present, samples=worker)
            part = gradient(worker, step) * np.repeat(present, LENGTHS)
            mean += part * (worker / 3)
        reference.step(mean, [a or b for a, b in zip(*presents, strict=True)])
        np.testing.assert_allclose(values_of(shard), reference.values, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
def test_a_chunk_without_any_gradient_ticks_and_is_answered(rule: Rule) -> None:
    shard = make_shard(OPTIMIZERS["adamw"][0], rule)
    answer = np.zeros(sum(LENGTHS))
    result = shard.push(0, 1, 1, 1, None, True, answer=answer)
    assert (result.clock, [reply.step for reply in result.replies]) == (1, [1])
    assert (answer == first_values()).all()
    assert (shard.version(0), shard.updates(0)) == (0, [0] * len(LENGTHS))


def test_a_push_of_nothing_needs_memory_for_its_answer() -> None:
    shard = make_shard(SgdOptions(lr=1.0), ASP)
    with pytest.raises(ValueError, match="chunk 0: answer: expected memory"):
        shard.push(0, 1, 1, 1, None, True)
    assert shard.push(0, 1, 1, 1, None, False).clock == 1


@every_optimizer
def test_counts_and_buffers_go_on_where_an_earlier_run_left_them(name: str) -> None:
    options = OPTIMIZERS[name][0]
    straight, earlier = (make_shard(options, ASP) for _ in range(2))
    patterns = [[True, False, True, True, False], [False, False, True, False, True]]
    for step, present in enumerate(patterns, start=1):
        push(straight, 1, step, present)
        push(earlier, 1, step, present)
    values = values_of(earlier)
    later = Shard(
        [ChunkSpec(values=sum(LENGTHS), dtype="f64", kind="parameter", piece_lengths=LENGTHS,
                   piece_slots=list(PIECES))],
        options, rule=ASP, nonfinite=Nonfinite.RAISE,
    )  # fmt: skip
    later.init(0, values)
    for state in earlier.state_names():
        buffer = np.empty(sum(LENGTHS))
        earlier.state(0, state, buffer)
        later.load_state(0, state, buffer)
    later.set_version(0, earlier.version(0))
    later.set_updates(0, earlier.updates(0))
    later.join(1, 2)
    for shard in (straight, later):
        push(shard, 1, 3, [True] * len(LENGTHS))
    assert values_of(straight).tobytes() == values_of(later).tobytes()


# Options for groups of slots


def test_each_slot_goes_by_the_options_of_its_group() -> None:
    shard = make_shard(SgdOptions(lr=0.1, momentum=0.9), ASP)
    groups: list[Any] = [
        SgdOptions(lr=0.1, momentum=0.9, weight_decay=0.1), SgdOptions(lr=0.01, momentum=0.0),
    ]  # fmt: skip
    group_of_slot = [0, 1, 0, 1, 1]
    shard.set_options(1, groups, group_of_slot)
    reference = Reference("sgd")
    members: list[list[Any]] = [
        [t for t, g in zip(reference.tensors, group_of_slot, strict=True) if g == group]
        for group in (0, 1)
    ]
    reference.optimizer = torch.optim.SGD(
        [{"params": members[0], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
         {"params": members[1], "lr": 0.01, "momentum": 0.0}], lr=1.0,
    )  # fmt: skip
    for step in range(1, 5):
        push(shard, 1, step, [True] * len(LENGTHS))
        reference.step(gradient(1, step), [True] * len(LENGTHS))
        np.testing.assert_allclose(values_of(shard), reference.values, rtol=1e-11, atol=1e-13)


def test_a_mean_goes_by_the_options_of_its_lowest_worker() -> None:
    shard = make_shard(SgdOptions(lr=1.0), BSP, workers=2)
    for worker, lr in ((1, 0.5), (2, 0.25)):
        shard.set_options(worker, [SgdOptions(lr=lr)], [0] * len(LENGTHS))
    for worker in (2, 1):
        push(shard, worker, 1, [True] * len(LENGTHS))
    mean = (gradient(1, 1) + gradient(2, 1)) / 2
    np.testing.assert_allclose(
        values_of(shard), first_values() - 0.5 * mean, rtol=1e-11, atol=1e-13
    )


def test_a_group_brings_its_values_into_a_range() -> None:
    shard = make_shard(SgdOptions(lr=1.0), ASP)
    shard.set_options(
        1, [SgdOptions(lr=1.0), SgdOptions(lr=1.0)], [0, 0, 0, 1, 1],
        [(-np.inf, np.inf), (-0.01, 0.02)],
    )  # fmt: skip
    push(shard, 1, 1, [True] * len(LENGTHS))
    plain = first_values() - gradient(1, 1)
    expected = np.concatenate([plain[: BEGINS[3]], plain[BEGINS[3] :].clip(-0.01, 0.02)])
    assert values_of(shard).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("groups", "group_of_slot", "clamps", "told"),
    [
        ([AdamOptions()], [0] * 5, [], "own optimizer"),
        ([SgdOptions(momentum=0.9)], [0] * 5, [], "started without momentum"),
        ([SgdOptions()], [0, 0, 1, 0, 0], [], "groups below 1"),
        ([SgdOptions()], [0] * 4, [], "a slot has no group"),
        ([SgdOptions()], [0] * 5, [(1.0, 0.0)], "expected a range"),
        ([SgdOptions()], [0] * 5, [(np.nan, 0.0)], "expected a range"),
        ([SgdOptions()], [0] * 5, [(0.0, 1.0)] * 2, "a range for each group"),
    ],
)
def test_options_that_cannot_be_are_refused(
    groups: list[Any], group_of_slot: list[int], clamps: list[tuple[float, float]], told: str
) -> None:
    shard = make_shard(SgdOptions(lr=1.0), ASP)
    with pytest.raises(ValueError, match=told):
        shard.set_options(1, groups, group_of_slot, clamps)


def test_options_are_those_of_a_live_worker() -> None:
    shard = make_shard(SgdOptions(lr=1.0), ASP)
    with pytest.raises(KeyError):
        shard.set_options(2, [SgdOptions()], [0] * 5)


# Values that everybody gets


def test_published_values_are_an_update_that_the_optimizer_has_no_part_in() -> None:
    shard = make_shard(OPTIMIZERS["momentum"][0], ASP)
    assert shard.publish(0, np.ones(sum(LENGTHS))) is None
    assert (values_of(shard) == 1).all()
    assert (shard.version(0), shard.updates(0)) == (1, [0] * len(LENGTHS))
    assert shard.publish(0, np.array([1.0, np.inf, *[1.0] * (sum(LENGTHS) - 2)])) == 1
    assert (values_of(shard) == 1).all()


@pytest.mark.parametrize(
    ("lengths", "slots"), [([3, 0], [0, 1]), ([1], [0]), ([3], []), ([3], [0, 1])]
)
def test_pieces_make_up_the_chunk(lengths: list[int], slots: list[int]) -> None:
    with pytest.raises(ValueError, match="piece_"):
        ChunkSpec(3, "f32", "parameter", lengths, slots)
