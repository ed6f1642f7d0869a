"""Leash itself: a `leash server` process, and a leash.worker.client.client.Client."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from leash.bench.harness.trial import Exchange, Trial
from leash.bench.harness.workload import GRADIENT, LR, SSP_BOUND
from leash.ps._core import keep_freed_memory
from leash.ps.errors import LeashError
from leash.ps.processes import FREE_PORT, ReadyPipe, module_argv
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import ClientKey, admin_key, new_keys
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.sockets import host_and_port
from leash.worker.client import Client
from leash.worker.client.encoding import Encoding


@contextmanager
def serve(trial: Trial, *more: str) -> Iterator[str]:
    shards = () if trial.shards == 1 else (f"--shards={trial.shards}",)
    policy = trial.policy or "asp"
    bound = (f"--bound={SSP_BOUND}",) if policy == "ssp" else ()
    options = (f"--policy={policy}", *bound, f"--workers={trial.workers}", f"--lr={LR}", *shards)
    with server(*options, *more) as (address, _):
        yield address


@contextmanager
def serve_keyed(trial: Trial) -> Iterator[str]:
    """Serves those alone who have a key; gives the folder of the keys beside the address."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder, "keys")
        new_keys(keys, trial.workers)
        with serve(trial, f"--keys={keys}") as address:
            yield f"{address} {keys}"


def ports(address: str, key: ClientKey | None = None) -> list[int]:
    """The ports of a server: of its control socket, and of each shard's data socket."""
    with ControlChannel(address, key=key) as channel:
        return [host_and_port(address)[1], *request_state(channel)["data_ports"]]


def ports_keyed(place: str) -> list[int]:
    """The ports of a server of `serve_keyed`."""
    address, keys = place.split(" ", 1)
    return ports(address, admin_key(keys))


@contextmanager
def server(
    *options: str, module: tuple[str, ...] = ("leash.ps.cli", "server")
) -> Iterator[tuple[str, int]]:
    """Starts a server with these options; gives its address and process id.

    The system chooses the ports. The run directory, with the last values, is removed in the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        with ReadyPipe() as ready:
            process = subprocess.Popen(
                [*module_argv(*module), f"--bind={FREE_PORT}", f"--run-dir={folder}/run",
                 "--step-events=0", *ready.words, *options],
                pass_fds=ready.fds, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            address = ready.await_address()
            if not address:
                raise LeashError("the server has ended before it listened; see above")
            yield address, process.pid
            process.wait(60)
        finally:
            process.kill()
            process.wait()


@contextmanager
def join(trial: Trial, address: str, rank: int, key: str | None = None) -> Iterator[Exchange]:
    keep_freed_memory()  # as `leash worker` does
    layout = Layout([Slot("w", "f32", (trial.nbytes // 4,))])
    codec, _, answer_codec = trial.codec.partition("+")
    encoding = Encoding(codec, answer_codec=answer_codec or None)
    client = Client(
        address, layout, rank=rank, transport=trial.transport, encoding=encoding, key=key
    )
    if client.welcome.codec != codec:
        raise LeashError(f"the server took codec {client.welcome.codec}, not {codec}")
    # As in training, the parameters take the gradient's place, in the client's own memory.
    slab = client.slabs[0]
    numbers = np.random.default_rng(rank).standard_normal(trial.nbytes // 4, np.float32)
    slab.view(np.float32)[:] = (
        GRADIENT * numbers
    )  # equal values would make topk's choice harder than in training
    try:
        client.begin(slab)
        yield lambda: client.push_pull(slab, slab, samples=1)
    finally:
        client.close()


@contextmanager
def join_keyed(trial: Trial, place: str, rank: int) -> Iterator[Exchange]:
    """Joins a server of `serve_keyed`."""
    address, keys = place.split(" ", 1)
    with join(trial, address, rank, f"{keys}/worker-{rank}.key") as exchange:
        yield exchange
