"""A run that was ended goes on, with the parameters, averages and samples that it had."""

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from leash import PSOptimizer
from leash.ps.runs.checkpoint import check_checkpoint
from leash.ps.runs.download import download_checkpoint
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, request_state
from support.processes import LEASH, Child
from support.servers import serving

# Dropout is on, and momentum or Adam's averages. Each epoch has 45 steps, 135 in all. The steps are
# slow enough for a test to come in between.
TASK = ("--policy=bsp", "--workers=2", "--model=lenet", "--dataset=digits", "--epochs=3",
        "--batch-size=16", "--seed=7", "--slow=0.004,0.006")  # fmt: skip
STEPS = 135
LOOK_AGAIN = threading.Event()  # that nobody sets
OPTIMIZERS = [
    ("--lr=0.05", "--momentum=0.9"), ("--optimizer=adamw", "--lr=0.003", "--shards=3"),
]  # fmt: skip


def launch(run: Path, *options: str) -> Child:
    return Child([*LEASH, "launch", f"--run-dir={run}", *TASK, *options])


def finish(child: Child) -> None:
    assert child.wait(100) == 0, "\n".join(child.lines)


def address_in(run: Path, child: Child) -> str:
    """Where the server of a launch listens, once its training has begun."""
    log = run / "logs" / "server.log"
    while not (log.exists() and "started" in log.read_text()):
        assert child.process.poll() is None, "\n".join(child.lines)
        LOOK_AGAIN.wait(0.01)
    return next(word for word in log.read_text().split() if word.startswith("tcp://")).rstrip(",")


def await_steps(address: str, steps: int) -> None:
    """Returns once the workers have pushed so many steps together, or the run is over."""
    with ControlChannel(address) as channel:
        while (state := request_state(channel))["steps"] < steps and not state["finished"]:
            LOOK_AGAIN.wait(0.002)


def require_same(again: Path, whole: Path) -> None:
    """Requires that a run that was resumed took the steps that were left, and came to the same."""
    log = log_of(again)
    assert not any("not bitwise" in line for line in log)
    summary = json.loads((again / "summary.json").read_text())
    assert (summary["epochs"], summary["ended"]) == (3, "done")
    step = next(int(line.split()[-1]) for line in log if "goes on from" in line)
    assert summary["steps"] == 2 * (STEPS - step)
    one, two = (load_file(r / "checkpoints" / "final.safetensors") for r in (again, whole))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name].tobytes() != two[name].tobytes()] == []


def server_of(child: Child) -> psutil.Process:
    """The server's process below a launch."""
    below = psutil.Process(child.process.pid).children()
    return next(process for process in below if "server" in process.cmdline())


def await_file(path: Path, child: Child) -> None:
    """Returns once the file is there; the child must not have ended by then."""
    while not path.exists():
        assert child.process.poll() is None, "\n".join(child.lines)
        LOOK_AGAIN.wait(0.005)


def log_of(run: Path) -> list[str]:
    return (run / "logs" / "server.log").read_text().splitlines()


@pytest.mark.timeout(1200)  # of which it needs a tenth, unless it is tortured
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=" ".join)
def test_a_bsp_run_goes_on_from_any_update_bit_by_bit(
    tmp_path: Path, optimizer: Sequence[str], torture: bool
) -> None:
    """Its checkpoint was saved while it trained on, or written as Ctrl-C ended it, or before its
    server was killed.
    """
    whole, rng = tmp_path / "whole-0", random.Random(f"{optimizer}")
    for number in range(count := 10 if torture else 1):
        run, again = tmp_path / f"whole-{number}", tmp_path / f"saved-{number}"
        with launch(run, *optimizer) as child:
            address = address_in(run, child)
            await_steps(address, rng.randrange(2, 2 * STEPS - 60))
            with ControlChannel(address) as channel:
                download_checkpoint(channel, tmp_path / "here.safetensors")
            finish(child)
        with launch(again, *optimizer, f"--resume={tmp_path / 'here.safetensors'}") as child:
            finish(child)
        require_same(again, whole)

    for number in range(count):
        ended, again = tmp_path / f"ended-{number}", tmp_path / f"again-{number}"
        is_killed = number % 2 == ("--shards=3" in optimizer)
        with launch(ended, *optimizer, "--checkpoint-every=0.05s", "--server-restarts=0") as child:
            address = address_in(ended, child)
            await_steps(address, rng.randrange(2, 2 * STEPS - 60))
            if is_killed:
                await_file(ended / "checkpoints" / "latest.safetensors", child)
                server_of(child).kill()
            else:
                child.process.send_signal(signal.SIGINT)
            assert child.wait(20) == (1 if is_killed else 130)
        left = set(os.listdir(ended / "checkpoints")) - {"latest.safetensors.unfinished"}
        assert left == {"latest.safetensors" if is_killed else "final.safetensors"}
        line = next(line for line in child.lines if line.startswith("to go on"))
        with Child([*LEASH, *line.split()[4:], f"--run-dir={again}"]) as child:
            finish(child)
        require_same(again, whole)


