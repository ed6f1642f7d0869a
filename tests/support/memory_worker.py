"""A worker with one large layer; prints by how much its peak memory has grown, in bytes."""

import sys
from pathlib import Path

import torch
from torch import nn

from leash.ps._core import keep_freed_memory
from leash.worker import PSOptimizer


def peak_nbytes() -> int:
    """Of this program: what `resource` tells begins with the memory of the process that forked."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM in /proc/self/status")


address, transport, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
keep_freed_memory()
torch.set_num_threads(1)
nn.Linear(8, 8)(torch.ones(1, 8)).sum().backward()  # what torch needs anyhow
before = peak_nbytes()
model = nn.Linear(side, side, bias=False)
optimizer = PSOptimizer(
    model.named_parameters(), address, rank=1, transport=transport, overlap=True
)
for _ in range(6):
    optimizer.zero_grad()
    optimizer.begin_step(samples=1)
    model(torch.ones(1, side)).sum().backward()
    optimizer.step()
optimizer.close()
print(f"grown {peak_nbytes() - before}", flush=True)
