"""No value that is not finite is ever stored, and nothing but the bad blocks is left out."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    SumOptions,
)

F32 = npt.NDArray[np.float32]

BLOCK = 1024
ASP = Rule()
BSP = Rule(bound=0, gather="step")
OPTIONS: dict[str, Any] = {
    "sgd": SgdOptions(lr=0.5),
    "momentum": SgdOptions(lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": AdamOptions(lr=0.5),
    "adam without eps": AdamOptions(lr=0.5, eps=0.0, betas=(0.0, 0.0)),
    "amsgrad": AdamOptions(lr=0.5, amsgrad=True, weight_decay=1.0, decoupled=True),
    "adagrad": AdagradOptions(lr=0.5),
    "sum": SumOptions(lr=1.0),
    "large rates": SgdOptions(lr=1e30, momentum=0.99),
}
# Where overflows begin: numbers of ordinary size, and those near the ends of the range.
NUMBERS = st.sampled_from([0.0, 1.0, -2.5, 1e-30, 1e18, -1e20, 3.4e38, -3.4e38, np.inf, np.nan])


def make_shard(options: Any, n: int, rule: Rule = ASP, workers: int = 1, **more: Any) -> Shard:
    spec = ChunkSpec(values=n, dtype="f32", kind="parameter")
    shard = Shard([spec], options, rule=rule, **{"nonfinite": Nonfinite.SKIP, **more})
    shard.init(0, np.ones(n, np.float32))
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
    return shard


def values_of(shard: Shard, n: int) -> F32:
    values = np.empty(n, np.float32)
    shard.pull(0, None, values)
    return values


def states_of(shard: Shard, n: int) -> list[F32]:
    states = []
    for name in shard.state_names():
        states.append(np.empty(n, np.float32))
        shard.state(0, name, states[-1])
    return states


@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
@pytest.mark.parametrize("name", OPTIONS)
@given(pushes=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=12))
@settings(max_examples=30)
def test_whatever_is_pushed_what_is_stored_is_finite(
    name: str, rule: Rule, pushes: list[list[float]]
) -> None:
    shard = make_shard(OPTIONS[name], 4, rule)
    for step, numbers in enumerate(pushes, start=1):
        payload = np.array(numbers, np.float32)
        shard.push(0, 1, step, 1, payload, True)
        assert np.isfinite(payload).all(), "the answer"
        assert np.isfinite(values_of(shard, 4)).all()
        if shard.has_state(0):
            assert all(np.isfinite(state).all() for state in states_of(shard, 4))


@pytest.mark.parametrize("kind", ["constant", "adaptive"])
@given(pushes=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=1, max_size=12))
@settings(max_examples=30)
def test_nor_does_delay_compensation_store_what_is_not_finite(
    kind: str, pushes: list[list[float]]
) -> None:
    compensation = DelayCompensation(kind)
    shard = make_shard(SgdOptions(lr=0.5, momentum=0.9), 4, workers=2, compensation=compensation)
    for step, numbers in enumerate(pushes, start=1):
        for worker in (1, 2):
            shard.push(0, worker, step, 1, np.array(numbers, np.float32), True)
            assert np.isfinite(values_of(shard, 4)).all()
            assert all(np.isfinite(state).all() for state in states_of(shard, 4))


@pytest.mark.parametrize("name", ["momentum", "adam", "amsgrad", "adagrad"])
def test_an_update_that_is_looked_at_gives_the_same_bits_as_one_that_is_not(name: str) -> None:
    n = 3 * BLOCK + 17
    dice = np.random.default_rng(3)
    shards = [make_shard(OPTIONS[name], n, nonfinite=kind)
              for kind in (Nonfinite.SKIP, Nonfinite.APPLY)]  # fmt: skip
    for step in range(1, 6):
        gradient = dice.standard_normal(n).astype(np.float32) * np.float32(1e-20)
        gradient[::700] = 1e17  # its square is far beyond the others
        answers = [gradient.copy() for _ in shards]
        for shard, answer in zip(shards, answers, strict=True):
            shard.push(0, 1, step, 1, answer, True)
        assert answers[0].tobytes() == answers[1].tobytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("codec", ["raw", "bf16"])
def test_exactly_the_bad_blocks_are_left_out_whatever_the_number_of_threads(
    threads: int, codec: str
) -> None:
    n, bad = 200 * BLOCK + 5, [3, 64, 65, 199, 200]
    shard = make_shard(SgdOptions(lr=1.0), n, threads=threads)
    gradient = np.ones(n, np.float32)
    for block in bad:
        gradient[block * BLOCK + 2] = np.inf
    payload = gradient if codec == "raw" else (gradient.view(np.uint32) >> 16).astype(np.uint16)
    result = shard.push(0, 1, 1, 1, payload, True, codec=codec)
    assert (result.outcome, result.nonfinite_index) == (Outcome.NONFINITE, 3 * BLOCK + 2)
    expected = np.zeros(n, np.float32)
    for block in bad:
        expected[block * BLOCK : (block + 1) * BLOCK] = 1
    assert values_of(shard, n).tolist() == expected.tolist()
    answer = payload if codec == "raw" else (payload.astype(np.uint32) << 16).view(np.float32)
    assert answer.tolist() == expected.tolist()


def test_many_finite_pushes_do_not_add_up_to_infinity() -> None:
    shard = make_shard(SgdOptions(lr=1.0), 2, nonfinite=Nonfinite.RAISE)
    outcomes = [shard.push(0, 1, step, 1, np.full(2, -3.4e38, np.float32), False).outcome
                for step in range(1, 4)]  # fmt: skip
    assert outcomes == [Outcome.APPLIED, Outcome.NONFINITE, Outcome.NONFINITE]
    assert np.isfinite(values_of(shard, 2)).all()
    assert shard.stats().nonfinite == 2


def test_a_mean_that_would_overflow_is_left_out_and_told_with_its_step() -> None:
    shard = make_shard(SgdOptions(lr=10.0), 3, BSP, workers=2, nonfinite=Nonfinite.RAISE)
    for worker in (1, 2):
        result = shard.push(0, worker, 1, 1, np.array([0, 3e38, 0], np.float32), True)
        assert result.outcome is Outcome.APPLIED  # each gradient is finite
    assert [reply.worker for reply in result.replies] == [1, 2]
    assert values_of(shard, 3).tolist() == [1, 1, 1]
    assert [(o.chunk, o.step, o.index) for o in shard.take_overflows()] == [(0, 1, 1)]
    assert shard.take_overflows() == []


def test_one_bad_worker_spoils_nobodys_mean() -> None:
    shard = make_shard(SgdOptions(lr=1.0), 2, BSP, workers=2)
    shard.push(0, 1, 1, 1, np.array([np.nan, 1], np.float32), True)
    shard.push(0, 2, 1, 1, np.array([2, 3], np.float32), True)
    assert values_of(shard, 2).tolist() == [-1, -2]


@pytest.mark.parametrize("rule", [ASP, BSP], ids=["asp", "bsp"])
def test_a_buffer_keeps_the_infinities_that_it_began_with_and_takes_no_others(rule: Rule) -> None:
    spec = ChunkSpec(values=3, dtype="f32", kind="buffer")
    shard = Shard([spec], SgdOptions(), rule=rule, nonfinite=Nonfinite.SKIP)
    shard.init(0, np.array([-np.inf, 0, 1], np.float32))  # as an attention mask has them
    shard.join(1, 0)
    shard.push(0, 1, 1, 1, np.array([-np.inf, 0, 2], np.float32), True)
    assert values_of(shard, 3).tolist() == [-np.inf, 0, 2]
    for step, bad in enumerate(([np.inf, 0, 2], [-np.inf, np.nan, 2]), start=2):
        result = shard.push(0, 1, step, 1, np.array(bad, np.float32), True)
        assert result.outcome is Outcome.NONFINITE
        assert values_of(shard, 3).tolist() == [-np.inf, 0, 2]


def test_first_values_and_buffers_of_a_checkpoint_are_looked_at_too() -> None:
    shard = Shard([ChunkSpec(3, "f32", "parameter")], AdamOptions(), rule=ASP,
                  nonfinite=Nonfinite.RAISE)  # fmt: skip
    with pytest.raises(ValueError, match="chunk 0: value 2 is not finite"):
        shard.init(0, np.array([0, 0, np.inf], np.float32))
    assert not shard.initialized(0)
    with pytest.raises(ValueError, match="chunk 0: exp_avg 1 is not finite"):
        shard.load_state(0, "exp_avg", np.array([0, np.nan, 0], np.float32))
    with pytest.raises(ValueError, match="chunk 0: exp_avg_sq 0 is negative"):
        shard.load_state(0, "exp_avg_sq", np.array([-1, 0, 0], np.float32))
