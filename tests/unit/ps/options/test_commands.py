import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from leash.ps.cli import parse
from leash.ps.errors import UsageError
from leash.ps.options import launch, rule
from leash.ps.options.addresses import address_of, parse_learners, split_address
from leash.ps.options.base import (
    Options,
    check_not_negative,
    check_positive,
    common_options,
    to_argv,
)
from leash.ps.options.commands import DoctorOptions, EvaluateOptions, SetOptions, StatusOptions
from leash.ps.options.em import EmOptions
from leash.ps.options.launch import LaunchOptions, data_plan_of
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions
from leash.ps.runs.rundir import RunDir
from leash.ps.simulate.options import SimulateOptions


def test_defaults_need_no_command_line() -> None:
    assert to_argv(ServerOptions()) == []


def test_a_command_line_holds_what_differs_from_the_defaults() -> None:
    options = WorkerOptions(rank=2, dropout=False, download=True)
    assert set(to_argv(options)) == {"--rank=2", "--no-dropout", "--download"}


def test_common_settings_take_what_both_have_and_then_the_changes() -> None:
    launch = LaunchOptions(dataset="digits", batch_size=7, workers=5, lr=0.5)
    worker = common_options(launch, WorkerOptions, rank=3, batch_size=8)
    assert worker == WorkerOptions(dataset="digits", batch_size=8, rank=3)
    assert common_options(launch, ServerOptions).workers == 5


@pytest.mark.parametrize(("given", "chosen"), [(None, 1), (0, 0), (7, 7)])
def test_a_run_that_is_given_no_seed_has_1_and_one_that_is_given_0_keeps_it(
    given: int | None, chosen: int
) -> None:
    assert ServerOptions(seed=given).chosen_seed == chosen


def test_whatever_is_drawn_begins_with_the_same_seed() -> None:
    assert EmOptions().seed == SimulateOptions().seed == ServerOptions().chosen_seed


def test_a_chunk_of_a_kib_has_1024_bytes() -> None:
    assert ServerOptions(chunk_kib=64).chunk_nbytes == 65_536


@pytest.mark.parametrize("chunk_kib", [0, 32, 100])
def test_a_chunk_is_a_multiple_of_64_kib(chunk_kib: int) -> None:
    with pytest.raises(UsageError, match=f"--chunk-kib {chunk_kib}: give a multiple of 64"):
        ServerOptions(chunk_kib=chunk_kib).check()


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_server_has_as_many_threads_as_the_cores_pool_takes(threads: int) -> None:
    for options, name in (
        (ServerOptions(threads=threads), "threads"),
        (LaunchOptions(dataset="digits", server_threads=threads), "server-threads"),
    ):
        with pytest.raises(UsageError, match=f"--{name} {threads}: give a number from 1 to 256"):
            options.check()


def test_a_server_is_started_again_as_often_as_a_number_says() -> None:
    LaunchOptions(dataset="digits", server_restarts=0).check()
    with pytest.raises(UsageError, match=r"^--server-restarts -1: give a number from 0$"):
        LaunchOptions(dataset="digits", server_restarts=-1).check()


@pytest.mark.parametrize("options", [ServerOptions, WorkerOptions, EvaluateOptions])
def test_the_defaults_are_sound(options: type[Options]) -> None:
    options().check()


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("tcp://127.0.0.1:29500", ("127.0.0.1", 29500)),
        ("tcp://host.example:0", ("host.example", 0)),
        ("tcp://*:*", ("*", 0)),
        ("tcp://[::1]:29500", ("[::1]", 29500)),
        ("tcp://[fe80::1%eth0]:1", ("[fe80::1%eth0]", 1)),
        ("tcp://[::]:*", ("[::]", 0)),
        ("tcp://my_server-2.local:1", ("my_server-2.local", 1)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", "host:1", "tcp://host", "tcp://:1", "tcp://h:x", "tcp://h:65536",
                "ipc:///tmp/x", "tcp://h:-1", "tcp://[h]:1", "tcp://[::1]", "tcp://[::1:1",
                "tcp://[1.2.3.4]:1", "tcp://a b:1", "tcp://a/b:1", "http://h:1"]
)  # fmt: skip
def test_anything_else_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="write it as tcp://HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize("address", ["tcp://::1:29500", "tcp://::1", "tcp://fd00::5:1"])
def test_an_address_of_ipv6_without_brackets_is_refused_with_those(address: str) -> None:
    with pytest.raises(UsageError, match=r"between brackets, such as tcp://\[::1\]:29500"):
        split_address(address)


