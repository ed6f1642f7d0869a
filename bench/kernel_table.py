"""The kernels as one table: what each moves and computes, and which systems can do the same.

`read` and `write` are bytes per value, `arrays` is the number of f32 arrays that must fit into
memory, and `flops` that of floating-point operations per value. `systems` takes a number of values,
and gives a function for each system; all of them leave the same result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from leash.bench.harness.workload import F32
from leash.ps import _core
from leash.ps._core import codecs, kernels

Run: TypeAlias = Callable[[], Any]
Runs: TypeAlias = Mapping[str, Run]  # system ▸ runs the kernel once
Options: TypeAlias = _core.SgdOptions | _core.AdamOptions | _core.AdagradOptions
TorchOptimizer: TypeAlias = Callable[..., torch.optim.Optimizer]
Numpy: TypeAlias = Callable[[F32, F32, list[F32], F32], None]

KERNEL_LR: Final = np.float32(1e-6)
BLOCK: Final = 256  # values that share a scale of int8
SECOND: Final = 2  # the update that is timed: SGD's first one ignores its buffer
ISA: Final = _core.instruction_set()


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: its traffic, its work, and who can do the same."""

    name: str
    systems: Callable[[int], Runs]
    read: float
    write: float
    arrays: float
    flops: int
    traffic: str  # its kind, one of leash.bench.bandwidth.REFERENCES
    threads: int = 1


