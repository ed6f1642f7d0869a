"""Makes a worker's step engine: its side of the data connections, without sockets."""

import os
from collections.abc import Callable
from enum import Enum

import numpy as np

from leash.ps._core import StepChunk, StepEngine
from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Layout
from leash.ps.wire.messages import Attach, Welcome
from leash.ps.wire.segment import RING_SHARDS, SLABS, SegmentMap
from leash.worker.client.encoding import WITH_FEEDBACK, Encoding
from leash.worker.client.memory import Slab, SlabMemory


class Transport(Enum):
    """How gradients get to the server and parameters back: one of the two ways."""

    tcp = "every message has a payload"
    shm = "messages name chunks in memory that the server has mapped too"


def make_engine(
    layout: Layout, welcome: Welcome, encoding: Encoding, memory: Slab, places: SegmentMap,
    residual: Slab,
) -> StepEngine:  # fmt: skip
    """Makes the engine of a worker that has said hello; another one for each hello.

    Args:
        layout: of the model.
        welcome: the answer to the hello.
        encoding: the codec that was agreed on, and its settings.
        memory: the two slabs, and the outbox if a codec needs one.
        places: where they lie in it.
        residual: what rounding has left over so far, as `residual_for` begins it; the engine
            changes it.

    Returns:
        The engine, without a connection.
    """
    chunks = layout.cut(welcome.chunk_nbytes)
    return StepEngine(
        [StepChunk(c.start, c.values, c.dtype, c.kind, layout.pieces(c)) for c in chunks],
        worker=welcome.worker,
        incarnation=welcome.incarnation,
        window=welcome.window,
        first_chunks=welcome.first_chunks,
        codec=encoding.codec,
        int8_block=encoding.int8_block,
        topk_ratio=encoding.topk_ratio,
        answer_codec=encoding.answer_codec,
        memory=memory.data,
        slabs=(places.slab(0), places.slab(1)),
        outbox=places.slab(SLABS) if places.has_outbox else None,
        states=places.states,
        residual=residual.data,
    )


def residual_for(encoding: Encoding, slab_nbytes: int) -> Slab:
    """Makes the memory of what rounding leaves over of each value, laid out like a slab.

    Args:
        encoding: the codec.
        slab_nbytes: the size of a slab.

    Returns:
        Zeros; nothing for a codec without error feedback.
    """
    return np.zeros(slab_nbytes if encoding.codec in WITH_FEEDBACK else 0, np.uint8)


def attach_writer(
    memory: SlabMemory, worker: int, incarnation: int, *, has_rings: bool
) -> Callable[[int, int], bytes]:
    """Makes the function that writes the header of an `attach` to a shard, with a number.

    Args:
        memory: of this process, which the shards are to map.
        worker: the rank.
        incarnation: of this process.
        has_rings: whether headers may go by the rings in the memory.
    """

    def write(shard: int, number: int) -> bytes:
        pipe = memory.pipe(shard)[0] if has_rings and shard < RING_SHARDS else 0
        return encode(
            Attach(
                worker, incarnation, os.getpid(), memory.fd or 0, memory.nbytes, memory.nonce,
                number, pipe,
            )
        )  # fmt: skip

    return write
