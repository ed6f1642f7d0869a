"""The kernels against torch.optim.SGD and numpy, on every instruction set of this CPU."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ps._core import SgdOptions, instruction_sets, kernels

Array = NDArray[Any]

SIZES = [0, 1, 15, 16, 17, 4097]
DTYPES = [np.float32, np.float64]
RELATIVE_ERROR = {np.float32: 1e-6, np.float64: 1e-14}
OPTIONS = [
    {"lr": 0.1, "momentum": m, "dampening": d, "weight_decay": w, "nesterov": n}
    for m, d, w, n in product([0.0, 0.9], [0.0, 0.3], [0.0, 0.01], [False, True])
    if not n or (m > 0 and d == 0)
]

every_isa = pytest.mark.parametrize("isa", instruction_sets())
every_size = pytest.mark.parametrize("n", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)


def random_values(n: int, dtype: Any, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def unaligned(values: Array) -> memoryview:
    """The same bytes at an odd address."""
    memory = bytearray(1 + values.nbytes)
    memory[1:] = values.tobytes()
    return memoryview(memory)[1:]


def torch_sgd(w: Array, gradients: list[Array], options: dict[str, Any]) -> Array:
    parameter = torch.tensor(w, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], **options)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


def kernel_sgd(isa: str, w: Array, gradients: list[Array], options: dict[str, Any]) -> Array:
    """Returns the last reply, which must equal the parameters."""
    w = w.copy()
    momentum = np.full_like(w, np.nan) if options["momentum"] else None  # the first step ignores it
    for index, gradient in enumerate(gradients):
        payload = unaligned(gradient)
        kernels.sgd(isa, w, momentum, payload, payload, SgdOptions(**options), index == 0)
        assert bytes(payload) == w.tobytes()
    return w


def assert_near(actual: Array, expected: Array, relative: float) -> None:
    scale = float(np.abs(expected).max(initial=0.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale)


@every_isa
@every_size
@every_dtype
@every_option
def test_sgd_matches_torch_on_an_unaligned_gradient(
    isa: str, n: int, dtype: Any, options: dict[str, Any]
) -> None:
    w = random_values(n, dtype, seed=0)
    gradients = [random_values(n, dtype, seed=s) for s in (1, 2, 3)]
    assert_near(
        kernel_sgd(isa, w, gradients, options),
        torch_sgd(w, gradients, options),
        RELATIVE_ERROR[dtype],
    )


@every_size
@every_dtype
@every_option
def test_every_instruction_set_gives_the_same_bits(
    n: int, dtype: Any, options: dict[str, Any]
) -> None:
    w = random_values(n, dtype, seed=0)
    gradients = [random_values(n, dtype, seed=s) for s in (1, 2, 3)]
    results = [kernel_sgd(isa, w, gradients, options).tobytes() for isa in instruction_sets()]
    assert results == [results[0]] * len(results)


@every_isa
@every_dtype
def test_sgd_can_write_the_reply_elsewhere_or_nowhere(isa: str, dtype: Any) -> None:
    gradient = random_values(17, dtype, seed=1)
    before = gradient.copy()
    w, w_without = random_values(17, dtype, seed=0), random_values(17, dtype, seed=0)
    reply: Array = np.zeros(17, dtype)
    kernels.sgd(isa, w, None, gradient, reply, SgdOptions(lr=0.5), False)
    kernels.sgd(isa, w_without, None, gradient, None, SgdOptions(lr=0.5), False)
    assert reply.tobytes() == w.tobytes() == w_without.tobytes()
    assert gradient.tobytes() == before.tobytes()


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


def test_float64_is_not_converted_for_a_float32_kernel() -> None:
    w32 = np.zeros(4, np.float32)
    w64: Array = np.zeros(4, np.float64)
    options = SgdOptions(lr=0.1, momentum=0.9)
    with pytest.raises(TypeError):
        kernels.sgd("generic", w32, w64, w32, None, options, True)
    with pytest.raises(ValueError, match="gradient: expected 16 bytes, got 32"):
        kernels.sgd("generic", w32, w32.copy(), w64, None, options, True)


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


def test_momentum_memory_must_go_with_the_option() -> None:
    w = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="momentum: expected a buffer exactly if"):
        kernels.sgd("generic", w, None, bytes(16), None, SgdOptions(lr=0.1, momentum=0.9), True)
