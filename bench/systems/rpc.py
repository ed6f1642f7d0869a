"""torch.distributed.rpc: a call with the gradient as its argument, and the parameters as result.

The result is a new tensor. It counts as being in its place, though a model's parameters would
have to be pointed at it. It goes over TCP: by default TensorPipe takes shared memory on one host,
and spins while it waits, which would slow down all systems that are measured beside it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR, free_port

_parameters: Any = None  # the tensor in the server's process


@contextmanager
def serve(trial: Trial) -> Iterator[str]:
    with server_process(_serve, trial, f"tcp://127.0.0.1:{free_port()}") as address:
        yield address


def _serve(trial: Trial, address: str, tell: Callable[[str], None]) -> None:
    global _parameters
    import torch

    tell(address)
    torch.set_num_threads(1)
    _parameters = torch.ones(trial.nbytes // 4)
    _init(trial, address, rank=0)
    threading.Event().wait()  # its threads serve


def apply(gradients: Any) -> Any:
    """Applies a gradient, in the server's process."""
    return _parameters.add_(gradients, alpha=-LR)


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    import torch
    from torch.distributed import rpc

    torch.set_num_threads(1)
    _init(trial, address, rank)
    gradients = torch.full((trial.nbytes // 4,), GRADIENT)
    try:
        yield lambda: rpc.rpc_sync("rank0", apply, args=(gradients,))
    finally:
        rpc.shutdown(graceful=False)


def _init(trial: Trial, address: str, rank: int) -> None:
    from torch.distributed import rpc

    options = rpc.TensorPipeRpcBackendOptions(
        init_method=address, rpc_timeout=3600, _transports=["uv"], _channels=["basic"]
    )
    rpc.init_rpc(
        f"rank{rank}", rank=rank, world_size=trial.workers + 1, rpc_backend_options=options
    )
