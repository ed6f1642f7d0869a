"""What int8 and topk send, and what they keep for later. That their payloads are read as they are
described is in test_codecs.py.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leash.ps._core import codecs, instruction_sets
from support.values import random_values

Floats = NDArray[np.float32]
Encode = Callable[[Floats, Floats, int], Floats]  # gradient, residual, seed ▸ what is decoded

SIZES = [1, 15, 16, 17, 31, 32, 33, 4097, 20000]

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_size = pytest.mark.parametrize("n", SIZES)


def decode(codec: str, payload: memoryview, n: int) -> Floats:
    out = np.full(n, np.nan, np.float32)
    codecs.decode(codec, payload, out)
    return out


def through_int8(
    gradient: Floats, residual: Floats, seed: int, block: int = 64, isa: str | None = None
) -> Floats:
    out = memoryview(bytearray(codecs.nbytes("int8", gradient.size, block=block) + 1))[1:]
    assert codecs.encode_int8(gradient, residual, out, block, seed, isa=isa) == out.nbytes
    return decode("int8", out, gradient.size)


def through_topk(gradient: Floats, residual: Floats, k: int, isa: str | None = None) -> Floats:
    out = memoryview(bytearray(8 * k + 1))[1:]
    assert codecs.encode_topk(gradient, residual, out, k, isa=isa) == out.nbytes
    return decode("topk", out, gradient.size)


def one_percent(gradient: Floats, residual: Floats, seed: int) -> Floats:
    del seed
    return through_topk(gradient, residual, max(1, gradient.size // 100))


def scales_of(values: Floats, block: int) -> Floats:
    """The scale of each value."""
    padded = np.zeros(-(-values.size // block) * block, np.float32)
    padded[: values.size] = np.abs(values)
    return np.repeat(padded.reshape(-1, block).max(axis=1) / np.float32(127), block)[: values.size]


# int8.


@every_isa
@every_size
@pytest.mark.parametrize("block", [64, 1024, 65536])
def test_int8_is_one_of_the_two_neighbours_and_keeps_the_error(
    n: int, block: int, isa: str
) -> None:
    gradient, residual = random_values(n, seed=1), random_values(n, seed=2)
    e, scales = gradient + residual, scales_of(gradient + residual, block)
    decoded = through_int8(gradient, residual, 7, block, isa)
    assert (np.abs(e - decoded) < scales * (1 + 1e-4)).all()
    assert residual.tobytes() == (e - decoded).tobytes()
    largest = np.abs(e) == scales * 127
    np.testing.assert_allclose(decoded[largest], e[largest], rtol=1e-6)


@given(seed=st.integers(0, 2**64 - 1), n=st.integers(1, 3000), power=st.integers(-120, 120))
def test_every_instruction_set_rounds_alike(seed: int, n: int, power: int) -> None:
    gradient = random_values(n, seed=seed % 1000) * np.float32(2.0**power)
    kept = [np.zeros(n, np.float32) for _ in instruction_sets()]
    made = [
        through_int8(gradient, residual, seed, 256, isa).tobytes()
        for isa, residual in zip(instruction_sets(), kept, strict=True)
    ]
    assert made == [made[0]] * len(made)
    assert all(residual.tobytes() == kept[0].tobytes() for residual in kept)


def test_the_same_seed_rounds_alike_and_another_does_not() -> None:
    gradient = random_values(4096)
    made = [through_int8(gradient, np.zeros_like(gradient), seed) for seed in (5, 5, 6, 5 + 2**32)]
    assert made[0].tobytes() == made[1].tobytes()
    for other in made[2:]:
        assert 0.2 < np.mean(made[0] != other) < 0.5  # a third, if each is at random


def roundings(fraction: float, n: int, seeds: range) -> NDArray[np.bool_]:
    """Whether each value was rounded up, where every value but the first is `fraction` scales."""
    gradient = np.full(n, fraction, np.float32)
    gradient[0] = 127.0  # so the scale is 1
    return np.array(
        [through_int8(gradient, np.zeros(n, np.float32), s, 65536)[1:] != 0 for s in seeds]
    )


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9, 0.999])
def test_a_value_is_rounded_up_as_often_as_its_fraction(fraction: float) -> None:
    up = roundings(fraction, 4001, range(100))
    deviation = math.sqrt(fraction * (1 - fraction))
    assert abs(up.mean() - fraction) < 5 * deviation / math.sqrt(up.size) + 2**-16
    # So it is for each value over all seeds, and for each seed over all values.
    for axis, count in ((0, 100), (1, 4000)):
        spread = up.mean(axis=axis).std() / (deviation / math.sqrt(count))
        assert 0.8 < spread < 1.2


def test_roundings_of_neighbours_and_of_neighbouring_seeds_are_unrelated() -> None:
    up = roundings(0.5, 4001, range(100)).astype(np.float64) - 0.5
    for lag in (1, 2, 16, 64, 1024):
        related = 4 * np.mean(up[:, lag:] * up[:, :-lag])
        assert abs(related) < 5 / math.sqrt(up[:, lag:].size)
    for lag in (1, 2, 32):
        assert abs(4 * np.mean(up[lag:] * up[:-lag])) < 5 / math.sqrt(up[lag:].size)


def test_int8_is_unbiased() -> None:
    gradient, seeds = random_values(1000, seed=3), 2000
    total = np.zeros(1000)
    for seed in range(seeds):
        total += through_int8(gradient, np.zeros_like(gradient), seed, 1024)
    scale = np.abs(gradient).max() / 127
    # Five standard deviations of the mean of a rounding, which has at most half a scale.
    assert (np.abs(total / seeds - gradient) < 5 * 0.5 * scale / math.sqrt(seeds)).all()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, -1.4e-36])
def test_a_block_near_zero_is_sent_as_zeros_and_waits(value: float) -> None:
    gradient, residual = np.full(100, value, np.float32), np.zeros(100, np.float32)
    assert (through_int8(gradient, residual, 1) == 0).all()
    assert (residual == gradient).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3.39e38])
@every_isa
def test_a_block_that_is_not_finite_is_seen_and_forgotten(bad: float, isa: str) -> None:
    gradient, residual = random_values(200), np.zeros(200, np.float32)
    gradient[70] = bad
    decoded = through_int8(gradient, residual, 1, 64, isa)
    assert np.isnan(decoded).nonzero()[0].tolist() == list(range(64, 128))
    assert (residual[64:128] == 0).all()
    assert (residual[:64] != 0).any()


def test_a_sum_that_overflows_is_seen() -> None:
    gradient, residual = np.full(2, 3e38, np.float32), np.full(2, 3e38, np.float32)
    assert np.isnan(through_int8(gradient, residual, 1)).all()
    assert (residual == 0).all()


# topk.


def largest_first(e: Floats) -> NDArray[np.int64]:
    """All indices, by magnitude; NaN before all, and of equal ones the lowest first."""
    magnitudes = np.where(np.isnan(e), np.inf, np.abs(e).astype(np.float64))
    return np.lexsort((np.arange(e.size), -magnitudes, ~np.isnan(e)))


def assert_takes_the_largest(e: Floats, k: int, isa: str | None = None) -> None:
    residual = np.zeros_like(e)
    decoded = through_topk(e, residual, k, isa)
    e = e + np.float32(0)  # the residual, which makes -0 a 0
    expected, rest = np.zeros_like(e), e.copy()
    chosen = largest_first(e)[:k]
    expected[chosen], rest[chosen] = e[chosen], 0
    rest[~np.isfinite(rest)] = 0
    assert decoded.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(residual, rest)


@every_isa
@every_size
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5])
def test_topk_sends_what_torch_finds(n: int, share: float, isa: str) -> None:
    gradient, residual = random_values(n, seed=1), random_values(n, seed=2)
    e, k = gradient + residual, int(n * share)
    decoded = through_topk(gradient, residual, k, isa)
    chosen = decoded != 0
    found = torch.topk(torch.from_numpy(np.abs(e)), k).values.numpy()
    np.testing.assert_array_equal(np.sort(np.abs(decoded[chosen])), found[::-1])
    np.testing.assert_array_equal(decoded, np.where(chosen, e, 0))
    np.testing.assert_array_equal(residual, np.where(chosen, 0, e))


@given(
    kinds=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0000001, 1e-45, 1e38]), max_size=300),
    data=st.data(),
)
def test_of_equal_values_the_first_are_taken(kinds: list[float], data: st.DataObject) -> None:
    e = np.array(kinds, np.float32)
    k = data.draw(st.integers(0, max(e.size // 2, e.size == 1)))
    for isa in instruction_sets():
        assert_takes_the_largest(e, k, isa)


@given(bits=st.lists(st.integers(0, 2**32 - 1), max_size=300), data=st.data())
def test_topk_of_any_bits(bits: list[int], data: st.DataObject) -> None:
    e = np.array(bits, np.uint32).view(np.float32)
    e[np.isnan(e)] = np.nan  # they are all the same to the oracle
    k = data.draw(st.integers(0, max(e.size // 2, e.size == 1)))
    for isa in instruction_sets():
        assert_takes_the_largest(e, k, isa)


@every_isa
@pytest.mark.parametrize("shape", ["rising", "falling", "equal", "spike", "close"])
def test_topk_of_values_in_an_awkward_order(shape: str, isa: str) -> None:
    n = 30000
    rising = np.linspace(0.001, 1000, n, dtype=np.float32)
    e = {
        "rising": rising,
        "falling": rising[::-1].copy(),
        "equal": np.ones(n, np.float32),
        "spike": np.concatenate([np.zeros(n - 1, np.float32), np.ones(1, np.float32)]),
        "close": (np.arange(n, dtype=np.uint32)[::-1] + (127 << 23)).view(np.float32),
    }[shape]
    for k in (1, 300, 15000):
        assert_takes_the_largest(e, k, isa)


def test_nan_and_infinity_are_sent_and_never_kept() -> None:
    e = random_values(100)
    e[[10, 20, 30, 40]] = [np.inf, np.nan, -np.inf, np.nan]
    for k in (0, 1, 2, 3, 4, 5):
        assert_takes_the_largest(e, k)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_what_topk_leaves_out_is_within_the_stated_bound(share: float) -> None:
    for seed in range(20):
        e = random_values(1000, seed=seed)
        residual = np.zeros_like(e)
        through_topk(e, residual, int(1000 * share))
        assert np.sum(residual**2) <= (1 - share) * np.sum(e**2)


# Error feedback.

both_codecs = pytest.mark.parametrize("encode", [through_int8, one_percent])


@both_codecs
def test_what_was_decoded_and_the_residual_are_all_that_was_pushed(encode: Encode) -> None:
    steps, n = 200, 1000
    residual, pushed, decoded = np.zeros(n, np.float32), np.zeros(n), np.zeros(n)
    for step in range(steps):
        gradient = random_values(n, seed=step)
        pushed += gradient
        decoded += encode(gradient, residual, step)
    # Each step rounds a residual, which is a few dozen at most, to a relative 2^-24, twice.
    assert np.abs(decoded + residual - pushed).max() < steps * 2 * 64 * 2**-24


@both_codecs
def test_sgd_on_a_quadratic_converges(encode: Encode) -> None:
    rng = np.random.default_rng(0)
    n = 500
    target, curvature = random_values(n, seed=1), rng.uniform(0.5, 2.0, n).astype(np.float32)
    w, residual = np.zeros(n, np.float32), np.zeros(n, np.float32)
    for step in range(3000):
        gradient = curvature * (w - target)
        w -= np.float32(0.01) * encode(gradient, residual, step)
    assert np.abs(w - target).max() < 1e-3 * np.abs(target).max()
