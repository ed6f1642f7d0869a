"""`--lr` and its like are of learning from samples; `--outer-lr` and its like are the server's."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from leash.ps import cli
from leash.ps._core import SgdOptions
from leash.ps.errors import UsageError
from leash.ps.options.base import common_options
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.optimizer import core_options, optimizer_on_server, optimizer_settings
from leash.ps.options.outer_optimizer import OF_WORKERS, OUTER_OPTIONS
from leash.ps.options.server import ServerOptions
from leash.ps.report.analysis.reading import read_run
from support.runs import write_run

BEFORE = Path(__file__).parents[3] / "support" / "before" / "local-steps.yaml"
LOCAL = {"local_steps": "8"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"outer_lr": -0.1}, "--outer-lr -0.1: give a number from 0"),
        ({"outer_momentum": float("nan")}, "--outer-momentum nan: give a number from 0"),
        ({"outer_nesterov": True}, "--outer-nesterov: needs an --outer-momentum above 0"),
        ({**LOCAL, "optimizer": "sum"}, "--optimizer sum: .* and sum takes none"),
        ({**LOCAL, "lr_schedule": "power"}, "--lr-schedule: .* whose rate has no schedule"),
        ({**LOCAL, "warmup_updates": 5}, "--warmup-updates: .* whose rate has no schedule"),
        ({"local_steps": "auto", "lr_scaling": "linear"}, "--lr-scaling linear: .*--outer-lr N"),
        ({"outer_lr": 1.0, "warmup_updates": 5}, "--warmup-updates"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], text: str) -> None:
    for options in (ServerOptions(**settings), LaunchOptions(dataset="digits", **settings)):
        with pytest.raises(UsageError, match=text):
            options.check()


LEARNING: list[dict[str, Any]] = [
    {"lr": 0.3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    {"optimizer": "adamw", "lr": 0.3, "betas": "0.8,0.9", "eps": 0.1, "amsgrad": True},
    {"optimizer": "adagrad", "lr": 0.3, "lr_decay": 0.5, "initial_accumulator_value": 0.5},
]


@pytest.mark.parametrize("learning", LEARNING)
def test_the_rates_of_learning_are_told_alike_with_local_steps_and_without(
    learning: dict[str, Any],
) -> None:
    told = [
        optimizer_settings(ServerOptions(**learning, **more))
        for more in ({}, LOCAL, {"local_steps": "auto"}, {"outer_lr": 0.5})
    ]
    apart = (*OUTER_OPTIONS, "lr_scaling")
    plain, *others = [{n: v for n, v in settings.items() if n not in apart} for settings in told]
    assert others == [plain] * 3
    assert [settings["outer_lr"] for settings in told] == [None, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize(
    ("outer", "expected"),
    [
        (LOCAL, SgdOptions(lr=1.0)),
        ({"outer_lr": 0.5}, SgdOptions(lr=0.5)),
        (
            {**LOCAL, "outer_lr": 0.7, "outer_momentum": 0.9, "outer_nesterov": True},
            SgdOptions(lr=0.7, momentum=0.9, nesterov=True),
        ),
    ],
)
def test_over_differences_the_server_runs_sgd_by_the_outer_options_alone(
    outer: dict[str, Any], expected: SgdOptions, learning: dict[str, Any]
) -> None:
    options = ServerOptions(**learning, **outer)
    options.check()
    assert optimizer_on_server(options) == "sgd"
    made = core_options(options)
    names = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")
    assert [getattr(made, n) for n in names] == [getattr(expected, n) for n in names]


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"outer_lr": 0.5}])
def test_delay_compensation_corrects_the_optimizer_that_the_server_runs(
    settings: dict[str, Any],
) -> None:
    options = LaunchOptions(
        dataset="digits", policy="asp", delay_compensation="constant", **settings
    )
    if "outer_lr" in settings:
        options.check()
    else:
        with pytest.raises(UsageError, match="corrects sgd alone"):
            options.check()


def test_a_launch_hands_all_of_them_to_its_server() -> None:
    launch = LaunchOptions(
        dataset="digits", local_steps="4", optimizer="adam", lr=0.1, outer_lr=0.7,
        outer_momentum=0.9,
    )  # fmt: skip
    server = common_options(launch, ServerOptions)
    assert (server.optimizer, server.lr) == ("adam", 0.1)
    assert (server.outer_lr, server.outer_momentum) == (0.7, 0.9)


# Names of before.


@pytest.mark.parametrize("command", ["launch --local-steps=8", "server", "worker"])
@pytest.mark.parametrize("name", OF_WORKERS)
def test_an_option_of_before_is_refused_and_says_its_name_of_today(command: str, name: str) -> None:
    old, new = "--" + name.replace("_", "-"), "--" + OF_WORKERS[name].replace("_", "-")
    for words in ([old, "0.1"], [f"{old}=0.1"]):
        with pytest.raises(UsageError, match=f"{old}: say {new} to leash launch .*--outer-lr"):
            cli.parse([*command.split(), *words])


def launched_by(file: Path) -> LaunchOptions:
    _, options = cli.parse(["launch", "--config", str(file)])
    options.check()
    assert isinstance(options, LaunchOptions)
    return options


def written(folder: Path, **changes: Any) -> Path:
    """The file of before, with changes; None leaves a setting out."""
    settings = {**yaml.safe_load(BEFORE.read_text("utf-8")), **changes}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({n: v for n, v in settings.items() if v != "left out"}))
    return file


def test_a_file_of_before_trains_as_it_did() -> None:
    before = yaml.safe_load(BEFORE.read_text("utf-8"))
    options = launched_by(BEFORE)
    assert (before["lr"], before["momentum"], before["nesterov"]) == (0.7, 0.9, True)
    assert (options.outer_lr, options.outer_momentum, options.outer_nesterov) == (0.7, 0.9, True)
    assert (before["inner_lr"], before["inner_momentum"]) == (0.05, 0.5)
    assert (options.lr, options.momentum, options.nesterov) == (0.05, 0.5, False)
    assert (options.local_steps, options.lr_scaling) == ("8", "none")


def test_workers_of_a_file_of_before_have_their_default_rate_of_before(
    tmp_path: Path,
) -> None:
    changes = {"inner_optimizer": "adamw", "inner_lr": None, "inner_momentum": 0.0}
    options = launched_by(written(tmp_path, **changes))
    told = optimizer_settings(options)
    assert (told["optimizer"], told["lr"], told["weight_decay"]) == ("adamw", 0.001, 0.01)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"optimizer": "adam"}, "optimizer adam: in this file it is of the server's optimizer"),
        ({"weight_decay": 0.1}, "weight_decay 0.1: in this file"),
        ({"lr_schedule": "power"}, "lr_schedule power: in this file"),
        ({"lr_scaling": "linear"}, "--lr-scaling linear: .* give --outer-lr N"),
        ({"outer_lr": 1.0}, "inner_lr: the file says outer_lr, too; give lr instead"),
        (dict.fromkeys(OF_WORKERS, "left out"), "local_steps: .* it lacks that of the workers"),
    ],
)
def test_a_file_of_before_that_cannot_be_said_today_is_refused(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=text):
        launched_by(written(tmp_path, **changes))


def test_a_file_of_before_without_local_steps_has_its_rates(tmp_path: Path) -> None:
    changes = {"local_steps": "1", "inner_lr": None, "inner_momentum": 0.0, "optimizer": "sgd"}
    options = launched_by(written(tmp_path, **changes))
    assert (options.lr, options.momentum, options.outer_lr) == (0.7, 0.9, None)


def test_a_file_that_a_person_writes_means_what_the_command_line_means(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("dataset: digits\nlocal_steps: '8'\nlr: 0.02\nmomentum: 0.5\n")
    options = launched_by(file)
    assert (options.lr, options.momentum, options.outer_lr) == (0.02, 0.5, None)


def test_a_file_of_today_is_read_as_it_was_written(tmp_path: Path) -> None:
    options = LaunchOptions(dataset="digits", **LOCAL, lr=0.02, outer_lr=0.7, outer_momentum=0.9)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(asdict(options)))
    assert launched_by(file) == options


def test_a_report_of_a_run_of_before_says_whose_the_rates_were(tmp_path: Path) -> None:
    before = yaml.safe_load(BEFORE.read_text("utf-8"))
    before["optimizer"] = "adam"  # such a run cannot be started today, but it can be looked at
    options = read_run(write_run(tmp_path / "run", [], before)).options
    assert (options["lr"], options["momentum"], options["optimizer"]) == (0.05, 0.5, "sgd")
    assert (options["outer_lr"], options["outer_momentum"]) == (0.7, 0.9)
    assert options["outer_optimizer"] == "adam"
