"""Leash: a parameter server that lets fast and slow machines train one PyTorch model together.

    from leash import PSOptimizer

    optimizer = PSOptimizer(model.named_parameters(), server="tcp://10.0.0.1:29500", rank=1)
    ...
    loss.backward()
    optimizer.step()  # push the gradients, pull the parameters, honour the bound

Importing this package imports nothing else: each name below is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any, Final

from leash._version import __version__

if TYPE_CHECKING:
    from leash.ps.errors import (
        CheckpointError,
        EvictedError,
        FencedError,
        FrameCountError,
        HeaderError,
        LayoutError,
        LayoutMismatchError,
        LeashError,
        NonfiniteError,
        NotReadyError,
        PayloadSizeError,
        PlanMismatchError,
        ProtocolError,
        ResyncError,
        SegmentError,
        ServerUnreachableError,
        ShardLostError,
        StoppingError,
        SupersededError,
        TooManyError,
        UnknownChunkError,
        UnknownWorkerError,
        UsageError,
    )
    from leash.worker.client import Client, StepInfo
    from leash.worker.client.encoding import Encoding
    from leash.worker.em.bernoulli import BernoulliMixture
    from leash.worker.em.gaussian import GaussianMixture
    from leash.worker.optim.optimizer import PSOptimizer

__all__ = [
    "BernoulliMixture",
    "CheckpointError",
    "Client",
    "Encoding",
    "EvictedError",
    "FencedError",
    "FrameCountError",
    "GaussianMixture",
    "HeaderError",
    "LayoutError",
    "LayoutMismatchError",
    "LeashError",
    "NonfiniteError",
    "NotReadyError",
    "PSOptimizer",
    "PayloadSizeError",
    "PlanMismatchError",
    "ProtocolError",
    "ResyncError",
    "SegmentError",
    "ServerUnreachableError",
    "ShardLostError",
    "StepInfo",
    "StoppingError",
    "SupersededError",
    "TooManyError",
    "UnknownChunkError",
    "UnknownWorkerError",
    "UsageError",
    "__version__",
]

# Where a name comes from; all others of __all__ are errors.
_HOMES: Final = {
    "BernoulliMixture": "leash.worker.em.bernoulli",
    "Client": "leash.worker.client.client",
    "Encoding": "leash.worker.client.encoding",
    "GaussianMixture": "leash.worker.em.gaussian",
    "PSOptimizer": "leash.worker.optim.optimizer",
    "StepInfo": "leash.worker.client.client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leash' has no attribute {name!r}")
    import importlib

    try:
        value = getattr(importlib.import_module(_HOMES.get(name, "leash.ps.errors")), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"leash.{name} needs PyTorch: pip install 'leash[torch]'", name="torch"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
