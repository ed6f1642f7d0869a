"""Sums and the look for NaN, on every instruction set of this CPU."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leash.ps._core import instruction_sets, kernels
from support.values import random_values, unaligned

Array = NDArray[Any]

SIZES = [0, 1, 15, 16, 17, 4097]
DTYPES = [np.float32, np.float64]

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_size = pytest.mark.parametrize("n", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_isa
@every_size
@every_dtype
def test_accumulate_sums_weighted_payloads(isa: str, n: int, dtype: Any) -> None:
    a, b = random_values(n, dtype, seed=1), random_values(n, dtype, seed=2)
    total: Array = np.full(n, np.nan, dtype)
    kernels.accumulate(isa, total, unaligned(a), 0.3, True)
    kernels.accumulate(isa, total, unaligned(b), 0.7, False)
    assert total.tobytes() == (dtype(0.3) * a + dtype(0.7) * b).tobytes()


@every_isa
@every_dtype
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [0, 1, 15, 16, 1023, 1024, 2047, 4096])
def test_first_nonfinite_finds_the_first(isa: str, dtype: Any, bad: float, index: int) -> None:
    values = random_values(4097, dtype, seed=0)
    values[index] = bad
    values[-1] = np.nan
    name = "f32" if dtype is np.float32 else "f64"
    assert kernels.first_nonfinite(isa, name, unaligned(values), 4097) == index


@every_isa
@every_size
@every_dtype
def test_first_nonfinite_is_n_when_all_are_finite(isa: str, n: int, dtype: Any) -> None:
    values: Array = np.resize(
        np.array([0.0, -0.0, np.finfo(dtype).max, np.finfo(dtype).tiny / 2], dtype), n
    )
    name = "f32" if dtype is np.float32 else "f64"
    assert kernels.first_nonfinite(isa, name, unaligned(values), n) == n


def test_integers_and_strided_arrays_are_not_converted() -> None:
    integers: Array = np.zeros(4, np.int32)
    strided: Array = np.zeros(8, np.float32)[::2]
    for values in (integers, strided):
        with pytest.raises(TypeError):
            kernels.accumulate("generic", values, bytes(16), 1.0, True)


def test_a_read_only_array_is_refused() -> None:
    w = np.zeros(4, np.float32)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        kernels.accumulate("generic", w, bytes(16), 1.0, True)
