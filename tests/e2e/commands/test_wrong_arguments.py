"""A wrong argument ends in one line that says what to do, and exit status 2."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

from support.processes import LEASH, server_process


def refusal(cwd: Path, *words: str) -> str:
    """The one line on stderr with which this command line is refused."""
    told = subprocess.run(
        [*LEASH, *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 2, told.stdout + told.stderr
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"leash {words[0]}: ")
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("launch --model resnet19 --dataset digits", "did you mean resnet18?"),
        ("server --model nets:build", "give --dataset too"),
        ("launch --dataset digits --bound=-1", "give 0 or more"),
        ("launch --dataset digits --policy drop --bound 3", "give --max-staleness"),
        ("launch --dataset digits --policy asp --staleness 3", "leave --bound out"),
        ("launch --dataset digits --workers 0", "give a number above 0"),
        ("launch --dataset digits --workers 2 --slow 0,0,1", "one for each worker"),
        (
            "launch --dataset digits --workers 2 --hetero-allocation 1-1 --data-plan lease",
            "leave one",
        ),
        ("launch --dataset digits --workers 2 --hetero-allocation 1-1 --local-steps auto", "leave"),
        ("server --batch-plan weighted --data-plan static", "leave --data-plan static out"),
        ("launch --dataset digits --nesterov", "needs a --momentum above 0"),
        ("launch --dataset digits --local-steps 0", "give auto, or a number from 1"),
        ("launch --dataset digits --inner-lr 0.1", "say --lr to leash launch"),
        ("launch --dataset digits --local-steps 4 --outer-lr=-1", "give a number from 0"),
        ("server --local-steps 4 --warmup-updates 9", "has no schedule; leave it out"),
        ("launch", "--dataset digits"),
        ("launch --dataset mnist --workers 1", "give --data-dir"),
        ("launch --dataset mnist --workers 1 --data-dir nowhere", "nowhere is not a folder"),
        ("server --model resnet18 --data-dir .", "no cifar-10-batches-py"),
        ("launch --dataset imagefolder --data-dir .", "no train/CLASS/* in ."),
        ("server --bind 10.0.0.1:29500", "write it as tcp://HOST:PORT"),
        ("server --resume nothing.safetensors --bind tcp://127.0.0.1:0", "there is no such file"),
        ("worker --server tcp://127.0.0.1:1 --wait-s 0.2", "start one with leash server"),
        ("worker --rank 4 --learners 1-2-3", "1-2-3"),
    ],
)
def test_it_is_refused_in_one_line(tmp_path: Path, words: str, says: str) -> None:
    assert says in refusal(tmp_path, *words.split())


@pytest.mark.parametrize("command", ["server --threads 256", "launch --server-threads 256"])
def test_threads_that_cannot_start_are_one_line(tmp_path: Path, command: str) -> None:
    words = [*command.split(), "--dataset=digits", "--workers=1", "--run-dir=run"]
    # 256 threads would need 2 GiB of address space for their stacks.
    limited = 'ulimit -v 2000000; exec "$@"'
    told = subprocess.run(
        ["bash", "-c", limited, "bash", *LEASH, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 2, told.stdout + told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    (line,) = [line for line in told.stderr.splitlines() if "cannot start" in line]
    assert re.search(r"--threads 256: thread \d+ of 256 cannot start: .*; give a smaller", line)


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(tmp_path, "server", f"--bind=tcp://127.0.0.1:{port}")
    assert f"port {port} is taken; choose another with --bind" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rank=3", "--dataset=digits"], "the workers of this run are 1, 2"),
        (["--rank=1", "--dataset=digits", "--device=cuda:7"], "take --device cpu"),
        (
            ["--rank=1", "--dataset=digits", "--inner-lr=0.1"],
            "say --lr to leash launch or leash server",
        ),
        (["--rank=1"], "nothing to train: give --model or --dataset"),
        (["--rank=1", "--model=alexnet_cifar", "--dataset=digits"], "needs samples of"),
        (["--rank=1", "--model=no_such:build", "--dataset=digits"], "no module 'no_such'"),
    ],
)
def test_what_only_a_running_server_can_tell(tmp_path: Path, options: list[str], says: str) -> None:
    with server_process(tmp_path / "run", "--workers=2") as (_, address):
        told = subprocess.run(
            [*LEASH, "worker", f"--server={address}", *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert told.returncode == 2, told.stderr
    (line,) = told.stderr.splitlines()
    assert says in line


def test_fixed_shares_are_refused_where_the_work_follows_the_speed(tmp_path: Path) -> None:
    options = ("--workers=2", "--batch-plan=weighted")
    with server_process(tmp_path / "run", *options) as (_, address):
        line = refusal(
            tmp_path, "worker", f"--server={address}", "--dataset=digits",
            "--hetero-allocation=1-0.5",
        )  # fmt: skip
    assert "--batch-plan weighted, which needs leases; leave one of the two out" in line


def test_unreadable_data_is_named(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images", "t10k-images"):
        (raw / f"{name}-idx3-ubyte").write_bytes(b"\0\0\x08\x03 truncated")
    for name in ("train-labels", "t10k-labels"):
        (raw / f"{name}-idx1-ubyte").write_bytes(b"\0\0\x08\x01")
    line = refusal(tmp_path, "launch", "--dataset=mnist", "--workers=2", f"--data-dir={tmp_path}")
    assert "idx" in line
