"""The work that every system gets, so that their figures can be compared."""

import socket
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

# So small that parameters pushed as gradients, as a round in shared memory leaves them, do not
# fade into denormal numbers, which some processors add slowly.
LR: Final = 1e-6
GRADIENT: Final = 1e-3
CHUNK_NBYTES: Final = 1 << 20
WINDOW: Final = 16


F32: TypeAlias = npt.NDArray[np.float32]


def bytes_of(nbytes: int, value: float) -> npt.NDArray[np.uint8]:
    """Makes memory of this many bytes, all touched, full of one f32 value."""
    return np.full(nbytes // 4, value, np.float32).view(np.uint8)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
