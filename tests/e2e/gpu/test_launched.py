"""Workers, evaluators and scripts of one's own as processes that use a GPU."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.gpus import needs_gpu
from support.processes import LEASH, Child, server_process

pytestmark = needs_gpu

GPU = "cuda"
SCRIPT = """
import sys
import torch
from leash import PSOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(4, 1).to(sys.argv[1])
with PSOptimizer(model.named_parameters()) as optimizer:
    for _ in range(100):
        inputs = torch.randn(32, 4, device=sys.argv[1])
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True))
        loss.backward()
        optimizer.step(samples=32)
print(f"loss {loss.item():.6f}", flush=True)
"""
WIDE = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(),
        nn.Linear(512, 10),
    )
"""


def launched(tmp_path: Path, *words: str) -> list[str]:
    command = [*LEASH, "launch", "--workers=2", f"--run-dir={tmp_path / 'run'}", *words]
    with Child(command, cwd=tmp_path) as child:
        status = child.wait(100)
    assert status == 0, "\n".join(child.lines)
    return child.lines


@pytest.mark.parametrize(
    "options",
    [("--model=wide:build",), ("--local-steps=4",), ("--codec=bf16", "--slow=0,0.002")],
    ids=["overlap", "local steps", "slow"],
)
def test_a_launch_trains_on_a_gpu(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "wide.py").write_text(WIDE)
    launched(
        tmp_path, "--policy=bsp", "--dataset=digits", "--epochs=8", "--batch-size=16",
        "--lr=0.05", f"--device={GPU}", *options,
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 8 * 1438
    assert summary["test_accuracy"] >= 0.9


def test_a_script_of_ones_own_is_launched_on_a_gpu(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    lines = launched(tmp_path, "--policy=bsp", "--lr=0.1", str(script), GPU)
    losses = [float(line.split("loss ")[1]) for line in lines if "loss " in line]
    assert len(losses) == 2
    assert max(losses) < 1e-3


def test_an_evaluator_on_a_gpu_measures_what_was_trained_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        server_process(run, "--workers=1", "--dataset=digits", "--epochs=8", "--lr=0.05") as server,
        ExitStack() as stack,
    ):
        where = [f"--server={server[1]}", f"--device={GPU}"]
        commands = (["evaluate", *where], ["worker", "--rank=1", "--batch-size=16", *where])
        children = [stack.enter_context(Child([*LEASH, *command])) for command in commands]
        for child in (*children, server[0]):
            assert child.wait(100) == 0, "\n".join(child.lines)
    assert json.loads((run / "summary.json").read_text())["test_accuracy"] >= 0.9
