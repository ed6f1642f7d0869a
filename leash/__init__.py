"""Leash: a parameter server that lets fast and slow machines train one PyTorch model together.

    from leash import PSOptimizer

    optimizer = PSOptimizer(model.named_parameters(), server="tcp://10.0.0.1:29500", rank=1)
    ...
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # push the gradients, pull the parameters, honour the bound

Importing this package is cheap: each name below is imported when it is first used. What Leash says
also goes to the loggers below "leash", which are silent until a script gives them a handler.
"""

import logging
from typing import TYPE_CHECKING, Any, Final

from leash._version import __version__

if TYPE_CHECKING:
    from leash.ps.errors import (
        ArgumentError,
        CheckpointError,
        EvictedError,
        FencedError,
        FrameCountError,
        HeaderError,
        LayoutError,
        LayoutMismatchError,
        LeashError,
        MissingOptionsError,
        NonfiniteError,
        NotAllowedError,
        NotReadyError,
        OptionsError,
        PayloadSizeError,
        PlanMismatchError,
        ProtocolError,
        RestartedError,
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
        WrongSocketError,
    )
    from leash.ps.interrupt import ToldToLeave
    from leash.ps.notebook.handle import LaunchedRun, launch
    from leash.worker.client import Client, StepInfo
    from leash.worker.client.encoding import Encoding
    from leash.worker.em.bernoulli import BernoulliMixture
    from leash.worker.em.gaussian import GaussianMixture
    from leash.worker.optim.optimizer import PSOptimizer
    from leash.worker.train.sampler import LeaseSampler

__all__ = [
    "ArgumentError",
    "BernoulliMixture",
    "CheckpointError",
    "Client",
    "Encoding",
    "EvictedError",
    "FencedError",
    "FrameCountError",
    "GaussianMixture",
    "HeaderError",
    "LaunchedRun",
    "LayoutError",
    "LayoutMismatchError",
    "LeaseSampler",
    "LeashError",
    "MissingOptionsError",
    "NonfiniteError",
    "NotAllowedError",
    "NotReadyError",
    "OptionsError",
    "PSOptimizer",
    "PayloadSizeError",
    "PlanMismatchError",
    "ProtocolError",
    "RestartedError",
    "ResyncError",
    "SegmentError",
    "ServerUnreachableError",
    "ShardLostError",
    "StepInfo",
    "StoppingError",
    "SupersededError",
    "ToldToLeave",
    "TooManyError",
    "UnknownChunkError",
    "UnknownWorkerError",
    "UsageError",
    "WrongSocketError",
    "__version__",
    "launch",
]

# Where a name comes from; all others of __all__ are errors.
_HOMES: Final = {
    "BernoulliMixture": "leash.worker.em.bernoulli",
    "Client": "leash.worker.client.client",
    "Encoding": "leash.worker.client.encoding",
    "GaussianMixture": "leash.worker.em.gaussian",
    "LaunchedRun": "leash.ps.notebook.handle",
    "LeaseSampler": "leash.worker.train.sampler",
    "PSOptimizer": "leash.worker.optim.optimizer",
    "StepInfo": "leash.worker.client.pushes",
    "ToldToLeave": "leash.ps.interrupt",
    "launch": "leash.ps.notebook.handle",
}


logging.getLogger("leash").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'leash' has no attribute {name!r}")
    import importlib

    from leash._extras import install_command, package_of

    try:
        value = getattr(importlib.import_module(_HOMES.get(name, "leash.ps.errors")), name)
    except ModuleNotFoundError as error:
        package = package_of(error)
        if package is None:
            raise
        raise ImportError(
            f"leash.{name} needs {package}: {install_command(package)}", name=package
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
