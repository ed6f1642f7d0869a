"""A server in the shape of a client: it answers a chunk as soon as it is sent."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from leash.ps.wire.layout import Chunk, Layout
from leash.worker.client import StepInfo
from leash.worker.client.memory import Slab

Floats = npt.NDArray[np.float32]


@dataclass
class PromptExchange:
    """w -= lr * g, in float32, chunk by chunk; what is answered early lies in the slab early.

    With `early_nan` an answer is NaN until the step is finished: who reads it too soon shows it.
    """

    layout: Layout
    chunk_nbytes: int = 64
    lr: float = 0.5
    early_nan: bool = False
    fails_with: Exception | None = None  # raised by the next call
    chunks: tuple[Chunk, ...] = field(init=False)
    sent: list[int] = field(default_factory=list)  # chunks of this step, in their order
    sent_early: int = 0  # by advance, in all steps
    samples: int = 0
    gradients: dict[str, Floats] = field(default_factory=dict)  # of the step, by slot
    absent: set[str] = field(default_factory=set)  # of the step: slots without a gradient
    _weights: Floats | None = None

    def __post_init__(self) -> None:
        self.chunks = self.layout.cut(self.chunk_nbytes)

    def start(self, parameters: Slab) -> None:
        self._weights = parameters.view(np.float32).copy()
        self._pushed = np.zeros_like(self._weights)

    def begin_step(
        self, gradients: Slab, parameters: Slab, samples: int, *,
        absent: Collection[int] = (), held: Slab | None = None,
    ) -> None:  # fmt: skip
        self._fail()
        self._absent = absent
        assert gradients is parameters
        self._slab = gradients.view(np.float32)
        self.sent, self.samples = [], samples

    def advance(self, first_ready: int) -> None:
        self._fail()
        assert 0 <= first_ready <= len(self.chunks)
        before = len(self.sent)
        self._send(first_ready)
        self.sent_early += len(self.sent) - before

    def finish_step(self) -> StepInfo:
        self._fail()
        self._send(0)
        assert self._weights is not None
        self._slab[:] = self._weights
        self.gradients = {
            slot.name: self._pushed[offset // 4 : offset // 4 + slot.values].reshape(slot.shape)
            for offset, slot in zip(self.layout.offsets, self.layout.slots, strict=True)
        }
        self.absent = {self.layout.slots[number].name for number in self._absent}
        return StepInfo(1, 1, 0, 0, 0.0)

    def push_pull(
        self, gradients: Slab, parameters: Slab, samples: int, *,
        absent: Collection[int] = (), held: Slab | None = None,
    ) -> StepInfo:  # fmt: skip
        self.begin_step(gradients, parameters, samples, absent=absent, held=held)
        return self.finish_step()

    def check(self) -> None:
        self._fail()

    def _send(self, first_ready: int) -> None:
        assert self._weights is not None
        for chunk in self.chunks[first_ready : len(self.chunks) - len(self.sent)][::-1]:
            part = slice(chunk.start // 4, chunk.stop // 4)
            self._pushed[part] = self._slab[part]
            if chunk.kind == "buffer":
                self._weights[part] = self._pushed[part]
            else:
                self._weights[part] -= np.float32(self.lr) * self._pushed[part]
            self._slab[part] = np.nan if self.early_nan else self._weights[part]
            self.sent.append(chunk.index)

    def _fail(self) -> None:
        if self.fails_with is not None:
            failure, self.fails_with = self.fails_with, None
            raise failure
