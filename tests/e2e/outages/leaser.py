"""A worker without PyTorch that trains on leases, and writes down the samples that were answered.

It takes any rank, and leaves when it is told to.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from leash.ps.errors import EvictedError
from leash.ps.interrupt import ToldToLeave
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import OVER, REST, RETURN
from leash.worker.client import Client
from leash.worker.client.control.departure import TerminationNotice

SLOW_S = 0.4

parser = argparse.ArgumentParser()
parser.add_argument("--server", default=os.environ.get("LEASH_SERVER"))
parser.add_argument("--samples", type=int, required=True)
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--log", type=Path, required=True)  # a line for each sample: epoch, position
parser.add_argument("--brake", type=Path, required=True)  # while it is there, steps take long
parser.add_argument("--batch", type=int, default=5)
parser.add_argument("--preempt-file", default=None)
args = parser.parse_args()

layout = Layout([Slot("w", "f32", (1000,))])
slab = np.zeros(layout.nbytes, np.uint8)
rank = int(os.environ.get("LEASH_RANK", "0")) or "auto"
client = Client(args.server, layout, rank=rank, preempt_file=args.preempt_file, grace_s=30)
notice = TerminationNotice(client.tell_to_leave)
print(f"rank {client.rank}", flush=True)
log = args.log.open("a", buffering=1)


def train_on(epoch: int, positions: range) -> None:
    """Pushes the samples of a lease, a batch at a time."""
    for first in range(0, len(positions), args.batch):
        batch = positions[first : first + args.batch]
        time.sleep(SLOW_S if args.brake.exists() else 0.002)
        slab.view("<f4")[:] = 1
        client.push_pull(slab, slab, samples=len(batch))
        log.write("".join(f"{epoch} {position}\n" for position in batch))
        if why := client.told:
            raise ToldToLeave(why)


def train() -> str:
    """Trains until nothing is left; returns the reason of its bye."""
    client.begin(slab)
    while True:
        try:
            leased = client.lease(args.samples, args.epochs, args.batch, 100.0)
            if leased.order == OVER:
                return "done"
            if leased.order == REST:
                client.pause(0.05)
            elif leased.order == RETURN:
                raise EvictedError
            else:
                train_on(leased.epoch, range(leased.first, leased.first + leased.count))
        except EvictedError:  # noqa: PERF203
            client.rejoin()
            client.pull(slab)
        except ToldToLeave as told:
            print(f"told: {told}", flush=True)
            return "stopped"


reason = train()
client.close(reason)
print(reason, flush=True)
sys.exit(0 if reason == "done" else 143)
