"""The benchmark of checkpoints, with a small model: only its rows, not its figures."""

import pytest

from leash.bench import checkpoint
from leash.bench.options import BenchOptions


def test_each_way_has_a_row_with_its_conditions_and_as_many_exchanges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "SHORT", (2, 24, 3, 2))
    told: list[str] = []
    options = BenchOptions(benchmark="checkpoint", short=True)
    rows = checkpoint.measure(options, lambda what, _: told.append(what))
    assert [row.case for row in rows] == [
        "model of 24 MiB, no checkpoint", "model of 24 MiB, one being written"
    ]  # fmt: skip
    assert [(row.repeats, row.nbytes, row.transport) for row in rows] == [(6, 2 << 20, "tcp")] * 2
    assert told[-1] == "one being written, round 2 of 2"
