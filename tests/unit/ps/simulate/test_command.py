"""`leash simulate` as a command."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leash.ps import cli, interrupt
from leash.ps.simulate.cluster import Failures
from leash.ps.simulate.options import parse_compare, parse_failures

Leash = Callable[..., tuple[int, str, str]]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Leash:
    """Runs `leash simulate` in this process; gives status, stdout and stderr."""
    monkeypatch.setattr(interrupt, "raise_on_signals", lambda: None)
    monkeypatch.setattr(interrupt, "ignore_signals", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["simulate", *words])
        assert isinstance(end.value.code, int)
        return end.value.code, *capsys.readouterr()

    return run


def test_the_table_has_a_row_for_each_policy(simulate: Leash) -> None:
    status, out, err = simulate("--slow", "0.1,0.2", "--workers=2", "--steps=50",
                                "--compare", "bsp, ssp 2, asp")  # fmt: skip
    assert (status, err) == (0, "")
    head, _, *rows, about = out.splitlines()
    assert head.split()[:2] == ["policy", "steps/s"]
    assert about.startswith("waiting: ")
    cells = [row.split() for row in rows]
    assert [row[0] for row in cells] == ["bsp", "ssp(2)", "asp"]
    speeds = [float(row[1]) for row in cells]
    assert speeds[0] == 10.0  # two steps in 0.2 s
    assert speeds[2] == pytest.approx(15.0, abs=0.3)
    assert speeds[0] < speeds[1] < speeds[2]


def test_json_names_figures_as_a_run_does(simulate: Leash) -> None:
    status, out, _ = simulate("--compute=0.1", "--workers=3", "--steps=7", "--json", "--policy=bsp")
    assert status == 0
    (row,) = json.loads(out)
    assert (row["policy"], row["bound"], row["steps"]) == ("bsp", 0, 21)
    assert row["steps_per_second"] == pytest.approx(30.0)
    assert row["wait_fraction_by_worker"] == {"1": 0.0, "2": 0.0, "3": 0.0}


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture_is_drawn(simulate: Leash, tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"picture.{ending}"
    status, _, err = simulate("--slow=exp:0.2", "--steps=40", "--plot", str(path))
    assert (status, err) == (0, "")
    begins = path.read_bytes()[:200]
    assert (b"<?xml" if ending == "svg" else b"\x89PNG") in begins


LINK = ("--workers=64", "--compute=normal:0.12,0.02", "--network=0.001", "--model-mb=45",
        "--steps=60", "--compare=bsp, ssp 3, asp")  # fmt: skip


def test_waiting_for_the_server_is_not_waiting_for_others(simulate: Leash) -> None:
    status, out, _ = simulate(*LINK, "--json")
    assert status == 0
    rows = {row["policy"]: row for row in json.loads(out)}
    for policy, row in rows.items():
        assert row["wait_fraction"] > 0.9
        # What is left is the network's millisecond each way.
        split = row["held_fraction"] + row["server_fraction"]
        assert split == pytest.approx(row["wait_fraction"], abs=0.01)
        # 45 MB each way at 1.25 GB/s.
        assert row["limit_steps_per_second"] == pytest.approx(1 / 0.036, rel=1e-4)
        assert row["steps_per_second"] <= row["limit_steps_per_second"] * 1.0001
        assert (row["held_fraction"] > 0.3) == (policy == "bsp")
    assert rows["asp"]["held_fraction"] == 0.0
    assert rows["asp"]["server_fraction"] > 0.9


def test_the_limit_is_told_in_words_and_no_column_is_cut(simulate: Leash) -> None:
    _, out, _ = simulate(*LINK)
    assert "…" not in out
    head, *_, limit = out.splitlines()
    assert "for others   for the server" in head
    assert limit.startswith(
        "the server's link is the limit: 45 MB each way take 36.0 ms at 10 Gbit/s, so that no "
        "policy does more than 27.8 steps/s; of that bsp "
    )
    assert limit.endswith("and asp 100 %")


def test_the_limit_may_be_the_servers_work_and_may_be_far(simulate: Leash) -> None:
    _, out, _ = simulate("--compute=0.1", "--workers=2", "--steps=20", "--server-us=1000",
                         "--local-steps=4", "--policy=asp")  # fmt: skip
    limit = out.splitlines()[-1]
    assert limit.startswith("the server's work would be the limit: a push takes 1.0 ms, so that no "
                            "policy does more than 4000.0 steps/s, with 4 to a push")  # fmt: skip


def test_without_a_server_that_takes_time_all_waiting_is_for_others(simulate: Leash) -> None:
    _, out, _ = simulate("--slow=exp:0.2", "--steps=40", "--compare=bsp, asp")
    assert "for others" not in out
    assert "limit" not in out
    _, out, _ = simulate("--slow=exp:0.2", "--steps=40", "--json", "--policy=ssp")
    (row,) = json.loads(out)
    assert row["limit_steps_per_second"] is None
    assert row["held_fraction"] == row["wait_fraction"] > 0
    assert row["server_fraction"] == 0


@pytest.mark.parametrize(
    ("workers", "title"), [(12, "The first 10 of 12 workers in "), (3, "All 3 workers in their ")]
)
def test_the_picture_says_whom_it_shows(
    simulate: Leash, tmp_path: Path, workers: int, title: str
) -> None:
    path = tmp_path / "picture.svg"
    simulate("--slow=exp:0.2", "--steps=40", f"--workers={workers}", f"--plot={path}")
    assert title in path.read_text("utf-8")


def test_matplotlib_is_asked_for_before_anything_is_simulated(
    simulate: Leash, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("leash.ps.simulate.command.is_installed", lambda name: name != "matplotlib")
    monkeypatch.setitem(sys.modules, "leash.ps.simulate.picture", None)
    status, out, err = simulate("--slow=exp:0.2", "--plot", str(tmp_path / "a.svg"))
    assert (status, out) == (2, "")
    assert "needs matplotlib" in err
    assert err.count("\n") == 1


def test_policies_and_failures_are_read_as_they_are_written() -> None:
    rules = parse_compare("bsp,ssp, ssp 7 ,asp")
    assert [str(rule) for rule in rules] == ["bsp", "ssp(3)", "ssp(7)", "asp"]
    others = parse_compare("dssp 3 15, backup 2, drop 20")
    assert [str(rule) for rule in others] == ["dssp(3..15)", "backup(2)", "drop(20)"]
    assert parse_failures("restart=30,mtbf=3600") == Failures(3600.0, 30.0, 5.0)
    assert parse_failures("mtbf=60,restart=3,evict=1") == Failures(60.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "such as --compute 0.05"),
        (["--compute=x"], "--compute x: expected numbers, such as 0.2, exp:0.2"),
        (["--compute=1,2"], "--compute 1,2: expected one for all, or 10"),
        (["--network=exp:"], "--network"),
        (["--slow=1", "--workers=0"], "--workers 0: give a number above 0"),
        (["--slow=1", "--steps=-1"], "--steps -1: give a number above 0"),
        (["--slow=1", "--steps=1", "--samples=1"], "leave one of the two out"),
        (["--slow=1", "--local-steps=0"], "--local-steps 0: give a number above 0"),
        (["--slow=1", "--heterogeneity=2"], "--heterogeneity 2: give numbers above 0"),
        (["--slow=1", "--bandwidth-gbit=0"], "--bandwidth-gbit 0.0: give a number above 0"),
        (["--slow=1", "--server-us=-1"], "--server-us -1.0: give a number from 0"),
        (["--slow=1", "--failures=often"], "such as mtbf=3600,restart=30"),
        (["--slow=1", "--failures=mtbf=0,restart=1"], "give an mtbf above 0"),
        (["--slow=1", "--failures=mtbf=nan,restart=1"], "give an mtbf above 0"),
        (["--slow=1", "--compare=tsp"], "such as bsp, ssp 1, ssp 3, ssp 10, asp"),
        (["--slow=1", "--compare=bsp,,asp"], "such as bsp, ssp 1"),
        (["--slow=1", "--compare=asp 3"], "such as bsp, ssp 1"),
        (["--slow=1", "--compare=bsp", "--policy=asp"], "leave --policy out"),
        (["--slow=1", "--bound=-1"], "give 0 or more"),
        (["--slow=1", "--plot=a.gif"], "give a name that ends in .svg, .png, .pdf"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_answered_with_one_line_and_status_2(
    simulate: Leash, words: list[str], says: str
) -> None:
    status, out, err = simulate(*words)
    assert (status, out) == (2, "")
    assert err.startswith("leash simulate: ")
    assert says in err
    assert err.count("\n") == 1
