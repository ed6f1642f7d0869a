"""What a server says when it begins: how another machine joins it, and where it goes on."""

import shlex
from typing import Any

import pytest

from leash.ps.cli import parse
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.policy import choose_rule
from leash.ps.runs.checkpoint import Earlier
from leash.ps.runs.position import LeasePosition, Position, SharePosition
from leash.ps.server.announcement import how_it_goes_on, how_to_join
from leash.ps.wire import hosts

WITH = "start a worker elsewhere with: leash "


@pytest.fixture
def two_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        hosts, "own_hosts", lambda *, ipv6: ["10.0.0.5", "172.17.0.1", *["[fd00::5]"] * ipv6]
    )


def lines(host: str, *ranks: int, **options: Any) -> list[str]:
    task = {"model": "linear", "dataset": "digits", **options}
    return how_to_join(ServerOptions(**task), ranks or (1,), host, 29500)


def worker_of(line: str) -> WorkerOptions:
    """The options of the worker that this line starts."""
    command, options = parse(shlex.split(line.partition(": leash ")[2].partition(" (")[0]))
    assert command == "worker"
    assert isinstance(options, WorkerOptions)
    options.check()
    return options


@pytest.mark.usefixtures("two_networks")
@pytest.mark.parametrize("host", ["*", "0.0.0.0"])
def test_a_server_at_every_address_tells_one_that_another_machine_reaches(host: str) -> None:
    first, others = lines(host)
    assert first.startswith(f"{WITH}worker --server tcp://10.0.0.5:29500 --rank 1")
    assert others == "where that address cannot be reached, take tcp://172.17.0.1:29500"


@pytest.mark.usefixtures("two_networks")
def test_one_at_every_address_of_ipv6_tells_those_too() -> None:
    assert lines("[::]")[1].endswith("take tcp://172.17.0.1:29500 or tcp://[fd00::5]:29500")


@pytest.mark.parametrize("host", ["10.0.0.5", "head.example", "[fd00::5]"])
def test_a_server_at_one_address_tells_that_one(host: str) -> None:
    (line,) = lines(host)
    assert worker_of(line).server == f"tcp://{host}:29500"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_a_server_that_no_other_machine_reaches_says_so(host: str) -> None:
    here, elsewhere = lines(host)
    assert worker_of(here).server == f"tcp://{host}:29500"
    assert elsewhere == (
        "workers on other machines need a server at --bind tcp://0.0.0.0:29500, with --keys DIR or "
        "--insecure"
    )


def test_a_machine_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "own_hosts", lambda *, ipv6: [])
    assert lines("*") == ["this machine has no address that another one could reach"]


@pytest.mark.parametrize(
    ("ranks", "rank", "others"),
    [((1,), 1, ""), ((1, 2), 1, " (and the other ranks, up to 2)"),
     ((3, 4, 5), 3, " (and the other ranks, up to 5)"),
     ((2, 4, 7), 2, " (and the other ranks, 4-7)")],
)  # fmt: skip
def test_the_line_names_the_ranks(ranks: tuple[int, ...], rank: int, others: str) -> None:
    (line,) = lines("10.0.0.5", *ranks)
    assert worker_of(line).rank == rank
    assert line.partition(" (")[2] == others.removeprefix(" (")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": None, "dataset": None}, ["--dataset", "NAME"]),
        ({"model": "mnist_cnn", "dataset": "mnist", "data_dir": "/data"}, ["--data-dir", "DIR"]),
        ({"model": "linear", "dataset": "digits"}, []),
        ({"model": "nets:build", "dataset": "digits"},
         ["--model", "nets:build", "--dataset", "digits"]),
        ({"model": "nets:build", "dataset": "nets:data"},
         ["--model", "nets:build", "--dataset", "nets:data"]),
    ],
)  # fmt: skip
def test_the_line_has_what_a_worker_is_not_told_by_its_server(
    options: dict[str, Any], words: list[str]
) -> None:
    (line,) = lines("10.0.0.5", **options)
    assert shlex.split(line)[-len(words) or None :][: len(words)] == words
    assert shlex.split(line).count("--dataset") == words.count("--dataset")


# Where it goes on.

BSP, ASP = choose_rule("bsp", None), choose_rule("asp", None)
RANKS = [1]
SHARES = Position(5, 2, {1: SharePosition(2, 20, 50)})
LEASES = Position(5, 2, {}, LeasePosition(100, 2, {3: [(0, 5)]}))


def earlier(position: Position | None, *, is_between_steps: bool = True) -> Earlier:
    return Earlier("run/final.safetensors", 70, 35, is_between_steps, position)


@pytest.mark.parametrize("rule", [BSP, ASP])
@pytest.mark.parametrize("position", [SHARES, LEASES])
def test_a_run_says_in_which_epoch_it_goes_on_and_after_which_step(
    position: Position, rule: Any
) -> None:
    at = "goes on from run/final.safetensors, version 70, in epoch 3"
    assert how_it_goes_on(earlier(position), rule, RANKS, 9) == [f"{at} of 9, after step 35"]
    assert how_it_goes_on(earlier(position), rule, RANKS, None) == [f"{at}, after step 35"]


def test_where_loops_of_peoples_own_are_only_they_know() -> None:
    assert how_it_goes_on(earlier(Position(5, 2)), BSP, [1, 2], 9) == [
        "goes on from run/final.safetensors, version 70, after step 35"
    ]


def test_a_file_of_format_1_says_that_training_begins_with_the_first_epoch() -> None:
    (line,) = how_it_goes_on(earlier(None), BSP, [1, 2], 9)
    assert line.endswith("a file of format 1 tells no position, so training begins with epoch 1")


REASONS = {
    "begun anew: what int8 has left over of gradients":
        {"anew": ["what int8 has left over of gradients"]},
    "begun anew: the workers' own optimizers": {"anew": ["the workers' own optimizers"]},
    "it was written in the midst of a step": {"is_between_steps": False},
    "it had other workers": {"ranks": [1, 2, 3]},
    "begun anew: what int8 has left over of gradients; begun anew: the workers' own optimizers; "
    "it was written in the midst of a step": {
        "anew": ["what int8 has left over of gradients", "the workers' own optimizers"],
        "is_between_steps": False,
    },
}  # fmt: skip


@pytest.mark.parametrize(("reason", "why"), REASONS.items())
def test_under_bsp_a_run_that_is_not_bitwise_the_same_says_why(
    reason: str, why: dict[str, Any]
) -> None:
    position = Position(5, 2, SHARES.shares, None, why.get("anew", []))
    told = earlier(position, is_between_steps=why.get("is_between_steps", True))
    lines_of_bsp = how_it_goes_on(told, BSP, why.get("ranks", RANKS), 9)
    assert lines_of_bsp[1:] == [f"not bitwise as if it had never ended: {reason}"]
    assert how_it_goes_on(told, ASP, RANKS, 9) == lines_of_bsp[:1]  # there nobody expects it
