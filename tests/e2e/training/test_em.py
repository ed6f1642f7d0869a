"""`leash em` as a person would start it: alone, with workers that may die, and stepwise."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leash.worker.em.classifier import mixture_for
from leash.worker.em.distributed import chunk_kib_for, server_words
from leash.worker.em.images import DIGITS
from support.data import DATA, needs_mnist
from support.mnist import write_digits
from support.processes import LEASH, Child, server_process

SETTINGS = ("--pca=8", "--reg-covar=0.1", "--seed=3")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


def em(*words: str, timeout_s: float = 150.0, **environment: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [*LEASH, "em", *words], capture_output=True, text=True, timeout=timeout_s, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def results(out: Path) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads((out / "em.json").read_text("utf-8"))["results"]
    return told


def require_same(found: Path, expected: Path, ks: tuple[int, ...]) -> None:
    """The same results and mixtures, to 1e-9."""
    for mine, theirs in zip(results(found), results(expected), strict=True):
        for name in ("k", "accuracy", "iterations", "converged"):
            assert mine[name] == theirs[name]
        assert mine["log_likelihood"] == pytest.approx(theirs["log_likelihood"], rel=1e-9)
    for k in ks:
        with np.load(found / f"mixtures-k{k}.npz") as mine, np.load(
            expected / f"mixtures-k{k}.npz"
        ) as theirs:  # fmt: skip
            for name in ("weights", "means", "covariances"):
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def alone(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What one process leaves and prints."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return out, em(f"--path={digits}", "--k", "1", "2", "4", f"--out={out}", *SETTINGS)


def test_alone_it_prints_every_accuracy_and_leaves_results_mixtures_and_pictures(
    alone: tuple[Path, str],
) -> None:
    out, printed = alone
    told = results(out)
    assert [result["k"] for result in told] == [1, 2, 4]
    for result in told:
        assert f"k = {result['k']:<3} accuracy {result['accuracy']:.4f}" in printed
        assert 0.9 < result["accuracy"] <= 1
        assert result["iterations_per_s"] > 0
    assert told[2]["log_likelihood"] > told[1]["log_likelihood"] > told[0]["log_likelihood"]
    for picture in ("accuracy.png", "means-k4.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert "k: 1,2,4" in (out / "config.yaml").read_text("utf-8")


def test_two_workers_and_a_server_give_the_same(
    digits: Path, alone: tuple[Path, str], tmp_path: Path
) -> None:
    """They find the files where the environment says, as the demo's program does.

    The keys that are handed to them count, and not the one that the environment names.
    """
    out, keys = tmp_path / "run", tmp_path / "keys"
    printed = em(
        "--k=1,2,4", "--workers=2", f"--out={out}", "--no-pictures", *SETTINGS, f"--keys={keys}",
        MNIST=str(digits / "MNIST" / "raw"), LEASH_KEY="of another run",
    )  # fmt: skip
    assert (keys / "worker-2.key").exists()
    assert printed.count("k = 2 ") == 1  # one of them reports
    require_same(out, alone[0], (1, 2, 4))
    summary = json.loads((out / "server" / "summary.json").read_text("utf-8"))
    assert (summary["policy"], summary["evictions"]) == ("bsp", 0)


@pytest.mark.timeout(300)  # several processes in turn, each imports PyTorch
def test_workers_of_several_hosts_survive_the_loss_of_the_one_that_reports(
    digits: Path, tmp_path: Path
) -> None:
    """Each is started by hand; worker 1 is killed once it has told of the first mixtures."""
    words = [f"--path={digits}", "--k=1,2,3,4,5,6,7,8", *SETTINGS, "--no-pictures"]
    expected = tmp_path / "alone"
    em(*words, f"--out={expected}")
    out = tmp_path / "run"
    size = DIGITS * mixture_for_size()
    options = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in server_words(3, size, online=False).items()
    ]
    with server_process(tmp_path / "server", *options) as (server, address):
        argv = [*LEASH, "em", f"--server={address}", f"--out={out}", *words]
        with (
            Child([*argv, "--rank=1"]) as first,
            Child([*argv, "--rank=2"]) as second,
            Child([*argv, "--rank=3"]) as third,
        ):
            first.read_until("k = 1 ", 60.0)
            first.kill()
            assert second.wait(90.0) == third.wait(90.0) == 0, second.lines + third.lines
        assert server.wait() == 0
    assert any("results, mixtures in" in line for line in second.lines)
    require_same_by_k(out, expected)
    summary = json.loads((tmp_path / "server" / "summary.json").read_text("utf-8"))
    assert summary["evictions"] == 1


def mixture_for_size() -> int:
    from leash.ps.options.em import EmOptions

    return mixture_for(EmOptions(path="x"), 8).family(8).size


def require_same_by_k(found: Path, expected: Path) -> None:
    theirs = {result["k"]: result for result in results(expected)}
    mine = {result["k"]: result for result in results(found)}
    assert set(mine) == set(theirs) == set(range(1, 9))
    for k, result in mine.items():
        assert result["accuracy"] == theirs[k]["accuracy"]
        assert result["log_likelihood"] == pytest.approx(theirs[k]["log_likelihood"], rel=1e-9)


@pytest.mark.timeout(300)  # several processes in turn, each imports PyTorch
@pytest.mark.parametrize("model", ["gmm", "bmm"])
def test_stepwise_em_learns_nearly_as_much(digits: Path, tmp_path: Path, model: str) -> None:
    common = [f"--path={digits}", "--k=3", f"--model={model}", "--no-pictures"]
    common += SETTINGS if model == "gmm" else ["--seed=3"]
    em(*common, f"--out={tmp_path / 'batch'}")
    em(*common, "--online", "--workers=2", "--batch-size=20", f"--out={tmp_path / 'online'}")
    (batch,), (online,) = results(tmp_path / "batch"), results(tmp_path / "online")
    assert online["log_likelihood"] > batch["log_likelihood"] - 0.5
    assert online["accuracy"] > batch["accuracy"] - 0.02


def test_python_m_worker_em_is_leash_em() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leash.worker.em", "--help"], capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("usage: leash em ")


@needs_mnist
@pytest.mark.timeout(300)
def test_on_mnist_it_reaches_the_published_accuracies(tmp_path: Path) -> None:
    """The demo's for k = 1 and 2; docs/experiments.md has the others."""
    em(f"--path={DATA}", "--k=1,2", f"--out={tmp_path / 'run'}", timeout_s=280)
    one, two = results(tmp_path / "run")
    assert one["accuracy"] >= 0.9626
    assert two["accuracy"] >= 0.964


