"""The work that every system gets, so that their figures can be compared."""

import socket
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from leash.ps.wire.sockets import data_max_nbytes, data_queue

# So small that parameters pushed as gradients, as a round in shared memory leaves them, do not
# fade into denormal numbers, which some processors add slowly.
LR: Final = 1e-6
GRADIENT: Final = 1e-3
CHUNK_NBYTES: Final = 1 << 20
WINDOW: Final = 16
SSP_BOUND: Final = 3
# Of the sockets that carry such chunks.
QUEUE: Final = data_queue(WINDOW)
MAX_NBYTES: Final = data_max_nbytes(CHUNK_NBYTES)


F32: TypeAlias = npt.NDArray[np.float32]


def bytes_of(nbytes: int, value: float) -> npt.NDArray[np.uint8]:
    """Makes memory of this many bytes, all touched, full of one f32 value."""
    return np.full(nbytes // 4, value, np.float32).view(np.uint8)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
