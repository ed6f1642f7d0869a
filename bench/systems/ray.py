"""A Ray actor: a call with the gradient as its argument, and the parameters as result.

The result is a read-only view of Ray's object store; to copy it into a model would cost more.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR

# A cluster of its own that lives for one benchmark: without tokens, which the head would keep.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@contextmanager
def serve(trial: Trial) -> Iterator[str]:
    with server_process(_serve, trial) as address:
        yield address


def _serve(trial: Trial, tell: Callable[[str], None]) -> None:
    import threading

    import ray  # type: ignore[import-not-found, unused-ignore]

    context = ray.init(
        num_cpus=trial.workers + 1, include_dashboard=False, log_to_driver=False,
        object_store_memory=8 * trial.workers * trial.nbytes + (1 << 28),
    )  # fmt: skip
    actor = ray.remote(Parameters).options(name="server", namespace="bench").remote(trial.nbytes)
    ray.get(actor.ready.remote())
    tell(context.address_info["address"])
    threading.Event().wait()


class Parameters:
    """Keeps the parameters, in a process of Ray's."""

    def __init__(self, nbytes: int) -> None:
        self._parameters = np.ones(nbytes // 4, np.float32)
        self._change = np.empty_like(self._parameters)

    def ready(self) -> bool:
        return True

    def apply(self, gradients: Any) -> Any:
        np.multiply(gradients, np.float32(LR), out=self._change)
        self._parameters -= self._change
        return self._parameters


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    import ray

    ray.init(address, namespace="bench", log_to_driver=False)
    actor = ray.get_actor("server")
    gradients = np.full(trial.nbytes // 4, GRADIENT, np.float32)
    try:
        yield lambda: ray.get(actor.apply.remote(gradients))
    finally:
        ray.shutdown()
