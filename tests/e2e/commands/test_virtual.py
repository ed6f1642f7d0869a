"""Training in virtual time beside real processes: what they learn is the same, bit by bit."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from support.mnist import write_digits
from support.processes import LEASH, Child

EXPERIMENT = """
about: real and virtual
base:
  {workers: 3, policy: bsp, epochs: 2, batch_size: 64, momentum: 0.5, slow: [0, 0.01, 0.02]}
runs:
  linear: {dataset: digits}
  dropout: {dataset: mnist, model: mnist_cnn, len_train_data: 700, lr: 0.02}
"""


def experiment(folder: Path, data: Path, name: str, *words: str) -> Path:
    """Runs the experiment; returns where its runs are."""
    file = folder / "experiment.yaml"
    file.write_text(EXPERIMENT)
    out = folder / name
    argv = [*LEASH, "experiment", str(file), f"--data-dir={data}", f"--out={out}", *words]
    with Child(argv) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    return out


def summary(run: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return told


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The experiment in real time, and in virtual time."""
    folder = tmp_path_factory.mktemp("virtual")
    data = folder / "data"
    write_digits(data)
    real = experiment(folder, data, "real")
    return real, experiment(folder, data, "virtual", "--virtual", "--compute=0.001")


@pytest.mark.parametrize("name", ["linear", "dropout"])
def test_under_bsp_virtual_time_ends_with_the_parameters_of_real_time(
    runs: tuple[Path, Path], name: str
) -> None:
    real, virtual = (load_file(run / name / "checkpoints" / "final.safetensors") for run in runs)
    assert real.keys() == virtual.keys()
    for key, values in real.items():
        assert np.array_equal(values, virtual[key]), key


@pytest.mark.parametrize("name", ["linear", "dropout"])
def test_under_bsp_virtual_time_tells_the_same_counts_and_accuracy(
    runs: tuple[Path, Path], name: str
) -> None:
    real, virtual = (summary(run / name) for run in runs)
    assert virtual["test_accuracy"] == real["test_accuracy"]
    timed = {
        "train_seconds", "steps_per_second", "wait_fraction", "wait_fraction_by_worker",
        "test_accuracy_by_epoch", "test_loss",
    }  # fmt: skip
    for key in real.keys() - timed:
        assert virtual[key] == real[key], key


def test_an_experiment_in_virtual_time_leaves_a_table_and_a_report(
    runs: tuple[Path, Path],
) -> None:
    _, virtual = runs
    rows = json.loads((virtual / "results.json").read_text())
    assert [row["name"] for row in rows] == ["linear", "dropout"]
    assert (virtual / "report.html").exists()
    # Nobody can be quicker than the slowest worker's sleeps, nor needs a real second for them.
    sleeps_s = 2 * 8 * 0.02  # digits: a share of 480 samples, in batches of 64
    assert sleeps_s < rows[0]["seconds"] < 2 * sleeps_s


RESIZED = """
about: from two workers to eight to three
base:
  {dataset: digits, workers: 2:8, resize: "1:8,3:3", epochs: 4, batch_size: 16, slow: 0.1}
runs:
  bsp: {policy: bsp}
  ssp: {policy: ssp, bound: 3}
  asp: {policy: asp}
"""
STEP_S = 0.11  # it sleeps, and computes
ON_THE_WAY_S = 0.07  # from a newcomer's hello to its first step: beats, a pull, a lease


@pytest.fixture(scope="module")
def resized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resized")
    file = folder / "resized.yaml"
    file.write_text(RESIZED)
    argv = [*LEASH, "experiment", str(file), f"--out={folder / 'out'}", "--virtual",
            "--compute=0.01"]  # fmt: skip
    with Child(argv) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    return folder / "out"


@pytest.mark.parametrize("name", ["bsp", "ssp", "asp"])
def test_a_run_that_grows_and_shrinks_costs_the_others_a_step_at_most(
    resized: Path, name: str
) -> None:
    told = summary(resized / name)
    assert (told["ended"], told["epochs"], told["most_at_once"]) == ("done", 4, 8)
    assert (told["samples"], told["samples_twice"]) == (4 * 1438, 0)  # each once an epoch
    answered: dict[int, list[float]] = {}
    for line in (resized / name / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            answered.setdefault(event["worker"], []).append(event["t"])
    assert answered.keys() == set(range(1, 9))
    for rank in (1, 2, 3):
        gaps = [b - a for a, b in pairwise(answered[rank])]
        assert max(gaps) < STEP_S + ON_THE_WAY_S < 2 * STEP_S, rank
    for rank in range(4, 9):
        assert answered[rank][0] > 1.0
        assert answered[rank][-1] < 3.0 + 2 * STEP_S
