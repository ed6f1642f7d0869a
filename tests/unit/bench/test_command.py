import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leash.bench import command
from leash.bench.harness import needs
from leash.bench.harness.rows import Row
from leash.bench.options import BenchOptions
from leash.ps.cli import parse
from leash.ps.errors import LeashError
from leash.ps.options.base import to_argv

ROOT = Path(__file__).resolve().parents[3]
TINY = ("--rounds=1", "--round-s=0.02")
LIMIT_S = 300  # EM takes a minute of processor time, and shares the machine with other tests

pytestmark = pytest.mark.timeout(LIMIT_S + 20)


def bench(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "leash.ps.cli", "bench", *words], capture_output=True, text=True,
        timeout=LIMIT_S, check=False, cwd=ROOT,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    for row in rows:
        assert set(row) == {field.name for field in dataclasses.fields(Row)}
        assert row["median_s"] > 0
        assert row["repeats"] > 0
        assert row["commit"]
        assert row["cpu"]
    return rows


# Short runs of each, as a process that a person would start.


def test_kernels(tmp_path: Path) -> None:
    done = bench("kernels", "--sizes=4e3", *TINY, "--json", str(tmp_path / "k.json"))
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(tmp_path / "k.json")
    assert {"leash", "torch", "numpy", "memcpy", "memory"} <= {row["system"] for row in rows}
    assert all(row["bandwidth_share"] > 0 for row in rows if row["system"] == "leash")
    assert "× torch" in done.stdout


