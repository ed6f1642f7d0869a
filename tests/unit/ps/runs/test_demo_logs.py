"""The SSP demo's logs, against figures worked out by hand and by numpy."""

import math
from pathlib import Path

import numpy as np
import pytest

from leash.ps.runs.demo_logs import DemoLogs
from support.sockless import TightDisk


def lines(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def test_each_step_is_a_line_of_epoch_worker_batch_size_and_staleness(tmp_path: Path) -> None:
    logs = DemoLogs(tmp_path, "MnistCNN")
    logs.add_step(0, 2, 100, 3)
    logs.add_step(1, 1, 60, 0)
    logs.close()
    assert (tmp_path / "stalenessMnistCNN.txt").read_text("utf-8") == "0\t2\t100\t3\n1\t1\t60\t0\n"


def test_each_epoch_is_a_line_as_numpy_would_have_it(tmp_path: Path) -> None:
    logs = DemoLogs(tmp_path, "M")
    losses, staleness = [(100, 2.5), (50, 1.0), (150, 0.75)], [0, 1, 5, 2]
    done = 0
    for samples, loss in losses:
        done += samples
        logs.add_loss(0, 1, done, loss)
    for value in staleness:
        logs.add_step(0, 1, 75, value)
    logs.end_epochs(1, 12.5)
    logs.add_accuracy(0, 0.97891)
    logs.add_loss(1, 1, done + 10, 0.5)
    logs.add_step(1, 1, 10, 4)
    logs.end_epochs(2, 20.0)
    logs.close()
    first, second = lines(tmp_path / "trainlossM.txt")
    counts, means = zip(*losses, strict=True)
    assert first[0] == second[0] == "0"
    assert float(first[1]) == pytest.approx(np.average(means, weights=counts))
    assert float(first[2]) == pytest.approx(np.var(staleness))
    assert [float(x) for x in first[3:5]] == [12.5, 12.5]
    assert first[5:] == ["0", "97.8910%"]
    assert [float(x) for x in second[1:5]] == [0.5, 0.0, 7.5, 20.0]
    assert second[5:] == ["1", "nan%"]


def test_a_line_is_there_once_its_epoch_has_ended_and_is_mended_by_what_comes_later(
    tmp_path: Path,
) -> None:
    logs = DemoLogs(tmp_path, "M")
    logs.add_loss(0, 1, 10, 4.0)
    logs.end_epochs(1, 3.0)
    path = tmp_path / "trainlossM.txt"
    assert lines(path)[0][1] == "4.0"
    logs.add_loss(0, 2, 30, 2.0)
    logs.add_accuracy(0, 0.5)
    assert lines(path) == [["0", "2.5", "nan", "3.0", "3.0", "0", "50.0000%"]]
    logs.add_accuracy(0, None)  # a regression
    logs.close()


def test_a_worker_that_was_started_again_counts_from_zero(tmp_path: Path) -> None:
    logs = DemoLogs(tmp_path, "M")
    logs.add_loss(0, 1, 40, 1.0)
    logs.add_loss(0, 1, 10, 6.0)
    logs.add_loss(0, 1, 10, math.nan)  # nothing since
    logs.end_epochs(1, 1.0)
    logs.close()
    assert float(lines(tmp_path / "trainlossM.txt")[0][1]) == (40 * 1.0 + 10 * 6.0) / 50


def test_a_full_disk_keeps_both_logs_waiting_and_whoever_comes_later_hears_of_it(
    tmp_path: Path,
) -> None:
    disk, heard = TightDisk(room=0), []  # type: TightDisk, list[tuple[str, str]]
    logs = DemoLogs(tmp_path, "M", disk)
    for step in range(500):
        logs.add_step(0, 1, 100, step)
    logs.hear(lambda path, error: heard.append((path.name, error.strerror if error else "over")))
    logs.end_epochs(1, 3.0)
    no_space = "No space left on device"
    assert heard == [("stalenessM.txt", no_space), ("trainlossM.txt", no_space)]
    assert logs.missing == 500
    disk.room = None
    logs.close()
    assert {name for name, told in heard if told == "over"} == {"stalenessM.txt", "trainlossM.txt"}
    assert len(lines(tmp_path / "stalenessM.txt")) == 500
    assert lines(tmp_path / "trainlossM.txt")[0][3] == "3.0"