def test_a_finished_run_says_that_nothing_is_left_of_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--dataset=digits", "--workers=1", "--epochs=2", "--policy=asp")
    with Child(
        [*LEASH, "launch", f"--run-dir={first}", *options, "--checkpoint-every=1e"]
    ) as child:
        finish(child)
    names = sorted(path.name for path in (first / "checkpoints").iterdir())
    assert names[-1] == "final.safetensors"
    assert all(name.startswith("epoch-") for name in names[:-1])
    resume = f"--resume={first / 'checkpoints' / 'final.safetensors'}"
    with Child([*LEASH, "launch", f"--run-dir={second}", *options, resume]) as child:
        assert child.wait(60) == 2
    assert "has completed 2; give the number of all epochs" in child.lines[-1]
    with Child([*LEASH, "launch", f"--run-dir={tmp_path / 'third'}", *options, "--epochs=3",
                resume]) as child:  # fmt: skip
        finish(child)
    summary = json.loads((tmp_path / "third" / "summary.json").read_text())
    assert (summary["epochs"], summary["samples"]) == (3, 1438)


# A loop of one's own.

SAMPLES, EPOCHS, BATCH = 1200, 2, 10
LOOP = f"""
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
loader = DataLoader(Numbers(), {BATCH}, sampler=sampler)
with PSOptimizer(model.named_parameters()) as optimizer:
    log = open(f"log-{{sys.argv[1]}}-{{optimizer.client.rank}}.txt", "w", buffering=1)
    for epoch in sampler.epochs({EPOCHS}):
        for indices, inputs in loader:
            time.sleep(0.02 if optimizer.client.rank == 3 else 0.004)
            model(inputs).mean().backward()
            log.write(f"{{epoch}} {{' '.join(map(str, indices.tolist()))}}\\n")
            optimizer.step(samples=len(indices))
            log.write("answered\\n")
"""


def test_a_loop_of_ones_own_gets_the_samples_that_are_left(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LOOP)
    runs = [tmp_path / "first", tmp_path / "second"]
    command = [*LEASH, "launch", "--workers=3", "--policy=ssp"]
    with Child([*command, f"--run-dir={runs[0]}", "train.py", "first"], cwd=tmp_path) as child:
        await_steps(address_in(runs[0], child), 150)  # of 240
        child.process.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
    resume = f"--resume={runs[0] / 'checkpoints' / 'final.safetensors'}"
    with Child([*command, f"--run-dir={runs[1]}", resume, "train.py", "second"],
               cwd=tmp_path) as child:  # fmt: skip
        finish(child)
    answered: Counter[tuple[int, int]] = Counter()  # epoch and sample
    perhaps: Counter[tuple[int, int]] = Counter()  # of steps whose worker was stopped in them
    for log in tmp_path.glob("log-*.txt"):
        lines = [*log.read_text().splitlines(), ""]
        for line, after in pairwise(lines):
            if line and line != "answered":
                epoch, *samples = map(int, line.split())
                counter = answered if after == "answered" else perhaps
                counter.update((epoch, sample) for sample in samples)
    # In which epoch a loop is says only the first of its samples; leases of two may meet in it.
    by_sample = Counter(sample for _, sample in (answered + perhaps).elements())
    assert sorted(by_sample) == list(range(SAMPLES))
    assert min(by_sample.values()) >= EPOCHS
    assert answered.total() <= EPOCHS * SAMPLES
    assert perhaps.total() <= 3 * BATCH
    second = json.loads((runs[1] / "summary.json").read_text())
    assert (second["epochs"], second["ended"]) == (EPOCHS, "done")
    assert second["samples"] < EPOCHS * SAMPLES / 2


def trained(model: nn.Module, optimizer: PSOptimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(4, 6, generator=generator)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize(
    "settings", [{"momentum": 0.9}, {"optimizer": "adam", "lr_schedule": "step", "lr_step_size": 3}]
)
def test_a_loop_goes_on_from_what_its_optimizer_has_saved(
    tmp_path: Path, settings: dict[str, Any], shards: int
) -> None:
    saved, models = tmp_path / "deep" / "saved.safetensors", [build(), build()]
    options = {"workers": 1, "policy": "bsp", "lr": 0.05, "shards": shards, **settings}
    with (
        serving(run_dir=RunDir(tmp_path / "first"), **options) as server,
        PSOptimizer(models[0].named_parameters(), server.address, 1) as optimizer,
    ):
        trained(models[0], optimizer, range(5))
        optimizer.save(saved)
        trained(models[0], optimizer, range(5, 8))
    metadata = check_checkpoint(saved)
    assert json.loads(metadata["position"])["shares"] == {}
    assert {*json.loads(metadata["chunks"])["least_clocks"]} == {5}
    assert os.listdir(saved.parent) == ["saved.safetensors"]
    with (
        serving(resume=str(saved), **options) as server,
        PSOptimizer(models[1].named_parameters(), server.address, 1) as optimizer,
    ):
        assert optimizer.client.steps == 5
        trained(models[1], optimizer, range(5, 8))
    for one, two in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, two)


def test_who_saves_between_two_steps_waits_for_nobody_who_waits_for_it(tmp_path: Path) -> None:
    models = [build(), build()]
    saved = [tmp_path / f"{number}.safetensors" for number in range(3)]
    with serving(run_dir=RunDir(tmp_path / "run"), workers=2, policy="bsp", lr=0.05) as server:

        def other() -> None:
            with PSOptimizer(models[1].named_parameters(), server.address, 2) as optimizer:
                trained(models[1], optimizer, range(3))

        thread = threading.Thread(target=other)
        thread.start()
        with PSOptimizer(models[0].named_parameters(), server.address, 1) as optimizer:
            for step, path in enumerate(saved):
                trained(models[0], optimizer, range(step, step + 1))
                optimizer.save(path)
        thread.join(20)
        assert not thread.is_alive()
    steps = [set(json.loads(check_checkpoint(p)["chunks"])["least_clocks"]) for p in saved]
    assert steps == [{1}, {2}, {3}]