def test_push_pull(tmp_path: Path) -> None:
    done = bench("push_pull", "--sizes=87e3", "--workers=1,2", "--systems=leash,lane_echo,zmq_echo",
                 "--codecs=f32", *TINY, "--json", str(tmp_path / "p.json"),
                 "--picture", str(tmp_path / "p.svg"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(tmp_path / "p.json")
    told = {(r["system"], r["transport"], r["codec"], r["workers"]) for r in rows}
    assert {("leash", way, "f32", w) for way in ("tcp", "shm") for w in (1, 2)} <= told
    assert {(echo, "tcp", "f32", 2) for echo in ("lane_echo", "zmq_echo")} <= told
    assert {"memcpy", "fused_sgd", "tcp_one_way"} <= {row["system"] for row in rows}
    assert (tmp_path / "p.svg").exists()


def test_push_pull_beside_torch(tmp_path: Path) -> None:
    done = bench("push_pull", "--sizes=4e3", "--systems=gloo,rpc", "--workers=1", *TINY,
                 "--json", str(tmp_path / "p.json"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert {"gloo", "rpc"} <= {row["system"] for row in rows_of(tmp_path / "p.json")}


def test_push_pull_beside_an_all_reduce(tmp_path: Path) -> None:
    done = bench("push_pull", "--sizes=4e3", "--systems=ddp,leash", "--workers=2", *TINY,
                 "--transports=tcp", "--codecs=f32", "--policies=bsp,ssp,asp",
                 "--json", str(tmp_path / "p.json"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(tmp_path / "p.json")
    assert [(row["system"], row["policy"]) for row in rows] == [
        ("ddp", ""), ("leash", "bsp"), ("leash", "ssp"), ("leash", "asp"),
    ]  # fmt: skip
    assert "× ddp" in done.stdout


def test_push_pull_over_a_slow_network(tmp_path: Path) -> None:
    done = bench("push_pull", "--sizes=2e6", "--systems=leash,leash_keys,lane_echo,gloo", *TINY,
                 "--codecs=f32", "--shards=1,2", "--workers=1", "--bandwidth-gbit=1",
                 "--json", str(tmp_path / "p.json"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "push_pull: without gloo, memcpy, fused_sgd: the network of " in done.stdout
    rows = rows_of(tmp_path / "p.json")
    assert [(row["system"], row["shards"]) for row in rows] == [
        ("leash", 1), ("leash", 2), ("leash_keys", 1), ("leash_keys", 2), ("lane_echo", 1),
        ("tcp_one_way", 1),
    ]  # fmt: skip
    for row in rows:
        assert (row["transport"], row["bandwidth_gbit"]) == ("tcp", 1.0)
        # 125 MB/s: nobody is faster than the link, however many connections share it.
        assert row["gbytes_per_s"] < 0.127


def test_scaling(tmp_path: Path) -> None:
    done = bench("scaling", "--workers=1,3", *TINY, "--json", str(tmp_path / "s.json"))
    assert (done.returncode, done.stderr) == (0, "")
    served = [row for row in rows_of(tmp_path / "s.json") if row["case"] != "clock"]
    assert {(row["case"], row["workers"]) for row in served} == {
        (policy, workers) for policy in ("bsp", "ssp", "asp") for workers in (1, 3)
    }
    assert all(row["server_core_s"] > 0 for row in served)


def test_training(tmp_path: Path) -> None:
    done = bench("training", "--short", "--workers=1", *TINY, "--json", str(tmp_path / "t.json"))
    assert (done.returncode, done.stderr) == (0, "")
    rows = rows_of(tmp_path / "t.json")
    assert {"bare", "compute", "leash", "leash_overlap"} == {row["system"] for row in rows}


def test_em(tmp_path: Path) -> None:
    done = bench("em", "--short", "--rounds=1", "--workers=2", "--json", str(tmp_path / "e.json"),
                 "--picture", str(tmp_path / "e.svg"))  # fmt: skip
    # What takes long to come is waited for, and that is said.
    told = [line for line in done.stderr.splitlines() if "leash: waiting for " not in line]
    assert (done.returncode, told) == (0, [])
    rows = rows_of(tmp_path / "e.json")
    told = {(row["system"], row["transport"], row["workers"]) for row in rows}
    assert told == {("numpy", "", 1), ("sklearn", "", 1), ("leash", "", 1), ("leash", "tcp", 2),
                    ("leash", "shm", 2)}  # fmt: skip
    assert (tmp_path / "e.svg").exists()


# Wrong words.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("foo", "leash bench: benchmark foo: expected one of all, kernels, .*"),
        ("--sizes x", "leash bench: --sizes x: expected numbers of bytes, such as 87e3,4e6"),
        ("--sizes 1", "leash bench: --sizes 1: give bytes, from 4 to .*"),
        ("--workers 0", "leash bench: --workers 0: give numbers above 0"),
        ("--shards 1,x", "leash bench: --shards 1,x: expected whole numbers, such as 1,2"),
        (
            "--systems foo",
            "leash bench: --systems foo: expected some of leash, leash_keys, gloo, .*",
        ),
        ("--codecs f32,f8", "leash bench: --codecs f32,f8: expected some of f32, bf16, .*"),
        ("--transports udp", "leash bench: --transports udp: expected some of tcp, shm"),
        ("--bandwidth-gbit 0", "leash bench: --bandwidth-gbit 0.0: give a number above 0"),
        (
            "--transports tcp,shm --bandwidth-gbit 1",
            "leash bench: --transports tcp,shm: shared memory .*; give --transports tcp",
        ),
        (
            "push_pull --bandwidth-gbit 1 --systems ddp,gloo",
            "leash bench: --bandwidth-gbit: nothing goes .*; give --systems leash, .*",
        ),
        ("kernels --bandwidth-gbit 1", "leash bench: --bandwidth-gbit: means nothing to .*"),
        ("kernels --instructions", "leash bench: --instructions: means nothing to kernels; .*"),
        ("--rounds 0", "leash bench: --rounds 0: give a number above 0"),
        ("kernels --shards 2", "leash bench: --shards: means nothing to kernels; it takes .*"),
        ("push_pull --picture a.gif", "leash bench: --picture a.gif: .* ends in .png or .svg"),
        ("push_pull extra", r"leash bench: unknown argument extra \(see leash bench --help\)"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(
    words: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from leash.ps import cli, interrupt

    monkeypatch.setattr(interrupt, "raise_on_signals", lambda: None)
    monkeypatch.setattr(interrupt, "ignore_signals", lambda: None)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *words.split()])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert re.fullmatch(line, err.rstrip("\n"))


def test_python_m_bench_takes_the_same_options() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leash.bench.kernels", "--systems=leash"],
        capture_output=True, text=True,
        timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("leash bench: --systems: means nothing to kernels; it takes ")


def test_settings_come_back_from_their_own_command_line() -> None:
    options = BenchOptions(benchmark="push_pull", sizes="87e3", short=True, systems="leash,gloo")
    assert parse(["bench", *to_argv(options)]) == ("bench", options)


@pytest.mark.parametrize(
    ("missing", "options", "extra"),
    [
        ("torch", BenchOptions(benchmark="kernels"), "torch"),
        ("matplotlib", BenchOptions(benchmark="push_pull", picture="a.svg"), "report"),
        ("psutil", BenchOptions(benchmark="scaling"), "bench"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    missing: str, options: BenchOptions, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "is_installed", lambda name: name != missing)
    with pytest.raises(LeashError, match=rf"needs {missing}, .* 'leash\[{extra}\]'"):
        command.run(options)
