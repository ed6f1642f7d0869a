import dataclasses
import errno
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from leash.ps import cli, interrupt
from leash.ps.cli import COMMANDS, options_of, parse
from leash.ps.errors import LeashError, UsageError
from leash.ps.options.base import flag, groups, is_argument, is_path, to_argv
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.options.worker import WorkerOptions

Leash = Callable[..., tuple[int, str, str]]


@pytest.fixture
def leash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Leash:
    """Runs a command line in this process; gives status, stdout and stderr."""
    monkeypatch.setattr(interrupt, "raise_on_signals", lambda: None)
    monkeypatch.setattr(interrupt, "ignore_signals", lambda: None)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert isinstance(end.value.code, int)
        return end.value.code, *capsys.readouterr()

    return run


def python_m(*words: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=60, check=False,
        **settings,
    )  # fmt: skip


# The words that people know.

DEMO_SERVER: Final = """server --ps-ip=127.0.0.1 --ps-port=29500 --data-dir=DIR --this-rank=0
    --learners=1-2-3 --epochs=1 --model=MnistCNN --stale-threshold=0 --save-path=OUT
    --timeout=10000.0 --len-train-data=60000 --test-bsz=500"""
DEMO_WORKER: Final = """worker --ps-ip=127.0.0.1 --ps-port=29500 --data-dir=DIR --this-rank=1
    --learners=1-2-3 --model=MnistCNN --epochs=1 --save-path=OUT --slow=0.2 --heterogeneity 0.5
    --hetero-allocation 1.0-0.5-0.5 --timeout 60 --test-bsz 500 --len-train-data 100"""


def test_the_demos_server_command_line_means_what_it_says() -> None:
    _, options = parse(DEMO_SERVER.split())
    assert options == ServerOptions(
        ps_ip="127.0.0.1", ps_port=29500, data_dir="DIR", learners="1-2-3", epochs=1,
        model="MnistCNN", bound=0, run_dir="OUT", timeout_s=10_000, len_train_data=60_000,
        test_batch_size=500, demo_logs=True,
    )  # fmt: skip
    options.check()


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("server", "--save-path=x"), ("server", "--this-rank=0"), ("server", "--ps-ip=127.0.0.1"),
        ("server", "--test-bsz=9"), ("launch", "--save-path=x"), ("launch", "--test-bsz=9"),
    ],
)  # fmt: skip
def test_a_run_in_the_demos_words_leaves_its_logs_unless_that_is_declined(
    command: str, word: str
) -> None:
    for words, leaves in (([word], True), ([word, "--no-demo-logs"], False), ([], False),
                          (["--run-dir=x"], False), (["--demo-logs"], True)):  # fmt: skip
        _, options = parse([command, *words])
        assert isinstance(options, LaunchOptions | ServerOptions)
        assert options.demo_logs is leaves


def test_the_demos_worker_command_line_means_what_it_says() -> None:
    _, options = parse(DEMO_WORKER.split())
    assert options == WorkerOptions(
        ps_ip="127.0.0.1", ps_port=29500, data_dir="DIR", rank=1, learners="1-2-3",
        model="MnistCNN", epochs=1, save_path="OUT", slow="0.2", heterogeneity="0.5",
        hetero_allocation="1.0-0.5-0.5", timeout_s=60, test_batch_size=500, len_train_data=100,
    )  # fmt: skip
    options.check()


@pytest.mark.parametrize(("package", "command"), [("ps", "server"), ("worker", "worker")])
def test_python_m_package_is_the_leash_command(package: str, command: str) -> None:
    done = python_m(package, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: leash {command} ")


def test_settings_come_back_from_their_own_command_line() -> None:
    options = LaunchOptions(
        policy="bsp", workers=3, dataset="digits", slow="0,0,0.5", nesterov=True, momentum=0.9,
        dropout=False, hetero_allocation="1.0-0.5-0.5", run_dir="a b", seed=7,
    )  # fmt: skip
    assert parse(["launch", *to_argv(options)]) == ("launch", options)


@pytest.mark.parametrize("words", [["--patience", "inf"], ["--patience=inf"]])
def test_infinity_is_a_number_where_a_command_takes_it(words: list[str]) -> None:
    command, options = parse(["worker", *words])
    assert isinstance(options, WorkerOptions)
    assert options.patience == math.inf
    options.check()
    assert parse([command, *to_argv(options)])[1] == options
    _, launch = parse(["launch", *words, "--dataset", "digits"])
    assert parse(["launch", *to_argv(launch)])[1] == launch


def test_settings_come_back_from_a_file(tmp_path: Path) -> None:
    options = LaunchOptions(dataset="digits", slow="0.5", bound=2, lr=0.5, dropout=False)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"dataset": "digits", "slow": "0.5", "bound": 2, "lr": 0.5,
                                    "dropout": False, "seed": None}))  # fmt: skip
    assert parse(["launch", "--config", str(file)]) == ("launch", options)


