"""One visible table of kernels: what each moves and computes, and who else can do the same.

`read` and `write` are bytes per value, `arrays` the f32 arrays that must fit into memory, `flops`
the floating-point operations per value. A kernel's `systems` gives, for so many values, a function
for each system that leaves the same result behind.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from ps import _core
from ps._core import kernels

Runs: TypeAlias = Mapping[str, Callable[[], Any]]  # system ▸ one run of it

LR: Final = np.float32(1e-6)
MOMENTUM: Final = np.float32(0.9)
ISA: Final = _core.instruction_set()


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    systems: Callable[[int], Runs]
    read: float
    write: float
    arrays: float
    flops: int
    traffic: str  # its kind, of bench.bandwidth.REFERENCES
    threads: int = 1


def _values(n: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(n, np.float32)


def _sgd(n: int) -> Runs:
    w, g, change = _values(n), _values(n), np.empty(n, np.float32)
    tw, tg = torch.from_numpy(w), torch.from_numpy(g)
    options = _core.SgdOptions(lr=LR)

    def with_torch() -> None:
        tw.add_(tg, alpha=-float(LR))
        tg.copy_(tw)

    def with_numpy() -> None:
        np.multiply(g, LR, out=change)
        np.subtract(w, change, out=w)
        np.copyto(g, w)

    return {
        "leash": lambda: kernels.sgd(ISA, w, None, g, g, options, False),
        "torch": with_torch,
        "numpy": with_numpy,
    }


def _momentum(nesterov: bool) -> Callable[[int], Runs]:
    def systems(n: int) -> Runs:
        w, g, m, change = _values(n), _values(n), _values(n), np.empty(n, np.float32)
        parameter = torch.from_numpy(w).requires_grad_()
        parameter.grad = torch.from_numpy(g)
        optimizer = torch.optim.SGD(
            [parameter], lr=float(LR), momentum=float(MOMENTUM), nesterov=nesterov
        )
        options = _core.SgdOptions(lr=LR, momentum=MOMENTUM, nesterov=nesterov)

        def with_torch() -> None:
            optimizer.step()
            parameter.grad.copy_(parameter.detach())  # type: ignore[union-attr]

        def with_numpy() -> None:
            np.multiply(m, MOMENTUM, out=m)
            np.add(m, g, out=m)
            if nesterov:
                np.multiply(m, MOMENTUM, out=change)
                np.add(change, g, out=change)
            np.multiply(change if nesterov else m, LR, out=change)
            np.subtract(w, change, out=w)
            np.copyto(g, w)

        return {
            "leash": lambda: kernels.sgd(ISA, w, m, g, g, options, False),
            "torch": with_torch,
            "numpy": with_numpy,
        }

    return systems


def _accumulate(n: int) -> Runs:
    total, g, change = _values(n), _values(n), np.empty(n, np.float32)
    t_total, tg = torch.from_numpy(total), torch.from_numpy(g)

    def with_numpy() -> None:
        np.multiply(g, LR, out=change)
        np.add(total, change, out=total)

    return {
        "leash": lambda: kernels.accumulate(ISA, total, g, float(LR), False),
        "torch": lambda: t_total.add_(tg, alpha=float(LR)),
        "numpy": with_numpy,
    }


def _first_nonfinite(n: int) -> Runs:
    g = _values(n)
    tg = torch.from_numpy(g)
    return {
        "leash": lambda: kernels.first_nonfinite(ISA, "f32", g, n),
        "torch": lambda: bool(torch.isfinite(tg).all()),
        "numpy": lambda: bool(np.isfinite(g).all()),
    }


def _push(n: int) -> Runs:
    """All that the core does with a push: check, clock, update, tick, reply."""
    shard = _core.Shard(
        [_core.ChunkSpec(values=n, dtype="f32", kind="parameter")], _core.SgdOptions(lr=LR),
        bound=None, average=False, nonfinite=_core.Nonfinite.RAISE,
    )  # fmt: skip
    shard.init(0, _values(n))
    shard.join(1, 0)
    g = _values(n)
    step = 0

    def push() -> None:
        nonlocal step
        step += 1
        shard.push(0, 1, step, 1, g, True)

    return {"leash": push}


KERNELS: Final = (
    Kernel("sgd", _sgd, read=8, write=8, arrays=2, flops=2, traffic="in_place"),
    Kernel("sgd, momentum", _momentum(False), 12, 12, arrays=3, flops=4, traffic="in_place"),
    Kernel("sgd, nesterov", _momentum(True), 12, 12, arrays=3, flops=6, traffic="in_place"),
    Kernel("accumulate", _accumulate, 8, 4, arrays=2, flops=2, traffic="update"),
    Kernel("first_nonfinite", _first_nonfinite, 4, 0, arrays=1, flops=1, traffic="read"),
    # sgd once more, after a pass of its own that looks for a NaN.
    Kernel("Shard.push", _push, 12, 8, arrays=2, flops=3, traffic="in_place"),
)