TO_A_SERVER: Final[dict[str, Callable[[str], Options]]] = {
    "worker": lambda address: WorkerOptions(server=address),
    "evaluate": lambda address: EvaluateOptions(server=address),
    "status": lambda address: StatusOptions(server=address),
    "set": lambda address: SetOptions(server=address, policy="asp"),
    "doctor": lambda address: DoctorOptions(server=address),
    "em": lambda address: EmOptions(server=address, path="."),
}


@pytest.mark.parametrize("command", TO_A_SERVER)
@pytest.mark.parametrize("address", ["tcp://h:0", "tcp://h:*", "tcp://*:29500", "tcp://[::1]:0"])
def test_where_a_server_may_listen_is_not_where_it_is_reached(command: str, address: str) -> None:
    with pytest.raises(UsageError, match="a server may listen there, but to reach it takes"):
        TO_A_SERVER[command](address).check()


@pytest.mark.parametrize("command", TO_A_SERVER)
@pytest.mark.parametrize("address", ["tcp://h:1", "tcp://[::1]:65535", "tcp://0.0.0.0:29500"])
def test_any_port_of_any_host_may_be_a_servers(command: str, address: str) -> None:
    TO_A_SERVER[command](address).check()


@pytest.mark.parametrize(
    ("port", "shards", "most"), [(65535, 1, 65534), (65534, 2, 65533), (65473, 64, 65471)]
)
@pytest.mark.parametrize("by", ["bind", "ps_port"])
def test_a_server_whose_data_ports_would_be_too_high_is_told_the_highest(
    port: int, shards: int, most: int, by: str
) -> None:
    def options(port: int) -> ServerOptions:
        given = {"bind": f"tcp://127.0.0.1:{port}"} if by == "bind" else {"ps_port": port}
        return ServerOptions(shards=shards, **given)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=rf":{port}'.*would be {port + shards}; .*:{most}, or 0"):
        options(port).check()
    options(most).check()
    options(0).check()


def test_ip_and_port_replace_those_of_the_address() -> None:
    assert address_of("tcp://a:1", None, None) == "tcp://a:1"
    assert address_of("tcp://a:1", "b", None) == "tcp://b:1"
    assert address_of("tcp://a:1", None, 0) == "tcp://a:0"
    assert address_of("tcp://a:1", "b", 2) == "tcp://b:2"
    assert address_of("tcp://a:1", "::1", 2) == address_of("tcp://a:1", "[::1]", 2)
    assert address_of("tcp://a:1", "::1", 2) == "tcp://[::1]:2"
    assert address_of("tcp://[::1]:1", None, 2) == "tcp://[::1]:2"


def test_learners_are_ranks_with_dashes_or_the_first_n() -> None:
    assert parse_learners("1-2-7", 99) == (1, 2, 7)
    assert parse_learners(None, 3) == (1, 2, 3)


@pytest.mark.parametrize("text", ["", "0-1", "1-", "1,2", "a", "1-1"])
def test_other_learners_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--learners"):
        parse_learners(text, 1)


@dataclass(frozen=True)
class Numbers:
    some_value: float | None


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_not_positive(value: float) -> None:
    with pytest.raises(UsageError, match=r"--some-value .*: give a number above 0"):
        check_positive(Numbers(value), "some_value")


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_negative(value: float) -> None:
    with pytest.raises(UsageError, match=r"--some-value .*: give a number from 0"):
        check_not_negative(Numbers(value), "some_value")


