"""Experiments: what their files say, and what their runs come to."""

import io
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from leash.ps.errors import UsageError
from leash.ps.experiments import command, plan
from leash.ps.experiments.command import _is_there, run
from leash.ps.experiments.machines import MachinesGroup, VirtualLaunch
from leash.ps.experiments.options import ExperimentOptions
from leash.ps.experiments.outcome import RunOutcome, median_rows, read_outcome
from leash.ps.experiments.outcome_table import outcome_table
from leash.ps.interrupt import Interrupted
from leash.ps.launch import command as launch
from leash.ps.wire.keys import worker_files

SWEEP = """
about: a sweep
target_accuracy: 0.9
base: {dataset: digits, workers: 2, slow: [0, 0.5]}
runs:
  "fixed: bsp": {policy: bsp}
  "fixed: ssp 3": {policy: ssp, bound: 3}
seeds: [1, 2]
published: {somebody: 401}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def outcome(name: str, seconds: float, **changes: object) -> RunOutcome:
    figures = {
        "seed": 1, "epochs": 2, "seconds": seconds, "seconds_to_target": seconds / 2,
        "accuracy": 0.97, "wait_share": 0.25, "limit_ratio": 1.25, "batches_per_second": 20.0,
        "mean_staleness": 1.0, "max_lag": 3,
    }  # fmt: skip
    return RunOutcome(name, **{**figures, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", plan.names())
def test_every_experiment_that_leash_brings_along_can_be_read(name: str) -> None:
    experiment = plan.load(ExperimentOptions(name=name))
    assert experiment.about
    folders = [run.folder for run in experiment.runs]
    assert len(set(folders)) == len(folders)


def test_each_run_has_the_common_settings_and_its_own_for_every_seed(sweep: Path) -> None:
    runs = plan.load(ExperimentOptions(name=str(sweep))).runs
    assert [(run.name, run.folder, run.options.seed) for run in runs] == [
        ("fixed: bsp", "fixed-bsp-seed-1", 1),
        ("fixed: bsp", "fixed-bsp-seed-2", 2),
        ("fixed: ssp 3", "fixed-ssp-3-seed-1", 1),
        ("fixed: ssp 3", "fixed-ssp-3-seed-2", 2),
    ]
    assert {run.options.slow for run in runs} == {"0,0.5"}
    assert [run.options.bound for run in runs] == [None, None, 3, 3]


def test_options_of_the_command_win_over_the_file(sweep: Path) -> None:
    options = ExperimentOptions(name=str(sweep), epochs=7, seed=5, only="ssp", data_dir="there")
    (run,) = plan.load(options).runs
    assert (run.name, run.options.epochs, run.options.seed) == ("fixed: ssp 3", 7, 5)
    assert run.options.data_dir == "there"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "expected a map with runs"),
        ("runs: {}", "expected a map with runs"),
        ("runs: {a: {}}\nbase: {dataset: digits}\nextra: 1", "unknown extra"),
        ("runs: {a: {stalenes: 1}}\nbase: {dataset: digits}", "run a: unknown option --stalenes"),
        ("runs: {a: {bound: -1}}\nbase: {dataset: digits}", "run a: --bound -1"),
        ("runs: {a: {}}", "run a: say what to train"),
        ("runs: {a: {}}\nbase: {dataset: digits}\ntarget_accuracy: 97.5", "target_accuracy 97.5"),
        ("runs: {a: ", "not a file of an experiment"),
        ("runs: {a: b}", "run a: expected a map, got b"),
        ("runs: {a: {}}\nbase: [1]", "base: expected a map"),
        ("runs: {3: {}}\nbase: {dataset: digits}", "names that are text"),
        ("runs: {a: {}}\nbase: {dataset: digits}\nseeds: 3", "seeds 3: expected a list"),
        ("runs: {a: {}}\nbase: {dataset: digits}\npublished: {x: y}", "expected seconds"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        plan.load(ExperimentOptions(name=str(path)))


def test_an_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"neither one of .*demo.*, nor a file"):
        plan.load(ExperimentOptions(name="nope"))


def test_words_that_fit_no_run_are_answered_with_the_runs(sweep: Path) -> None:
    with pytest.raises(UsageError, match="its runs are fixed: bsp, fixed: ssp 3"):
        plan.load(ExperimentOptions(name=str(sweep), only="dssp"))


def test_an_outcome_is_in_seconds_of_full_scale(tmp_path: Path) -> None:
    summary = {
        "seed": 1, "epochs": 3, "samples": 600, "train_seconds": 9.0, "mean_staleness": 2.0,
        "wait_fraction_by_worker": {"1": 0.1, "2": 0.5}, "test_accuracy": 0.95, "max_lag": 3,
        "test_accuracy_by_epoch": [0.5, None, 0.95], "ended": "done",
    }  # fmt: skip
    events = [
        {"t": 1.0, "event": "started"},
        {"t": 1.5, "event": "training", "worker": 1, "samples": 50, "compute_s": 0.0},
        {"t": 2.0, "event": "epoch_completed", "epoch": 1},
        {"t": 4.0, "event": "training", "worker": 1, "samples": 300, "compute_s": 2.0},
        {"t": 4.0, "event": "training", "worker": 2, "samples": 200, "compute_s": 2.0},
        {"t": 5.0, "event": "epoch_completed", "epoch": 3},  # two at once
    ]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, events)))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"time_scale": 0.1, "batch_size": 100}))
    found = read_outcome("a", tmp_path, 0.9)
    assert found.seconds == pytest.approx(40.0)
    assert found.seconds_to_target == pytest.approx(40.0)
    assert found.seconds_per_epoch == pytest.approx(40 / 3)
    assert found.wait_share == pytest.approx(0.3)
    assert found.batches_per_second == pytest.approx(6 / 40)
    assert found.limit_ratio == pytest.approx(4 / (600 / (300 / 2 + 200 / 2)))


def test_seeds_come_down_to_their_medians_and_a_miss_stays_a_miss() -> None:
    rows = [outcome("a", s, seed=n) for n, s in enumerate((1.0, 5.0, 2.0))]
    rows += [outcome("b", 3.0), outcome("b", 4.0, seconds_to_target=None, max_lag=9)]
    first, second = median_rows(rows)
    assert (first.name, first.seconds, first.seconds_to_target) == ("a", 2.0, 1.0)
    assert (second.seconds_to_target, second.max_lag) == (None, 9)


def test_the_table_compares_with_the_first_run_of_each_part(sweep: Path) -> None:
    experiment = plan.load(ExperimentOptions(name=str(sweep)))
    rows = [outcome("x: a", 10.0), outcome("x: b", 4.0), outcome("y: a", 3.0)]
    console = Console(width=140, file=io.StringIO())
    console.print(outcome_table(experiment, rows))
    lines = {line.split("  ")[0].strip(): line for line in console.file.getvalue().splitlines()}
    assert "1.00 ×" in lines["x: a"]
    assert "2.50 ×" in lines["x: b"]
    assert "1.00 ×" in lines["y: a"]
    assert "401" in lines["somebody (published)"]


def test_a_run_that_came_to_its_end_is_not_repeated_and_any_other_is(
    sweep: Path, tmp_path: Path
) -> None:
    planned = plan.load(ExperimentOptions(name=str(sweep))).runs[0]
    run_dir = tmp_path / planned.folder
    assert not _is_there(planned, run_dir)
    run_dir.mkdir()
    settings = {k: v for k, v in asdict(planned.options).items() if k != "run_dir"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(settings))
    (run_dir / "summary.json").write_text('{"ended": "done"}')
    assert _is_there(planned, run_dir)
    (run_dir / "summary.json").write_text('{"ended": "SIGINT"}')
    assert not _is_there(planned, run_dir)
    assert not run_dir.exists()


def test_a_run_is_known_again_by_what_the_launcher_notes(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan.load(ExperimentOptions(name=str(sweep))).runs[0]
    run_dir = tmp_path / planned.folder
    monkeypatch.setattr(launch.Launch, "run", lambda self: 0)
    assert launch.run(replace(planned.options, run_dir=str(run_dir))) == 0
    (run_dir / "summary.json").write_text('{"ended": "done"}')
    assert _is_there(planned, run_dir)


def test_what_is_no_such_run_is_left_alone(sweep: Path, tmp_path: Path) -> None:
    planned = plan.load(ExperimentOptions(name=str(sweep))).runs[0]
    run_dir = tmp_path / "other"
    run_dir.mkdir()
    with pytest.raises(UsageError, match="not the folder of a run"):
        _is_there(planned, run_dir)
    (run_dir / "config.yaml").write_text("lr: 3\n")
    with pytest.raises(UsageError, match="other settings"):
        _is_there(planned, run_dir)


def test_an_experiment_that_is_interrupted_says_how_it_goes_on(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, is_one_of_many: bool) -> int:
        assert is_one_of_many  # the launcher does not tell how to go on with this run alone
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(launch, "run", interrupted)
    with pytest.raises(Interrupted):
        run(ExperimentOptions(name=str(sweep), out=str(tmp_path / "out")))
    assert capsys.readouterr().out.endswith(
        "stopped by Ctrl-C, in run 1 of 4: fixed: bsp; the same command line repeats it and goes "
        "on\n"
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"compute": "0.1"}, "--compute: .* add --virtual"),
        ({"network": "0.1"}, "--network: .* add --virtual"),
        ({"bandwidth_gbit": 1.0}, "--bandwidth-gbit: .* add --virtual"),
        ({"server_us": 1.0}, "--server-us: .* add --virtual"),
        ({"virtual": True, "dry_run": True}, "--dry-run: .* leave out --virtual"),
        ({"virtual": True, "bandwidth_gbit": 0.0}, "--bandwidth-gbit"),
        ({"virtual": True, "server_us": -1.0}, "--server-us"),
    ],
    ids=str,
)
def test_options_of_virtual_time_are_refused_where_they_mean_nothing(
    options: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        ExperimentOptions(name="demo", **options).check()


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ({"shards": 2}, "fixed: bsp: --shards 2"),
        ({"device": "cuda"}, "fixed: bsp: --device cuda"),
        ({"keys": "keys"}, "fixed: bsp: --keys: nothing travels in virtual time; leave out --keys"),
    ],
    ids=str,
)
def test_a_run_that_virtual_time_cannot_have_is_refused_before_the_first(
    sweep: Path, tmp_path: Path, base: dict[str, Any], told: str
) -> None:
    experiment = yaml.safe_load(SWEEP)
    experiment["base"].update(base)
    sweep.write_text(yaml.safe_dump(experiment))
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=told):
        run(ExperimentOptions(name=str(sweep), virtual=True, out=str(out)))
    assert not out.exists()


def test_all_runs_of_an_experiment_get_one_folder_of_keys_with_enough_for_each(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = yaml.safe_load(SWEEP)
    experiment["runs"]["fixed: ssp 3"]["workers"] = 5
    experiment["runs"]["fixed: ssp 3"]["slow"] = 0
    sweep.write_text(yaml.safe_dump(experiment))
    launched: list[Any] = []
    monkeypatch.setattr(launch, "run", lambda options, **_: launched.append(options) or 9)
    keys = tmp_path / "keys"
    options = ExperimentOptions(name=str(sweep), keys=str(keys), out=str(tmp_path / "out"))
    assert run(options) == 9
    assert [options.keys for options in launched] == [str(keys)]
    assert len(worker_files(str(keys), 5)) == 5


def test_each_run_of_an_experiment_in_virtual_time_gets_the_machines(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[VirtualLaunch] = []

    def resolve(target: str) -> Callable[[VirtualLaunch], int]:
        assert target == "worker.virtual.run:run"
        return lambda launch: launched.append(launch) or 9  # type: ignore[func-returns-value]

    monkeypatch.setattr(command, "resolve", resolve)
    out = tmp_path / "out"
    options = ExperimentOptions(name=str(sweep), virtual=True, compute="0.5", out=str(out))
    assert run(options) == 9
    (first,) = launched
    assert first.options.run_dir == str(out / "fixed-bsp-seed-1")
    assert first.machines.settings() == {
        "compute": "0.5", "network": "0.0001", "bandwidth_gbit": 10.0, "server_us": 200.0,
    }  # fmt: skip


def test_a_run_in_another_kind_of_time_or_on_other_machines_is_left_alone(
    sweep: Path, tmp_path: Path
) -> None:
    planned = plan.load(ExperimentOptions(name=str(sweep))).runs[0]
    settings = {k: v for k, v in asdict(planned.options).items() if k != "run_dir"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "summary.json").write_text('{"ended": "done"}')
    with pytest.raises(UsageError, match="other machines"):
        _is_there(planned, tmp_path, MachinesGroup())
    there = MachinesGroup(compute="0.5")
    (tmp_path / "virtual.yaml").write_text(yaml.safe_dump(there.settings()))
    assert _is_there(planned, tmp_path, there)
    assert _is_there(planned, tmp_path, MachinesGroup())  # there it was measured
    for other in (None, MachinesGroup(compute="0.4"), MachinesGroup(compute="0.5", network="1")):
        with pytest.raises(UsageError, match="other machines"):
            _is_there(planned, tmp_path, other)
