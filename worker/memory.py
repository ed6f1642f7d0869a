"""The memory of the slabs."""

from typing import Final

import numpy as np
import numpy.typing as npt

PAGE_NBYTES: Final = 4096


class SlabMemory:
    """Slabs of one size, each beginning on a page, one behind the other."""

    def __init__(self, nbytes: int, slabs: int = 2) -> None:
        stride = -(-nbytes // PAGE_NBYTES) * PAGE_NBYTES
        whole = np.zeros(stride * slabs + PAGE_NBYTES, np.uint8)
        start = -whole.ctypes.data % PAGE_NBYTES
        self.slabs: Final[list[npt.NDArray[np.uint8]]] = [
            whole[start + i * stride :][:nbytes] for i in range(slabs)
        ]
