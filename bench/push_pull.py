"""How long does it take to push a gradient and pull the parameters that it led to?

One worker and one server, each a process, over TCP loopback. Two systems in alternating rounds of
one run:

    leash   push_pull of all chunks; the server applies w -= lr * g
    gloo    torch.distributed: send the gradient, w.add_(g, alpha=-lr), send the parameters

    python -m bench.push_pull [--short] [--sizes 87e3 64e6] [--json FILE]
"""

import argparse
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import Progress

from bench.rows import Row, make_row, print_table, size_of, write_json
from ps._core import keep_freed_memory
from ps.layout import Layout, Slot
from worker.client import Client

LR = 1e-3
WARMUP_S = 0.3
Exchange = Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=float, nargs="+", default=[87e3, 4e6, 64e6, 256e6],
                        metavar="BYTES", help="parameters that travel, one way")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7, help="of each system, alternating")
    parser.add_argument("--round-s", type=float, default=1.5, help="length of a round")
    parser.add_argument("--short", action="store_true", help="two sizes, short rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows here")
    args = parser.parse_args(argv)
    if args.short:
        args.sizes, args.rounds, args.round_s = [87e3, 64e6], 4, 0.6
    torch.set_num_threads(1)
    keep_freed_memory()  # as `leash worker` does
    rows: list[Row] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("push_pull", total=len(args.sizes))
        for size in args.sizes:
            progress.update(task, description=f"push_pull, {size_of(int(size))}")
            rows += measure(int(size) // 4 * 4, args.rounds, args.round_s)
            progress.advance(task)
    print_table("push_pull, one worker, TCP loopback", rows, base="gloo")
    if args.json:
        write_json(args.json, rows)
    return 0


def measure(nbytes: int, rounds: int, round_s: float) -> list[Row]:
    """Both systems at one size."""
    with ExitStack() as stack:
        exchanges = {
            "leash": stack.enter_context(leash(nbytes)),
            "gloo": stack.enter_context(gloo(nbytes)),
        }
        warmup = {name: len(timed(exchange, WARMUP_S)) for name, exchange in exchanges.items()}
        times: dict[str, list[float]] = {name: [] for name in exchanges}
        for _ in range(rounds):
            for name, exchange in exchanges.items():
                times[name] += timed(exchange, round_s)
    return [make_row("push_pull", n, "tcp", nbytes, t, warmup[n]) for n, t in times.items()]


def timed(exchange: Exchange, seconds: float) -> list[float]:
    """Exchanges for so many seconds, at least three times."""
    times: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end_s:
        began_s = time.perf_counter()
        exchange()
        times.append(time.perf_counter() - began_s)
    return times


@contextmanager
def leash(nbytes: int) -> Iterator[Exchange]:
    """A `leash server` process, and this process as its worker."""
    with tempfile.TemporaryDirectory() as folder:
        reader, writer = os.pipe()
        server = subprocess.Popen(
            [sys.executable, "-m", "ps.cli", "server", "--bind=tcp://127.0.0.1:0", "--policy=asp",
             f"--lr={LR}", f"--run-dir={folder}/run", "--step-events=0", f"--ready-fd={writer}"],
            pass_fds=(writer,), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(writer)
        with os.fdopen(reader) as ready:
            address = ready.read()
        layout = Layout([Slot("w", "f32", (nbytes // 4,))])
        gradients, parameters = (np.zeros(nbytes, np.uint8) for _ in range(2))
        gradients.view(np.float32)[:] = 1e-3
        client = Client(address, layout, rank=1)
        try:
            client.begin(parameters)
            yield lambda: _discard(client.push_pull(gradients, parameters, samples=1))
        finally:
            client.close()
            server.wait()


@contextmanager
def gloo(nbytes: int) -> Iterator[Exchange]:
    """The same with torch.distributed: rank 0 serves in a process of its own, rank 1 is here."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve_gloo, args=(port, nbytes))
    server.start()
    _join_gloo(port, rank=1)
    gradients, parameters = torch.full((nbytes // 4,), 1e-3), torch.zeros(nbytes // 4)

    def exchange() -> None:
        dist.send(gradients, 0)
        dist.recv(parameters, 0)

    try:
        yield exchange
    finally:
        dist.send(torch.full((nbytes // 4,), torch.nan), 0)
        dist.destroy_process_group()
        server.join()


def serve_gloo(port: int, nbytes: int) -> None:
    torch.set_num_threads(1)
    _join_gloo(port, rank=0)
    gradients, parameters = torch.zeros(nbytes // 4), torch.zeros(nbytes // 4)
    while True:
        dist.recv(gradients, 1)
        if gradients[0].isnan():  # the last message
            break
        parameters.add_(gradients, alpha=-LR)
        dist.send(parameters, 1)
    dist.destroy_process_group()


def _join_gloo(port: int, rank: int) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)


def _discard(_: Any) -> None:
    """An exchange has no result."""


if __name__ == "__main__":
    raise SystemExit(main())
