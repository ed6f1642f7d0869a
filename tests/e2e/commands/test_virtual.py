"""Training in virtual time beside real processes: what they learn is the same, bit by bit."""

import json
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
