import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from leash.bench.harness.rows import Row, make_row, read_json, write_json
from leash.bench.harness.trial import TRIES, Times, TimesOfRound, Trial, alone, in_turn
from leash.bench.show.row_table import caption, print_table, size_of

RESULTS = Path(__file__).resolve().parents[3] / "bench" / "results"
KEYS = {
    "bench", "system", "transport", "codec", "nbytes", "workers", "shards", "median_s", "p99_s",
    "per_s", "gbytes_per_s", "commit", "cpu",
}  # fmt: skip


def row(system: str = "leash", seconds: float = 0.5, nbytes: int = 4000, workers: int = 1) -> Row:
    trial = Trial(bench="push_pull", system=system, transport="tcp", nbytes=nbytes, workers=workers)
    return make_row(trial, Times(warmup=3, by_worker=([seconds] * 9,) * workers))


def test_a_row_has_the_median_of_all_workers_and_the_sum_of_their_rates() -> None:
    trial = Trial(bench="push_pull", system="leash", nbytes=8_000_000, workers=2)
    made = make_row(trial, Times(4, ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])))
    assert made.median_s == pytest.approx(0.35)
    assert made.p99_s == 0.6
    assert made.repeats == 6
    assert made.warmup == 4
    assert made.per_s == pytest.approx(1 / 0.2 + 1 / 0.5)
    assert made.gbytes_per_s == pytest.approx(0.008 * 7)


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.json"
    write_json(path, [row(), row("gloo")])
    assert read_json(path) == [row(), row("gloo")]
    assert all(set(told) >= KEYS for told in json.loads(path.read_text("utf-8")))


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_rows_of_before_can_be_read_and_shown(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_json(path)
    print_table("t", rows, ())
    assert rows[0].commit in capsys.readouterr().out


def test_a_table_tells_the_ratio_to_each_peer(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("t", [row(), row("gloo", 1.0), row("memcpy", 0.25)], ("gloo", "memcpy", "ray"))
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert "2.00" in lines["leash"]
    assert "0.50" in lines["leash"]
    assert "ray" not in "".join(lines)


def test_a_ratio_is_that_of_the_same_size_and_number_of_workers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [row(), row(workers=2), row("gloo", 1.0), row("gloo", 0.1, workers=2), row(nbytes=8000)]
    print_table("t", rows, ("gloo",))
    told = [line for line in capsys.readouterr().out.splitlines() if "leash" in line]
    assert [line.split("│")[-2].strip() for line in told] == ["2.00", "0.20", ""]


def test_what_is_the_same_for_all_rows_stands_below_the_table() -> None:
    told = caption([row(), row("gloo")])
    assert "transport tcp" in told
    assert "workers 1" in told
    assert "system" not in told


@pytest.mark.parametrize(("nbytes", "text"), [(87_000, "87 KB"), (4_000_000, "4 MB"), (12, "12 B")])
def test_sizes_are_told_in_powers_of_ten(nbytes: int, text: str) -> None:
    assert size_of(nbytes) == text


def test_trials_take_turns() -> None:
    order: list[str] = []
    trials = {
        Trial(bench="b", system=name): alone(lambda name=name: order.append(name)) for name in "ab"
    }
    times = in_turn(3, 0.0, trials, warmup_s=0.0)
    assert order == ["a", "b"] * 4
    assert [(t.warmup, len(t.by_worker[0])) for t in times.values()] == [(1, 3), (1, 3)]


# What others take of the processors.


def scripted(shares: list[float | None]) -> Callable[..., tuple[TimesOfRound, float | None]]:
    """Watches rounds during which others take these shares, one after the other."""
    return lambda go: (go(), shares.pop(0))


@pytest.mark.parametrize(
    ("shares", "kept", "told"),
    [
        ([0.0, 0.049], [1, 2], 0.049),  # both count
        ([0.05, 0.01, 0.02], [2, 3], 0.02),  # the first does not
        ([0.3, 0.2, 0.4, 0.0], [2, 4], 0.2),  # none of three: the quietest counts, and that is told
        ([None, None], [1, 2], None),  # nothing tells it: no round is repeated
        ([None, 0.01], [1, 2], 0.01),
    ],
)
def test_a_round_counts_only_if_others_take_little(
    shares: list[float | None], kept: list[int], told: float | None
) -> None:
    begun = 0

    def go(seconds: float) -> TimesOfRound:
        nonlocal begun
        begun += seconds > 0  # a warm-up has none
        return [[float(begun)]]

    trial = Trial(bench="b", system="s")
    times = in_turn(2, 0.5, {trial: go}, warmup_s=0.0, watch=scripted(shares))[trial]
    assert times == Times(1, ([float(number) for number in kept],), told)
    assert shares == []
    assert make_row(trial, times).foreign_share == told


def test_a_round_is_tried_as_often_as_was_asked() -> None:
    begun: list[float] = []

    def go(seconds: float) -> TimesOfRound:
        begun.append(seconds)
        return [[1.0]]

    for tries in (1, TRIES):
        begun.clear()
        watch = scripted([0.9] * tries)
        in_turn(1, 0.5, {Trial(bench="b", system="s"): go}, warmup_s=0.0, tries=tries, watch=watch)
        assert begun == [0.0, *[0.5] * tries]


def test_rows_with_too_much_of_others_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [replace(row(name), foreign_share=share)
            for name, share in (("quiet", 0.0499), ("loud", 0.05), ("old", None))]  # fmt: skip
    print_table("t", rows, ())
    out = capsys.readouterr().out
    marked = [line.split()[1] for line in out.splitlines() if "!" in line and "│" in line]
    assert marked == ["loud"]
    assert "! 1 of 3 rows: other processes took 5% of the processors or more" in out
    print_table("t", rows[:1], ())
    assert "!" not in capsys.readouterr().out