def test_the_command_line_wins_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("dataset: digits\nworkers: 8\n")
    _, options = parse(["launch", "--config", str(file), "--workers", "2"])
    assert options == LaunchOptions(dataset="digits", workers=2)


# Paths.


def words_with_a_path(place: str) -> list[tuple[list[str], str]]:
    """A command line for each option of each command that takes a path; and the option's name."""
    lines = []
    for name, command in COMMANDS.items():
        before: list[str] = []  # the words that stand before an argument without a flag
        for f in dataclasses.fields(options_of(command)):
            metavar = f.metadata["metavar"] or ""
            if is_argument(f) and is_path(f):
                lines.append(([name, *before, place], f.name))
            elif is_argument(f):
                before.append(str(f.default))
            elif is_path(f) or "DIR" in metavar or "FILE" in metavar:
                flags = [flag(f.name), *f.metadata["aliases"]]
                lines += [([name, f"{word}={place}"], f.name) for word in flags]
    return lines


def test_every_path_may_begin_with_the_home_whatever_its_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No shell puts the home for ~ behind an equals sign."""
    monkeypatch.setenv("HOME", "/home/of/somebody")
    lines = words_with_a_path("~/a b/c.svg")
    assert len(lines) > 20
    for words, option in lines:
        _, options = parse(words)
        found = getattr(options, option)
        assert found in ("/home/of/somebody/a b/c.svg", ("/home/of/somebody/a b/c.svg",)), words


def test_paths_in_a_file_and_the_path_of_the_file_may_begin_with_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.yaml").write_text("run_dir: ~/run\ndata_dir: a/~/b\n")
    _, options = parse(["launch", "--config=~/config.yaml"])
    assert options == LaunchOptions(run_dir=f"{tmp_path}/run", data_dir="a/~/b")


# Wrong words.


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "leash: give a command: launch, server, worker, .*"),
        ("lunch", r"leash: unknown command lunch; did you mean launch\? \(see leash --help\)"),
        ("--hepl", r"leash: unknown option --hepl; did you mean --help\? \(see leash --help\)"),
        ("launch --gpus 2", r"leash launch: unknown option --gpus \(see leash launch --help\)"),
        ("launch --polcy ssp", r"leash launch: unknown option --polcy; did you mean --policy\? "
                               r"\(see leash launch --help\)"),
        ("server extra", r"leash server: unknown argument extra \(see leash server --help\)"),
        ("launch extra", "leash launch: extra: there is no such script; give the path of one, .*"),
        ("server --policy foo", "leash server: --policy foo: expected one of bsp, .*, drop"),
        ("server --lr-scaling foo", "leash server: --lr-scaling foo: expected one of linear, none"),
        ("server --epochs x", "leash server: --epochs x: expected a whole number"),
        (f"server --seed {1 << 63}", f"leash server: --seed {1 << 63}: give at most .*"),
        (f"launch --dataset digits --workers {1 << 70}", "leash launch: --workers .*: give at .*"),
        (f"server --model m:{'x' * 600}", "leash server: --model m:x*…: give at most 512 letters"),
        ("server --test-bsz x", "leash server: --test-bsz x: expected a whole number"),
        ("server --lr x", "leash server: --lr x: expected a number"),
        ("server --lr", r"leash server: --lr: expected one argument \(see leash server --help\)"),
        ("server --nesterov=1", r"leash server: --nesterov: takes no value .*"),
        ("server --config none.yaml", "leash server: --config: File .*none.yaml'"),
        ("server --stale-threshold=-1", "leash server: --bound -1: .* give 0 or more"),
        ("server --policy bsp --bound 3", "leash server: --policy bsp --bound 3: .*"),
        ("server --policy asp --staleness 3", "leash server: --policy asp --bound 3: .*"),
        ("server --policy ssp --staleness 0", "leash server: --policy ssp needs --bound 1 .*"),
        ("server --bind here", "leash server: address 'here': write it as tcp://HOST:PORT, .*"),
        ("server --ps-port 70000", "leash server: --ps-port 70000: .* from 0 to 65535"),
        ("server --learners 1-x", "leash server: --learners 1-x: write ranks .* such as 1-2-3"),
        ("server --this-rank 1", "leash server: --this-rank 1: the server's rank is 0; .*"),
        ("server --chunk-kib 100", "leash server: --chunk-kib 100: give a multiple of 64"),
        ("server --lr -1", "leash server: --lr -1.0: give a number from 0"),
        ("server --nesterov", "leash server: --nesterov: needs a --momentum above 0, .*"),
        ("server --timeout 0", "leash server: --timeout-s 0.0: give a number above 0"),
        ("worker --server tcp://host", "leash worker: address 'tcp://host': write it as .*"),
        ("worker --this-rank 4 --learners 1-2-3", "leash worker: --rank 4: not among .*"),
        ("worker --rank 0", "leash worker: --rank 0: ranks start from 1: .*"),
        ("em --rank 0", "leash em: --rank 0: ranks start from 1: .*"),
        ("worker --slow 0,1", "leash worker: --slow 0,1: .*"),
        ("worker --heterogeneity 2", "leash worker: --heterogeneity 2: .* at most 1"),
        ("worker --model MnistCCN", "leash worker: .*'MnistCCN'.*did you mean mnist_cnn.*"),
        ("launch", "leash launch: say what to train: for example --dataset digits.*"),
        ("launch --dataset digits --workers 0", "leash launch: --workers 0: give a number above 0"),
        ("launch --dataset digits --workers 3 --slow 0,1", "leash launch: --slow 0,1: .* 3 .*"),
        ("launch --dataset digits --slow x", "leash launch: --slow x: expected numbers, .*"),
        ("launch --dataset digits --hetero-allocation 1-1-1", "leash launch: --hetero-.*"),
        ("server --policy drop", "leash server: --policy drop needs --max-staleness R, .*"),
        ("server --workers 2 --policy backup --backup-workers 2", "leash server: .* give fewer"),
        ("set", "leash set: say what to change: .*"),
        ("set --policy dssp --staleness-max 1", "leash set: --bound-max 1: give at least .*"),
        ("set --policy bsp --server nowhere", "leash set: address 'nowhere': write it as .*"),
        ("launch --dataset digits --batch-size 0", "leash launch: --batch-size 0: .* above 0"),
        ("doctor --server nowhere", "leash doctor: address 'nowhere': write it as .*"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_answered_with_one_line_and_status_2(
    leash: Leash, words: str, line: str
) -> None:
    status, out, err = leash(*words.split())
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert re.fullmatch(line, err.rstrip("\n"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lr: x\n", "leash launch: --lr x: expected a number"),
        ("slow: 0.2\n", "leash launch: --slow 0.2: expected a text; in a YAML file put it .*"),
        ("polcy: ssp\n", r"leash launch: unknown setting polcy; did you mean policy\? .*"),
        ("- 1\n", "leash launch: --config: not a file of settings: .*"),
        ("{ [", "leash launch: --config: not a file of settings: .*"),
    ],
)
def test_a_wrong_file_is_answered_with_one_line_and_status_2(
    leash: Leash, tmp_path: Path, text: str, line: str
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    status, out, err = leash("launch", "--config", str(file))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert re.fullmatch(line, err.rstrip("\n"))


def test_a_wrong_argument_of_a_real_process_leaves_one_line_and_no_traceback() -> None:
    done = python_m("ps", "--policy", "foo")
    assert done.returncode == 2
    assert done.stderr == (
        "leash server: --policy foo: expected one of bsp, ssp, asp, dssp, backup, drop\n"
    )


# How a command ends.


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UsageError("--x: wrong"), 2, "leash doctor: --x: wrong\n"),
        (LeashError("in two\n  lines"), 1, "leash doctor: in two lines\n"),
    ],
)
def test_an_error_of_a_command_is_one_line(
    leash: Leash, monkeypatch: pytest.MonkeyPatch, error: LeashError, status: int, line: str
) -> None:
    def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(cli, "resolve", lambda _: fail)
    assert leash("doctor") == (status, "", line)


class OutOfMemoryError(RuntimeError):
    """torch has one of this name, for GPUs."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory; take "),
        (MemoryError("Unable to allocate 7 GiB"), "out of memory: Unable to allocate 7 GiB; take "),
        (OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
         "out of memory: CUDA out of memory. Tried to allocate 2 GiB; take "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
         "out of memory: DefaultCPUAllocator: can't allocate memory: you tried"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: [Errno 12] Cannot all"),
    ],
)  # fmt: skip
def test_a_command_without_memory_says_so_in_one_line(
    leash: Leash, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(cli, "resolve", lambda _: fail)
    status, out, err = leash("doctor")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"leash doctor: {told}")
    assert "--batch-size" in err