def test_settings_that_are_not_given_are_not_checked() -> None:
    check_positive(Numbers(None), "some_value")
    check_not_negative(Numbers(None), "some_value")
    check_not_negative(Numbers(0), "some_value")


def test_what_options_say_of_the_rule_and_of_slowness_is_worked_out_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: Counter[str] = Counter()
    for module, name in (
        (rule, "choose_rule"), (launch, "parse_slow"), (launch, "parse_heterogeneity"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, counted(getattr(module, name), calls))
    options = LaunchOptions(dataset="digits", workers=2, slow="0/exp:0.1", policy="asp")
    options.check()
    assert data_plan_of(options) == "lease"
    assert [slowness.text for slowness in options.slownesses] == ["0", "exp:0.1"]
    assert (options.rule.policy.name, options.ratios) == ("asp", [1.0, 1.0])
    assert calls == {"choose_rule": 1, "parse_slow": 1, "parse_heterogeneity": 1}


def counted(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        calls[function.__name__] += 1
        return function(*args)

    return call


def test_options_with_a_change_work_their_own_rule_out() -> None:
    asp = ServerOptions(policy="asp")
    assert asp.rule.policy.name == "asp"
    assert replace(asp, policy="bsp").rule.policy.name == "bsp"


# A script of one's own.


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train.py").touch()
    return str(tmp_path / "train.py")


@pytest.mark.parametrize(
    "words",
    [
        ["--workers", "4", "train.py", "--workers=7", "--help", "-x", "--", "--config", "a b"],
        ["--workers=4", "--report", "train.py", "--workers=7"],
        ["--workers=4", "--", "train.py", "--workers=7"],
    ],
    ids=" ".join,
)
def test_what_stands_behind_the_scripts_name_is_the_scripts(words: list[str]) -> None:
    _, options = parse(["launch", *words])
    assert isinstance(options, LaunchOptions)
    assert options.workers == 4
    assert options.script is not None
    assert shlex.split(options.script) == words[words.index("train.py") :]
    assert parse(["launch", *to_argv(options)]) == ("launch", options)


def test_the_settings_of_a_launch_with_a_script_repeat_it(tmp_path: Path) -> None:
    _, options = parse(["launch", "--lr=0.5", "train.py", "--lr", "0.1", "a b"])
    run_dir = RunDir(tmp_path)
    run_dir.write_config(options)
    _, again = parse(["launch", f"--config={tmp_path / 'config.yaml'}"])
    assert again == options


def test_a_script_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no/train\.py: there is no such script; give the path"):
        LaunchOptions(script="no/train.py --lr 1").check()
    (tmp_path / "train.py").touch()
    with pytest.raises(UsageError, match=rf"did you mean {tmp_path}/train\.py\? give the path"):
        LaunchOptions(script=f"{tmp_path}/trian.py --lr 1").check()
    for empty in ("", "''"):
        with pytest.raises(UsageError, match="there is no such script"):
            LaunchOptions(script=empty).check()
    with pytest.raises(UsageError, match="No closing quotation"):
        LaunchOptions(script="train.py 'a").check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "digits"), ("model", "mnist_cnn"), ("data_dir", "DIR"), ("batch_size", 7),
        ("overlap", False), ("device", "cuda"), ("transport", "tcp"), ("codec", "bf16"),
        ("slow", "0.1"), ("heterogeneity", "0.5"), ("hetero_allocation", "1-2"),
        ("time_scale", 0.1),
    ],
)  # fmt: skip
def test_an_option_of_the_loop_that_a_script_replaces_is_refused(
    script: str, name: str, value: Any
) -> None:
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')}: a script of your own"):
        LaunchOptions(script=script, **{name: value}).check()


def test_an_option_of_the_run_goes_with_a_script(script: str) -> None:
    LaunchOptions(
        script=script, seed=5, threads=2, lr=0.1, policy="bsp", shards=2, timeout_s=9,
        data_plan="lease", local_steps="4",
    ).check()  # fmt: skip
