"""Somebody's own loop with a LeaseSampler: every sample once an epoch, whoever is slow or dies."""

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leash.ps.runs.audit import audit_run
from support.processes import LEASH, Child

SAMPLES = 1200
EPOCHS = 2
BATCH = 10
# Each process writes down the samples of a step before it takes it and, once it is answered, that
# it was. Worker 3 says so after its third step, and then waits for the test to kill it, in the
# middle of an epoch: with a batch in its hands, and others fetched ahead.
SCRIPT = f"""
import os
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

from leash import LeaseSampler, PSOptimizer

class Numbers(Dataset):
    def __len__(self):
        return {SAMPLES}

    def __getitem__(self, index):
        return index, torch.tensor([index % 2, 1.0])

model = torch.nn.Linear(2, 1)
sampler = LeaseSampler(Numbers(), batch_size={BATCH})
loader = DataLoader(Numbers(), {BATCH}, sampler=sampler, num_workers=int(sys.argv[1]))
optimizer = PSOptimizer(model.named_parameters())
rank = optimizer.client.rank
log = open(f"log-{{rank}}.txt", "w", buffering=1)
steps = 0
for epoch in sampler.epochs({EPOCHS}):
    for indices, inputs in loader:
        time.sleep(0.05 if rank == 3 else 0.002)
        model(inputs).mean().backward()
        log.write(f"step {{' '.join(map(str, indices.tolist()))}}\\n")
        if rank == 3 and steps == 3 and sys.argv[2] == "dies":
            print("waits to be killed", os.getpid(), flush=True)
            open("never").read()
        optimizer.step(samples=len(indices))
        log.write("answered\\n")
        steps += 1
optimizer.close()
"""


def launch(folder: Path, rule: Sequence[str], *words: str) -> Child:
    (folder / "train.py").write_text(SCRIPT)
    os.mkfifo(folder / "never")
    command = [
        *LEASH, "launch", "--workers=3", *rule, f"--run-dir={folder / 'run'}", "train.py", *words,
    ]  # fmt: skip
    return Child(command, cwd=folder)


def trained(folder: Path) -> Counter[int]:
    """How often each sample was in a step that was answered."""
    counts: Counter[int] = Counter()
    for log in folder.glob("log-*.txt"):
        lines = log.read_text().splitlines()
        for line, answer in zip(lines, [*lines[1:], ""], strict=True):
            if answer == "answered":
                counts.update(map(int, line.split()[1:]))
    return counts


def summary_of(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "run" / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(
    ("rule", "num_workers"), [(("--policy=asp",), 0), (("--policy=bsp", "--data-plan=lease"), 2)]
)
def test_every_sample_is_used_once_an_epoch_and_the_fast_do_more(
    tmp_path: Path, rule: Sequence[str], num_workers: int
) -> None:
    with launch(tmp_path, rule, str(num_workers), "lives") as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    assert trained(tmp_path) == Counter(dict.fromkeys(range(SAMPLES), EPOCHS))
    summary = summary_of(tmp_path)
    assert (summary["samples"], summary["samples_twice"]) == (EPOCHS * SAMPLES, 0)
    assert (summary["epochs"], summary["data_plan"], summary["ended"]) == (EPOCHS, "lease", "done")
    assert audit_run(tmp_path / "run") == []
    if "--policy=asp" in rule:
        steps = summary["steps_by_worker"]
        assert steps["1"] > steps["3"] > 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_a_killed_worker_had_drawn_and_not_trained_on_is_trained_on_by_others(
    tmp_path: Path, num_workers: int
) -> None:
    with launch(tmp_path, ("--policy=ssp", "--bound=8"), str(num_workers), "dies") as child:
        line = child.read_until("waits to be killed", 60)
        os.kill(int(line.split()[-1]), signal.SIGKILL)
        assert child.wait(100) == 0, "\n".join(child.lines)
    counts, summary = trained(tmp_path), summary_of(tmp_path)
    assert sorted(counts) == list(range(SAMPLES))
    assert min(counts.values()) == EPOCHS
    assert counts.total() - EPOCHS * SAMPLES == summary["samples_twice"]
    assert (summary["epochs"], summary["evictions"], summary["ended"]) == (EPOCHS, 0, "done")
    assert audit_run(tmp_path / "run") == []