# Wrong words: one line, status 2.


def refusal(cwd: Path, *words: str) -> str:
    done = subprocess.run(
        [*LEASH, "em", *words], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("leash em: ")
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "--path: give the folder with MNIST/raw or its four files, or set MNIST"),
        ("--path=nowhere", "--path nowhere is not a folder; give the folder with MNIST/raw"),
        ("--path=.", "no MNIST/raw/train-images-idx3-ubyte, and no train-images-idx3-ubyte by"),
        ("--path=. --k 0", "--k 0: give numbers above 0"),
        ("--path=. --k 1 x", "--k 1,x: expected whole numbers, such as 1,2"),
        ("--path=. --pca 785", "--pca 785: give a number from 1 to 784"),
        ("--path=. --model gnn", "--model gnn: expected one of gmm, bmm"),
        ("--path=. --model bmm --covariance diag", "--covariance: Bernoullis have none"),
        ("--path=. --workers 0", "--workers 0: give a number above 0"),
        ("--path=. --online --k 3", "--online: goes through a server; give --workers N too"),
        ("--path=. --online --workers 2", "--online: takes one --k"),
        ("--path=. --workers 2 --server tcp://h:1", "--workers: the server says how many"),
        ("--path=. --server h", "write it as tcp://HOST:PORT"),
        ("--path=. --tol=-1", "--tol -1.0: give a number from 0"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(tmp_path: Path, words: str, says: str) -> None:
    assert says in refusal(tmp_path, *words.split())


def test_missing_labels_are_named(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "data")
    (folder / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    for more in ((), ("--workers=2",)):
        line = refusal(tmp_path, f"--path={folder}", *more)
        assert "no MNIST/raw/train-labels-idx1-ubyte, and no " in line
        assert line.endswith("give its folder as --path")


def test_more_components_than_images_of_a_digit_are_refused(digits: Path, tmp_path: Path) -> None:
    line = refusal(tmp_path, f"--path={digits}", "--k=1,30", "--len-train-data=200", "--pca=8")
    assert "--k 30: digit " in line
    assert "training images; give a smaller k, or more images" in line


def test_what_a_worker_could_not_do_is_the_last_word_of_all(digits: Path, tmp_path: Path) -> None:
    line = refusal(tmp_path, f"--path={digits}", "--k=300", "--workers=2", "--pca=8")
    assert "--k 300: digit " in line


def test_a_collapsed_component_ends_in_one_line_with_status_1(digits: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [*LEASH, "em", f"--path={digits}", "--k=40", "--reg-covar=0", "--pca=20"], cwd=tmp_path,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "k = 40: component" in line
    assert "--reg-covar" in line


def test_a_folder_with_results_is_not_written_over(alone: tuple[Path, str], digits: Path) -> None:
    line = refusal(digits, f"--path={digits}", f"--out={alone[0]}")
    assert "a run has left its results there; take another" in line


def test_a_server_for_something_else_is_named(digits: Path, tmp_path: Path) -> None:
    with server_process(tmp_path / "run", "--workers=1") as (_, address):
        line = refusal(
            tmp_path, f"--path={digits}", f"--server={address}", "--k=2", "--pca=8", "--out=out"
        )
    kib = chunk_kib_for(1, DIGITS * 2 * 48)
    assert "this server is not one for EM: start it with leash server --policy bsp" in line
    assert f"--chunk-kib {kib}" in line
