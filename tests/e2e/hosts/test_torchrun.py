"""torchrun on two machines: the words that it sets find the server from one to the other."""

import json
import sys

from e2e.hosts.machines import HERE, Machines

SCRIPT = """
import os
import torch
from leash import PSOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
with PSOptimizer(model.named_parameters()) as optimizer:
    for step in range(5):
        inputs = torch.randn(8, 4)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step(samples=8)
    print("rank", optimizer.client.rank, "of", os.environ["WORLD_SIZE"], "on", os.uname().nodename)
"""


def test_rank_0_starts_a_server_that_another_machine_finds(machines: Machines) -> None:
    script = machines.folder / "train.py"  # a place that they share
    script.write_text(SCRIPT)

    def torchrun(node: int) -> list[str]:
        words = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}",
                 "--nproc-per-node=1", f"--master-addr={HERE}", "--master-port=29400"]  # fmt: skip
        place = [f"LEASH_SERVER_OPTIONS=--insecure --run-dir={machines.project}/torchrun"]
        return ["env", *place, sys.executable, *words, str(script)]

    far = " ".join(f"'{word}'" for word in torchrun(1))
    with machines.here(*torchrun(0)) as near, machines.here("ssh", "gpu1", far) as other:
        assert near.wait(100) == 0, "\n".join(near.lines)
        assert other.wait(100) == 0, "\n".join(other.lines)
    assert "rank 2 of 2 on gpu1" in other.lines
    assert any(f"started a server for 2 workers at tcp://{HERE}:" in line for line in near.lines)
    summary = json.loads((machines.project / "torchrun" / "summary.json").read_text())
    assert (summary["steps_by_worker"], summary["ended"]) == ({"1": 5, "2": 5}, "done")
