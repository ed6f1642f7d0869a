"""torch.distributed with gloo: send the gradient, w.add_(g, alpha=-lr), send the parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from leash.bench.harness.crew import server_process
from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR, free_port


@contextmanager
def serve(trial: Trial) -> Iterator[str]:
    with server_process(_serve, trial, f"tcp://127.0.0.1:{free_port()}") as address:
        yield address


def _serve(trial: Trial, address: str, tell: Callable[[str], None]) -> None:
    import torch
    import torch.distributed as dist

    tell(address)
    torch.set_num_threads(1)
    _init(trial, address, rank=0)
    gradients, parameters = torch.zeros(trial.nbytes // 4), torch.ones(trial.nbytes // 4)
    only = (
        1 if trial.workers == 1 else None
    )  # waiting for any worker costs more than waiting for a given one
    with suppress(RuntimeError):  # raised when the workers are gone
        while True:
            worker = dist.recv(gradients, only)
            parameters.add_(gradients, alpha=-LR)
            dist.send(parameters, worker)


@contextmanager
def join(trial: Trial, address: str, rank: int) -> Iterator[Exchange]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    _init(trial, address, rank)
    memory = torch.full((trial.nbytes // 4,), GRADIENT)

    def exchange() -> None:
        dist.send(memory, 0)
        dist.recv(memory, 0)  # the parameters take the gradient's place, as with Leash

    yield exchange


def _init(trial: Trial, address: str, rank: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", address, rank=rank, world_size=trial.workers + 1)