def _values(n: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(n, np.float32)


def _update(
    options: Options, states: int, torch_optimizer: TorchOptimizer, with_numpy: Numpy | None = None
) -> Callable[[int], Runs]:
    """Makes the systems for an update of the parameters, which then take the gradient's place.

    Args:
        states: how many buffers the optimizer keeps.
        torch_optimizer: makes torch's, from the parameter.
        with_numpy: takes w, g, the buffers, and an array to compute in.
    """

    def systems(n: int) -> Runs:
        w, g, scratch = _values(n), _values(n), np.empty(n, np.float32)
        buffers = [np.abs(_values(n)) for _ in range(states)]
        runs: dict[str, Run] = {
            "leash": lambda: kernels.update(ISA, w, buffers, g, g, options, SECOND),
            "torch": _torch_step(torch_optimizer, n, fused=False),
            "torch_fused": _torch_step(torch_optimizer, n, fused=True),
        }
        if with_numpy is not None:
            runs["numpy"] = lambda: with_numpy(w, g, buffers, scratch)
        return runs

    return systems


def _torch_step(optimizer: TorchOptimizer, n: int, *, fused: bool) -> Run:
    parameter = torch.from_numpy(_values(n)).requires_grad_()
    parameter.grad = gradient = torch.from_numpy(_values(n))
    made = optimizer([parameter], fused=fused)

    def run() -> None:
        made.step()
        gradient.copy_(parameter.detach())

    return run


def _numpy_sgd(momentum: float, nesterov: bool) -> Numpy:
    def run(w: F32, g: F32, buffers: list[F32], change: F32) -> None:
        if not momentum:
            np.multiply(g, KERNEL_LR, out=change)
        else:
            np.multiply(buffers[0], np.float32(momentum), out=buffers[0])
            np.add(buffers[0], g, out=buffers[0])
            np.multiply(buffers[0], KERNEL_LR, out=change)
        if nesterov:
            np.multiply(buffers[0], np.float32(momentum), out=change)
            np.add(change, g, out=change)
            np.multiply(change, KERNEL_LR, out=change)
        np.subtract(w, change, out=w)
        np.copyto(g, w)

    return run


def _sgd(momentum: float = 0.0, nesterov: bool = False) -> Callable[[int], Runs]:
    return _update(
        _core.SgdOptions(lr=KERNEL_LR, momentum=momentum, nesterov=nesterov), int(momentum > 0),
        partial(torch.optim.SGD, lr=float(KERNEL_LR), momentum=momentum, nesterov=nesterov),
        _numpy_sgd(momentum, nesterov),
    )  # fmt: skip


def _accumulate(n: int) -> Runs:
    total, g, change = _values(n), _values(n), np.empty(n, np.float32)
    t_total, tg = torch.from_numpy(total), torch.from_numpy(g)

    def with_numpy() -> None:
        np.multiply(g, KERNEL_LR, out=change)
        np.add(total, change, out=total)

    return {
        "leash": lambda: kernels.accumulate(ISA, total, g, float(KERNEL_LR), False),
        "torch": lambda: t_total.add_(tg, alpha=float(KERNEL_LR)),
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


def _push(options: Options, threads: int = 1) -> Callable[[int], Runs]:
    """Makes the systems for all that the core does with a push: check, clock, update, reply."""

    def systems(n: int) -> Runs:
        shard = _core.Shard(
            [_core.ChunkSpec(values=n, dtype="f32", kind="parameter")],
            options,
            rule=_core.Rule(), nonfinite=_core.Nonfinite.RAISE, threads=threads,
        )  # fmt: skip
        shard.init(0, _values(n))
        shard.join(1, 0)
        g, steps = _values(n), count(1)
        return {"leash": lambda: shard.push(0, 1, next(steps), 1, g, True)}

    return systems


# Codecs. The server decodes within its update; here the codecs run by themselves.


def _half(codec: str, dtype: torch.dtype) -> tuple[Callable[[int], Runs], Callable[[int], Runs]]:
    def encode(n: int) -> Runs:
        values, payload = _values(n), np.zeros(2 * n, np.uint8)
        source, target = torch.from_numpy(values), torch.zeros(n, dtype=dtype)
        return {
            "leash": lambda: codecs.encode_half(codec, values, payload),
            "torch": lambda: target.copy_(source),
        }

    def decode(n: int) -> Runs:
        payload, out = np.zeros(2 * n, np.uint8), np.zeros(n, np.float32)
        codecs.encode_half(codec, _values(n), payload)
        source, target = torch.zeros(n, dtype=dtype), torch.zeros(n)
        return {
            "leash": lambda: codecs.decode(codec, payload, out),
            "torch": lambda: target.copy_(source),
        }

    return encode, decode


def _encode_int8(n: int) -> Runs:
    gradient, residual = _values(n), np.zeros(n, np.float32)
    payload = np.zeros(2 * n + 1024, np.uint8)
    t_gradient, t_residual = torch.from_numpy(_values(n)), torch.zeros(n)
    rows = n // BLOCK * BLOCK

    def with_torch() -> None:
        total = (t_gradient + t_residual)[:rows].view(-1, BLOCK)
        scale = total.abs().amax(1, keepdim=True) / 127
        quantized = torch.floor(total / scale + torch.rand_like(total)).clamp_(-127, 127)
        t_residual[:rows] = (total - quantized * scale).view(-1)
        quantized.to(torch.int8)

    return {
        "leash": lambda: codecs.encode_int8(gradient, residual, payload, BLOCK, 1),
        "torch": with_torch,
    }


def _encode_topk(n: int) -> Runs:
    gradient, residual = _values(n), np.zeros(n, np.float32)
    payload, k = np.zeros(n + 1024, np.uint8), max(1, n // 100)
    t_gradient, t_residual = torch.from_numpy(_values(n)), torch.zeros(n)

    def with_torch() -> None:
        t_residual.add_(t_gradient)
        _, indices = t_residual.abs().topk(k, sorted=False)
        indices, _ = indices.sort()
        t_residual[indices].clone()
        t_residual[indices] = 0

    return {
        "leash": lambda: codecs.encode_topk(gradient, residual, payload, k),
        "torch": with_torch,
    }


def _decode_int8(n: int) -> Runs:
    payload, out = np.zeros(2 * n + 1024, np.uint8), np.zeros(n, np.float32)
    residual = np.zeros(n, np.float32)
    written = payload[: codecs.encode_int8(_values(n), residual, payload, BLOCK, 1)]
    rows = -(-n // BLOCK)
    quantized, scale = torch.zeros(rows, BLOCK, dtype=torch.int8), torch.ones(rows, 1)
    target = torch.zeros(rows, BLOCK)
    return {
        "leash": lambda: codecs.decode("int8", written, out),
        "torch": lambda: torch.mul(quantized, scale, out=target),
    }


_encode_bf16, _decode_bf16 = _half("bf16", torch.bfloat16)
_encode_f16, _decode_f16 = _half("f16", torch.float16)

_SGD: Final = _core.SgdOptions(lr=KERNEL_LR)
_ADAM: Final = _core.AdamOptions(lr=KERNEL_LR)
_adam = _update(_ADAM, 2, partial(torch.optim.Adam, lr=float(KERNEL_LR)))
_adamw = _update(
    _core.AdamOptions(lr=KERNEL_LR, weight_decay=0.01, decoupled=True), 2,
    partial(torch.optim.AdamW, lr=float(KERNEL_LR)),
)  # fmt: skip
_adagrad = _update(
    _core.AdagradOptions(lr=KERNEL_LR), 1, partial(torch.optim.Adagrad, lr=float(KERNEL_LR))
)

KERNELS: Final = (
    Kernel("sgd", _sgd(), read=8, write=8, arrays=2, flops=2, traffic="in_place"),
    Kernel("sgd, momentum", _sgd(0.9), 12, 12, arrays=3, flops=4, traffic="in_place"),
    Kernel("sgd, nesterov", _sgd(0.9, True), 12, 12, arrays=3, flops=6, traffic="in_place"),
    Kernel("adam", _adam, 16, 16, arrays=4, flops=12, traffic="in_place"),
    Kernel("adamw", _adamw, 16, 16, arrays=4, flops=13, traffic="in_place"),
    Kernel("adagrad", _adagrad, 12, 12, arrays=3, flops=6, traffic="in_place"),
    Kernel("accumulate", _accumulate, 8, 4, arrays=2, flops=2, traffic="update"),
    Kernel("first_nonfinite", _first_nonfinite, 4, 0, arrays=1, flops=1, traffic="read"),
    # They look at what they store, and save what they replace, which stays in a cache.
    Kernel("Shard.push, sgd", _push(_SGD), 8, 8, arrays=2, flops=3, traffic="in_place"),
    Kernel(
        "Shard.push, sgd", _push(_SGD, 2), 8, 8, arrays=2, flops=3, traffic="in_place", threads=2
    ),
    Kernel("Shard.push, adam", _push(_ADAM), 16, 16, arrays=4, flops=15, traffic="in_place"),
    Kernel("encode bf16", _encode_bf16, 4, 2, arrays=1.5, flops=1, traffic="copy"),
    Kernel("decode bf16", _decode_bf16, 2, 4, arrays=1.5, flops=1, traffic="copy"),
    Kernel("encode f16", _encode_f16, 4, 2, arrays=1.5, flops=1, traffic="copy"),
    Kernel("decode f16", _decode_f16, 2, 4, arrays=1.5, flops=1, traffic="copy"),
    # A block is read twice, the second time from the cache; the residual is read and written.
    Kernel("encode int8", _encode_int8, 8, 5, arrays=2.25, flops=8, traffic="in_place"),
    Kernel("decode int8", _decode_int8, 1, 4, arrays=1.25, flops=1, traffic="copy"),
    Kernel("encode topk", _encode_topk, 8, 4, arrays=2, flops=2, traffic="in_place"),
)
