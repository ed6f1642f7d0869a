"""A GPU for tests on a machine that has none, and where a test can be on one that has."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from leash.worker.client.memory import Slab

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]  # where a test's model is


@dataclass
class LazyEvent:
    gpu: "LazyGpu"
    at: int  # operations of the copying stream before it

    def query(self) -> bool:
        return self.gpu.done >= self.at

    def synchronize(self) -> None:
        self.gpu.run(self.at)


@dataclass
class LazyGpu:
    """Holds every tensor; a copy happens only when somebody waits for it, or `run` is called."""

    log: list[str] = field(default_factory=list)
    waiting: list[Callable[[], object]] = field(default_factory=list)
    done: int = 0
    registered: list[int] = field(default_factory=list)
    captures: bool = False

    def holds(self, tensor: Tensor) -> bool:
        return True

    def register(self, slab: Slab) -> None:
        self.registered.append(slab.ctypes.data)

    def unregister(self, slab: Slab) -> None:
        if slab.ctypes.data in self.registered:
            self.registered.remove(slab.ctypes.data)

    def is_capturing(self) -> bool:
        return self.captures

    def follow_compute(self) -> None:
        self.log.append("follow")

    def hold_compute(self) -> None:
        # What is computed from now on sees the copies: here, that is the very next line.
        self.log.append("hold")
        self.run(len(self.waiting))

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.log.append("copy")
        held = source.detach()  # as record_stream does: the memory is not given away
        self.waiting.append(lambda: target.detach().copy_(held))

    def mark(self) -> LazyEvent:
        self.log.append("mark")
        return LazyEvent(self, len(self.waiting))

    def mark_compute(self) -> LazyEvent:
        return LazyEvent(self, 0)  # what is computed is computed at once

    def run(self, until: int) -> None:
        while self.done < until:
            self.waiting[self.done]()
            self.done += 1
