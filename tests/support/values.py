"""Numbers for the core's tests."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def random_values(n: int, dtype: Any = np.float32, seed: int = 0) -> NDArray[Any]:
    """So many numbers of a normal distribution, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def unaligned(values: NDArray[Any] | bytes) -> memoryview:
    """The same bytes at an odd address."""
    memory = bytearray(b"\0" + memoryview(values).tobytes())
    return memoryview(memory)[1:]
