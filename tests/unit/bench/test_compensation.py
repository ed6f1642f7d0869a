import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leash.bench import command, compensation
from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.options import BenchOptions
from leash.bench.show.loss_pictures import edge
from leash.bench.show.row_table import print_table


def row(lr: float, last: float | None, system: str = "asp") -> Row:
    made = make_row(Trial(bench="compensation", system=system), Times(0, ([0.5],)))
    return replace(made, lr=lr, losses=[[2.3, 0.1], [2.3, last]])


def test_it_trains_and_leaves_rows_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "SHORT_UPDATES", 100)
    monkeypatch.setattr(compensation, "SHORT_RATES", (0.05,))
    json_file, picture = tmp_path / "c.json", tmp_path / "c.svg"
    options = BenchOptions(
        benchmark="compensation", short=True, json=str(json_file), picture=str(picture)
    )
    assert command.run(options) == 0
    rows = json.loads(json_file.read_text("utf-8"))
    assert [row["system"] for row in rows] == list(compensation.WAYS)
    for told in rows:
        assert len(told["losses"]) == len(compensation.SEEDS)
        assert all(curve[-1] < 0.9 * curve[0] for curve in told["losses"])
    assert picture.exists()


def test_losses_are_the_same_each_time_and_differ_between_seeds_and_ways() -> None:
    task = compensation.DigitsTask()

    def losses(way: str, seed: int) -> list[float | None]:
        return compensation.train(task, way, 0.1, 60, seed, [])

    first = losses("lr/τ", 1)
    assert losses("lr/τ", 1) == first
    assert losses("lr/τ", 2) != first
    assert losses("dc adaptive, λ 2", 1) != first


def test_every_worker_finishes_about_as_often_and_in_no_fixed_order() -> None:
    order = list(itertools.islice(compensation.finishing(np.random.default_rng(1)), 1600))
    counts = Counter(order)
    assert len(counts) == compensation.WORKERS
    assert all(80 < count < 120 for count in counts.values())
    assert order[:16] != order[16:32]


def test_the_edge_is_the_largest_rate_that_plain_asp_bears_with_every_seed() -> None:
    rows = [row(0.1, 0.2), row(0.2, 2.2), row(0.4, 2.4), row(0.8, None), row(1.6, 0.1, "lr/τ")]
    assert edge(rows) == 0.2
    assert edge(rows[2:]) is None


def test_a_loss_that_is_no_number_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", [row(0.1, 0.3), row(0.8, None, "lr/τ")], ())
    out = capsys.readouterr().out
    assert "0.200" in out
    assert "no number" in out
