"""Threads share the work on a large chunk, and change no bit of it."""

import threading
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leash.ps._core import (
    AdagradOptions,
    AdamOptions,
    ChunkSpec,
    Nonfinite,
    Outcome,
    Rule,
    SgdOptions,
    Shard,
    codecs,
)

F32 = NDArray[np.float32]
ASP: dict[str, Any] = {"rule": Rule()}
BSP: dict[str, Any] = {"rule": Rule(bound=0, gather="step")}
SIZES = [100, 65_535, 65_536, 65_537, 70_001, 262_144]  # about where work begins to be shared
OPTIONS = [
    SgdOptions(lr=0.1, momentum=0.9, nesterov=True),
    AdamOptions(amsgrad=True),
    AdagradOptions(),
]


def gradient(n: int, seed: int) -> F32:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def make_shard(n: int, threads: int, policy: dict[str, Any], options: Any) -> Shard:
    shard = Shard(
        [ChunkSpec(values=n, dtype="f32", kind="parameter")], options, **policy,
        nonfinite=Nonfinite.RAISE, threads=threads,
    )  # fmt: skip
    shard.init(0, gradient(n, 0))
    for worker in (1, 2):
        shard.join(worker, 0)
    return shard


def trained(n: int, threads: int, policy: dict[str, Any], options: Any, codec: str) -> bytes:
    """All answers of three steps of two workers."""
    shard = make_shard(n, threads, policy, options)
    answers = []
    for step in (1, 2, 3):
        for worker in (1, 2):
            payload = gradient(n, 10 * step + worker)
            if codec != "raw":
                half = bytearray(2 * n)
                codecs.encode_half(codec, payload, half)
                shard.push(0, worker, step, worker, half, True, codec=codec)
                answers.append(half)
            else:
                shard.push(0, worker, step, worker, payload, True)
                answers.append(payload)
    return b"".join(bytes(answer) for answer in answers)


@pytest.mark.parametrize("policy", [ASP, BSP], ids=["asp", "bsp"])
@pytest.mark.parametrize("options", OPTIONS, ids=["sgd", "adam", "adagrad"])
@pytest.mark.parametrize("codec", ["raw", "bf16"])
def test_any_number_of_threads_gives_the_same_bits(
    policy: dict[str, Any], options: Any, codec: str
) -> None:
    for n in SIZES:
        alone = trained(n, 1, policy, options, codec)
        for threads in (2, 3, 7):
            assert trained(n, threads, policy, options, codec) == alone


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_of_several_nan_is_found(threads: int) -> None:
    n = 262_144
    shard = make_shard(n, threads, ASP, OPTIONS[0])
    for step, places in enumerate([(0,), (5, 70_000), (n - 1,), (100_000, n - 1)], start=1):
        payload = gradient(n, 0)
        payload[list(places)] = np.nan
        assert shard.push(0, 1, step, 1, payload, True).nonfinite_index == places[0]


def test_many_short_calls_and_long_pauses() -> None:
    shard = make_shard(65_536, 3, ASP, SgdOptions(lr=1.0))
    ones = np.ones(65_536, np.float32)
    for step in range(1, 301):
        payload = ones.copy()
        assert shard.push(0, 1, step, 1, payload, True).outcome is Outcome.APPLIED
        if step % 100 == 0:
            threading.Event().wait(0.02)  # long enough for the pool to fall asleep
    out = np.zeros(65_536, np.float32)
    shard.pull(0, None, out)
    np.testing.assert_allclose(out, gradient(65_536, 0) - 300, rtol=0, atol=0.01)


def test_pushes_from_several_callers_share_one_pool() -> None:
    shard = make_shard(65_536, 2, ASP, SgdOptions(lr=1.0))

    def work(worker: int) -> None:
        for step in range(1, 51):
            shard.push(0, worker, step, 1, np.ones(65_536, np.float32), True)

    callers = [threading.Thread(target=work, args=(worker,)) for worker in (1, 2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert shard.version(0) == 100


@pytest.mark.parametrize("threads", [0, 257])
def test_a_number_of_threads_that_no_pool_has_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads: expected 1 to 256, got {threads}"):
        make_shard(4, threads, ASP, SgdOptions(lr=1.0))
