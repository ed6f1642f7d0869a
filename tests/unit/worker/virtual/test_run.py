"""Whole runs in virtual time: digits, three workers, a fraction of a second each."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.experiments.machines import MachinesGroup, VirtualLaunch
from leash.ps.options.launch import LaunchOptions
from leash.ps.runs.audit import audit_run
from leash.ps.slowness.delays import Delays
from leash.ps.slowness.grammar import parse_slowness
from leash.worker.virtual.run import run

SLEEPS = (0.02, 0.03, 0.05)
COMPUTE_S = 0.001
SAMPLES = 1438  # digits' training split
STEPS = 15  # of a worker and epoch, in batches of 32
EXCHANGE_S = 0.002  # what an exchange takes at most, with the machines' defaults


def train(folder: Path, **options: Any) -> dict[str, Any]:
    """Trains in virtual time; returns the summary."""
    machines = {
        name: options.pop(name) for name in MachinesGroup.__dataclass_fields__ if name in options
    }
    settings = {
        "dataset": "digits", "workers": 3, "epochs": 2, "step_events": 1, "policy": "asp",
        "slow": ",".join(map(str, SLEEPS)), "run_dir": str(folder), **options,
    }  # fmt: skip
    launch = VirtualLaunch(
        LaunchOptions(**settings), MachinesGroup(**{"compute": str(COMPUTE_S), **machines})
    )
    assert run(launch) == 0
    assert audit_run(folder) == []
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return [event for event in found if event["event"] == kind]


def test_the_same_run_twice_leaves_the_same_files_bit_by_bit(tmp_path: Path) -> None:
    drawn = {"slow": "exp:0.03", "compute": "uniform:0.001,0.002", "network": "exp:0.001"}
    for name in ("once", "twice"):
        train(tmp_path / name, **drawn)
    files = [path for path in (tmp_path / "once").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "config.yaml", "events.jsonl", "final.safetensors", "journal.jsonl", "server.log",
        "summary.json", "virtual.yaml", "worker-1.log", "worker-2.log", "worker-3.log",
    }  # fmt: skip
    for path in files:
        other = tmp_path / "twice" / path.relative_to(tmp_path / "once")
        assert path.read_bytes() == other.read_bytes(), path.name


def test_under_bsp_a_step_takes_as_long_as_the_slowest(tmp_path: Path) -> None:
    summary = train(tmp_path, policy="bsp", epochs=3)
    least_s = 3 * STEPS * (max(SLEEPS) + COMPUTE_S)
    assert least_s < summary["train_seconds"] < least_s + 3 * STEPS * EXCHANGE_S
    assert summary["max_lag"] == 0
    assert summary["steps"] == 3 * 3 * STEPS


def test_under_asp_each_worker_goes_at_its_own_pace(tmp_path: Path) -> None:
    summary = train(tmp_path, data_plan="static", epochs=3)
    ends_s = {left["worker"]: left["t"] for left in events(tmp_path, "left")}
    (started,) = events(tmp_path, "started")
    for worker, sleep_s in enumerate(SLEEPS, start=1):
        least_s = 3 * STEPS * (sleep_s + COMPUTE_S)
        assert least_s < ends_s[worker] - started["t"] < least_s + 3 * STEPS * EXCHANGE_S + 0.1
    assert summary["max_lag"] > 10
    assert summary["wait_fraction"] < 0.1


def test_ssp_keeps_its_bound(tmp_path: Path) -> None:
    # That each reply kept it, `train` re-checks from the events.
    assert train(tmp_path, policy="ssp", bound=3)["max_lag"] == 3


def test_leases_give_every_sample_once_an_epoch_and_the_fast_get_more(tmp_path: Path) -> None:
    summary = train(tmp_path, epochs=3)
    assert (summary["samples"], summary["samples_twice"]) == (3 * SAMPLES, 0)
    steps = summary["steps_by_worker"]
    assert steps["1"] > steps["2"] > steps["3"]


def test_a_worker_sleeps_what_a_real_one_would(tmp_path: Path) -> None:
    slow, seed = "exp:0.05", 5
    train(tmp_path, slow=slow, seed=seed, workers=1, data_plan="static", epochs=1, network="0")
    delays = Delays(parse_slowness(slow), seed=seed, rank=1)
    times = [push["t"] for push in events(tmp_path, "push")]
    between = [after - before for before, after in itertools.pairwise(times)]
    delays.next(0.0)  # before the first push
    expected = [delays.next(0.0) for _ in between]
    computed = [seconds - slept for seconds, slept in zip(between, expected, strict=True)]
    assert min(computed[:-1]) > COMPUTE_S - 1e-5
    assert max(computed[:-1]) < COMPUTE_S + EXCHANGE_S


def test_a_slower_network_and_server_cost_their_time(tmp_path: Path) -> None:
    fast = train(tmp_path / "fast", policy="bsp")["train_seconds"]
    slow = train(
        tmp_path / "slow", policy="bsp", network="0.05", server_us=10_000.0, bandwidth_gbit=0.001
    )["train_seconds"]
    # A model of 2,600 bytes takes 0.021 s through a link of 1 Mbit/s; three of them share it.
    a_step_s = 2 * 0.05 + 0.010 + 4 * 0.021
    assert slow - fast == pytest.approx(2 * STEPS * a_step_s, rel=0.3)


def test_every_epoch_has_its_accuracy(tmp_path: Path) -> None:
    summary = train(tmp_path, epochs=4, policy="bsp")
    assert len(summary["test_accuracy_by_epoch"]) == 4
    assert summary["test_accuracy"] > 0.8


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "int8"},
        {"policy": "bsp", "local_steps": "4", "outer_lr": 0.7},
        {"policy": "bsp", "local_steps": "auto"},
        {"policy": "backup", "backup_workers": 1},
        {"policy": "drop", "max_staleness": 3},
        {"policy": "dssp", "bound": 1, "bound_max": 4},
        {"policy": "bsp", "heterogeneity": "1,1,0.5", "slow": "0"},
        {"optimizer": "adam", "lr": 0.001},
    ],
    ids=str,
)
def test_a_run_of_each_kind_comes_to_its_end(tmp_path: Path, options: dict[str, Any]) -> None:
    summary = train(tmp_path, **options)
    assert (summary["ended"], summary["epochs"]) == ("done", 2)


def test_computing_is_measured_once_where_it_is_not_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "measured", compute=None, epochs=1)
    told = capsys.readouterr().out
    (word,) = [word for word in told.split() if word.startswith("--compute=")]
    noted = (tmp_path / "measured" / "virtual.yaml").read_text()
    assert f"compute: '{float(word.removeprefix('--compute='))}'" in noted
    train(tmp_path / "again", compute=None, epochs=1)
    assert (tmp_path / "again" / "virtual.yaml").read_text() == noted


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"shards": 2}, "--shards 2"),
        ({"device": "cuda"}, "--device cuda"),
        ({"transport": "shm"}, "--transport shm"),
        ({"resume": "a-file"}, "--resume"),
        ({"script": __file__, "dataset": None}, "--script"),
        ({"network": "0.1,0.2"}, "--network 0.1,0.2"),
        ({"compute": "exp:"}, "--compute exp:"),
    ],
    ids=str,
)
def test_what_virtual_time_does_not_have_is_refused_by_its_name(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        train(tmp_path, **options)
    assert not list(tmp_path.iterdir())