def test_the_exit_status_is_what_the_command_returns(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "resolve", lambda _: lambda _: 7)
    assert leash("doctor") == (7, "", "")


def test_an_unexpected_error_keeps_its_traceback(
    leash: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "resolve", lambda _: lambda _: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


_INTERRUPTED = """
import signal, sys, threading
from leash.ps import cli, interrupt
class Unlucky:  # what is raised in a __del__ is swallowed
    def __del__(self): signal.raise_signal(signal.Signals[sys.argv[1]])
def wait(_):
    try:
        Unlucky() if sys.argv[2] == "lost" else signal.raise_signal(signal.Signals[sys.argv[1]])
        threading.Event().wait(10)
        print("went on")
    except interrupt.Interrupted:
        if sys.argv[2] == "twice": signal.raise_signal(signal.SIGINT)
        if sys.argv[2] == "disguised": raise ImportError("half imported")
        raise
    return 0
cli.resolve = lambda _: wait
# Under nohup a process inherits that SIGHUP is ignored, and Leash leaves it so.
signal.signal(signal.Signals[sys.argv[1]], signal.SIG_DFL)
cli.main(["doctor"])
"""


@pytest.mark.parametrize("how", ["once", "twice", "lost", "disguised"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_quietly(name: str, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, name, how], capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[name], "", "")


def test_a_signal_waits_for_the_end_of_what_must_not_be_left_half_done() -> None:
    script = """
import signal
from leash.ps import interrupt
interrupt.raise_on_signals()
try:
    with interrupt.held():
        signal.raise_signal(signal.SIGTERM)
        print("done")
except interrupt.Interrupted as error:
    print(error)
with interrupt.held():
    print("cleaned up")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=60, check=True)  # fmt: skip
    assert done.stdout == "done\nSIGTERM\ncleaned up\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as nobody_reads:
        done = subprocess.run(
            [sys.executable, "-c", "from leash.ps import cli\n"
             "cli.run = lambda _: print('x' * 100_000)\ncli.main(['doctor'])"],
            stdout=nobody_reads, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_once(leash: Leash, command: str) -> None:
    status, out, _ = leash(command, "--help")
    assert status == 0
    invocations = [line.partition("   ")[0] for line in re.findall(r"^  (-.*)$", out, re.MULTILINE)]
    options = re.findall(r"--[\w-]+", " ".join(invocations))
    assert len(options) == len(set(options))
    for _, fields in groups(options_of(COMMANDS[command])):
        for field in fields:
            if not is_argument(field):
                assert {flag(field.name), *field.metadata["aliases"]} <= set(options)


def test_every_setting_of_a_command_is_in_one_of_its_groups() -> None:
    import dataclasses

    for command in COMMANDS.values():
        options = options_of(command)
        grouped = [field.name for _, fields in groups(options) for field in fields]
        assert sorted(grouped) == sorted(f.name for f in dataclasses.fields(options))


def test_help_lists_the_commands_and_shows_examples(leash: Leash) -> None:
    status, out, _ = leash("--help")
    assert status == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"^ +{name} +{re.escape(command.about)}$", out, re.MULTILINE)
    assert out.count("\n  leash launch ") == 1


def test_version_commit_and_instruction_set_are_printed(leash: Leash) -> None:
    from leash._version import version_and_commit
    from leash.ps import _core

    told = f"leash {version_and_commit()}, {_core.instruction_set()} kernels\n"
    assert leash("--version") == (0, told, "")


def test_a_core_that_does_not_import_is_told_in_one_line(tmp_path: Path) -> None:
    isa = {**os.environ, "LEASH_ISA": "mmx"}
    done = python_m("leash.ps.cli", "--version", env=isa)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("leash: LEASH_ISA: instruction set 'mmx': this CPU runs generic")
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['leash.ps._core'] = None")
    done = python_m("leash.ps.cli", "doctor", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("leash doctor: the compiled core does not import: ")
    assert done.stderr.endswith("install Leash's wheel anew, or in a checkout: make install\n")


@pytest.mark.parametrize("option", ["--print-completion=bash", "--print_shtab=bash"])
def test_completion_is_a_script_that_bash_reads(leash: Leash, option: str) -> None:
    status, script, _ = leash(option)
    assert status == 0
    assert "--stale-threshold" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)


def test_the_command_line_imports_neither_torch_nor_zeromq() -> None:
    script = """
import sys
from leash.ps import cli
cli.parse(["launch", "--dataset", "digits"])[1].check()
print([name for name in ("torch", "worker", "zmq", "numpy", "rich") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=60, check=True)  # fmt: skip
    assert done.stdout == "[]\n"
