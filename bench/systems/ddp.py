"""torch.distributed with gloo, and no server: what a user would pick instead of one.

N workers all-reduce the same bytes in one process group, and each then does as DDP with SGD:
w.add_(g, alpha=-lr / N), where g is the sum. The result is written to the gradient's place, which
moves as many bytes, and the two memories change places: so the parameters go out as the next
gradient, as Leash's do, and the values stay as they are however often this is repeated.

When an all-reduce ends, each worker has given one gradient and has the parameters. So it counts as
N exchanges, as do N workers of a server.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR


@contextmanager
def meet(_: Trial) -> Iterator[str]:
    """Gives the place where the workers find one another: a file, for which no port has to be."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"file://{folder}/group"


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    """Joins the group; an exchange returns the parameters."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", address, rank=rank - 1, world_size=trial.workers)
    gradients = torch.full((trial.nbytes // 4,), GRADIENT)
    parameters = torch.ones(trial.nbytes // 4)

    def exchange() -> torch.Tensor:
        nonlocal gradients, parameters
        dist.all_reduce(gradients)
        torch.add(parameters, gradients, alpha=-LR / trial.workers, out=gradients)
        gradients, parameters = parameters, gradients
        return parameters

    yield exchange
