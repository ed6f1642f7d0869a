"""Two processes with DistributedDataParallel are one worker, beside a worker of one process."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from support.gpus import DEVICES
from support.processes import Child, server_process

STEPS = 20
BATCH = 12  # of all processes together, 4 for each
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
# The parts of a joint batch go to the processes 0 and 1 of the first worker, and to the second.
SCRIPT = f"""
import os
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from leash import PSOptimizer

address, part, victim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
device = sys.argv[4]

def build():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5))

def batch(step):
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn({BATCH}, 30, generator=generator)
    return inputs, torch.randint(5, ({BATCH},), generator=generator)

if __name__ == "__main__":
    inner = model = build().to(device)
    group = None
    if part < 2:
        dist.init_process_group("gloo", init_method="file://" + os.path.abspath("group"),
                                rank=part, world_size=2)
        model = DistributedDataParallel(inner)
        group = dist.group.WORLD
    optimizer = PSOptimizer(inner.named_parameters(), address, 1 if part < 2 else 2, group=group)
    for step in range({STEPS}):
        inputs, targets = (each[4 * part : 4 * part + 4].to(device) for each in batch(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step(samples=4)
        if step == 3 and part == victim:
            print("waits to be killed", flush=True)
            sys.stdin.read()
    optimizer.close()
    save_file({{name: p.detach().clone() for name, p in inner.named_parameters()}}, f"{{part}}.st")
"""


def start(
    stack: ExitStack, folder: Path, address: str, victim: int = -1, device: str = "cpu"
) -> list[Child]:
    (folder / "train.py").write_text(SCRIPT)
    return [
        stack.enter_context(
            Child([sys.executable, "train.py", address, str(part), str(victim), device], cwd=folder)
        )
        for part in range(3)
    ]


def reference() -> dict[str, torch.Tensor]:
    """One process with torch's own SGD on the joint batch."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 5))
    optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + step)
        inputs = torch.randn(BATCH, 30, generator=generator)
        targets = torch.randint(5, (BATCH,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_one_process_on_the_joint_batch(tmp_path: Path, device: str) -> None:
    run = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    with (
        server_process(run, "--workers=2", "--policy=bsp", "--lr-scaling=none", *options) as server,
        ExitStack() as stack,
    ):
        for child in (*start(stack, tmp_path, server[1], device=device), server[0]):
            assert child.wait(100) == 0, "\n".join(child.lines)
    expected = reference()
    results = [load_file(tmp_path / f"{part}.st") for part in range(3)]
    for name, tensor in expected.items():
        for result in results:
            assert torch.equal(result[name], results[0][name])
        torch.testing.assert_close(results[0][name], tensor, rtol=1e-5, atol=1e-6)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps_by_worker"] == {"1": STEPS, "2": STEPS}
    assert (summary["samples"], summary["evictions"]) == (STEPS * BATCH, 0)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_death_of_one_process_ends_its_worker_and_nobody_else(
    tmp_path: Path, victim: int
) -> None:
    run = tmp_path / "run"
    with (
        server_process(
            run, "--workers=2", "--policy=bsp", "--evict-s=2", "--rejoin-s=1"
        ) as (server, address),
        ExitStack() as stack,
    ):  # fmt: skip
        children = start(stack, tmp_path, address, victim)
        children[victim].read_until("waits to be killed", 60)
        children[victim].kill()
        assert children[1 - victim].wait(60) == 1
        assert children[2].wait(100) == 0, "\n".join(children[2].lines)
        assert server.wait(100) == 1  # what the worker had still to do is not trained
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    left = {e["worker"]: e["reason"] for e in events if e["event"] == "left"}
    assert left == {1: "evicted" if victim == 0 else "failed", 2: "done"}
