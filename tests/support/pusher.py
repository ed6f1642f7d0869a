"""A worker without PyTorch: pushes steps of ones and prints each, `step N lag L at SECONDS`.

With --own it pushes -1 for the value of its rank, and 0 for all others. At a learning rate of 1 the
parameters then say how often the steps of each rank were applied.
"""

import argparse
import sys
import time

import numpy as np

from leash.ps.errors import EvictedError
from leash.ps.processes import say_line
from leash.ps.wire.layout import Layout, Slot
from leash.ps.words import BACKWARD
from leash.worker.client import Client

parser = argparse.ArgumentParser()
parser.add_argument("--server", required=True)
parser.add_argument("--rank", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--step-s", type=float, default=0.0)  # what a step's computing takes
parser.add_argument("--values", type=int, default=100_000)
parser.add_argument("--hold", type=int, default=0)  # 1: wait for a line before the first push
parser.add_argument("--fill-window", type=int, default=0)  # 1: as a worker that streams
parser.add_argument("--hangs-at", type=int, default=0)  # before this push, until a line comes
parser.add_argument("--own", type=int, default=0)  # see above; and so many for its value, not 1
parser.add_argument("--holds-at-end", type=int, default=0)  # 1: until a line comes
parser.add_argument("--transport", default="auto")
args = parser.parse_args()

layout = Layout([Slot("w", "f32", (args.values,)), Slot("mean", "f32", (8,), "buffer")])
gradients, parameters = (np.zeros(layout.nbytes, np.uint8) for _ in range(2))
pushed = gradients[: 4 * args.values].view("<f4")
pushed[:] = 1
if args.own:
    pushed[:] = 0
    pushed[args.rank :: 64] = -args.own  # in every chunk

client = Client(args.server, layout, rank=args.rank, transport=args.transport)
client.begin(parameters)
client.keep(lambda: parameters)
say_line(f"joined at {client.steps}")
if args.hold:
    sys.stdin.readline()
answered = 0
while answered < args.steps:
    time.sleep(args.step_s)
    if answered + 1 == args.hangs_at:
        args.hangs_at = 0
        client.doing.begin(BACKWARD)
        say_line("hangs")
        sys.stdin.readline()
    try:
        client.begin_step(gradients, parameters, samples=1)
        if args.fill_window:
            client.advance(first_ready=0)
        info = client.finish_step()
    except EvictedError:
        client.rejoin()
        client.pull(parameters)
        say_line("joined again")
        continue
    answered += 1
    say_line(f"step {info.step} lag {info.lag} at {time.monotonic():.3f}")
if args.holds_at_end:
    sys.stdin.readline()
client.close("done")
say_line("done")
