"""Parameters that are sums of what is pushed, against plain numpy."""

from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from leash.ps._core import (
    ChunkSpec,
    Nonfinite,
    Rule,
    Schedule,
    Shard,
    SumOptions,
    instruction_sets,
    kernels,
)
from support.values import random_values

Array = NDArray[Any]
SIZES = [0, 1, 15, 16, 17, 4097]
DTYPES = {"f32": np.float32, "f64": np.float64}
BSP: Final = Rule(bound=0, gather="step")
ASP: Final = Rule()

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def shard_of(n: int, dtype: str, rule: Rule, workers: int, lr: float = 1.0,
             schedule: Schedule | None = None) -> Shard:  # fmt: skip
    """scale_lr is on, as it is by default under bsp: sums must not mind."""
    shard = Shard(
        [ChunkSpec(values=n, dtype=dtype, kind="parameter")], SumOptions(lr), rule=rule,
        nonfinite=Nonfinite.RAISE, scale_lr=rule.gather == "step", schedule=schedule or Schedule(),
    )  # fmt: skip
    shard.init(0, random_values(n, DTYPES[dtype], seed=99).tobytes())
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
    return shard


@every_dtype
@pytest.mark.parametrize("lr", [0.0, 0.3, 1.0])
def test_the_kernel_is_the_formula_on_every_instruction_set(dtype: str, lr: float) -> None:
    of = DTYPES[dtype]
    for n in SIZES:
        for isa in instruction_sets():
            w, pushed = random_values(n, DTYPES[dtype], 0), random_values(n, DTYPES[dtype], 1)
            expected = of(1 - lr) * w + of(lr) * pushed
            reply = np.zeros(n, of)
            kernels.update(isa, w, [], pushed, reply, SumOptions(lr), 1)
            assert w.tobytes() == reply.tobytes()
            np.testing.assert_array_equal(w, expected)


@every_dtype
def test_with_a_rate_of_one_nothing_of_the_old_value_is_left(dtype: str) -> None:
    w = np.array([np.inf, np.nan, 1e30, -0.0], DTYPES[dtype])
    pushed = np.array([1, 2, 3, 4], DTYPES[dtype])
    kernels.update("generic", w, [], pushed, None, SumOptions(1.0), 1)
    assert w.tolist() == [1, 2, 3, 4]


@every_dtype
def test_bsp_is_the_plain_sum_in_the_order_of_worker_ids(dtype: str) -> None:
    n = 1500  # more than a block
    shard = shard_of(n, dtype, BSP, workers=3)
    pushed = {worker: random_values(n, DTYPES[dtype], worker) for worker in (1, 2, 3)}
    for worker in (3, 1, 2):  # whoever comes first
        # Samples weigh a mean, not a sum.
        last = shard.push(0, worker, 1, 10 * worker, pushed[worker].copy(), True)
    expected = (pushed[1] + pushed[2]) + pushed[3]
    out = np.zeros_like(expected)
    shard.pull(0, None, out)
    assert out.tobytes() == expected.tobytes()
    assert {reply.worker for reply in last.replies} == {1, 2, 3}


def test_one_that_left_is_no_part_of_the_sum() -> None:
    shard = shard_of(4, "f64", BSP, workers=3)
    pushed = {worker: random_values(4, np.float64, worker) for worker in (1, 2, 3)}
    replies = {worker: pushed[worker].copy() for worker in pushed}
    shard.push(0, 1, 1, 1, replies[1], True)
    shard.push(0, 3, 1, 1, replies[3], True)
    shard.leave(3)
    shard.push(0, 2, 1, 1, replies[2], True)
    np.testing.assert_array_equal(replies[1], pushed[1] + pushed[2])
    np.testing.assert_array_equal(replies[2], replies[1])


@every_dtype
def test_on_arrival_it_is_the_running_average_of_stochastic_approximation(dtype: str) -> None:
    n = 17
    schedule = Schedule("power", power=0.6, offset=2.0)
    shard = shard_of(n, dtype, ASP, workers=2, schedule=schedule)
    of, expected = DTYPES[dtype], random_values(n, DTYPES[dtype], seed=99)
    for update in range(12):
        worker, pushed = 1 + update % 2, random_values(n, DTYPES[dtype], update)
        rate = (update + 2.0) ** -0.6
        expected = of(1 - rate) * expected + of(rate) * pushed
        reply = pushed.copy()
        shard.push(0, worker, 1 + update // 2, 1, reply, True)
        np.testing.assert_allclose(reply, expected, rtol=4 * np.finfo(of).eps)


@pytest.mark.parametrize("lr", [-0.1, 1.1, float("nan")])
def test_a_rate_beyond_a_whole_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match="lr: expected a number from 0 to 1 for sums"):
        SumOptions(lr)
