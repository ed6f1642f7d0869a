"""`leash launch --hosts`: three machines with a real sshd, one command, and what goes wrong."""

import signal
import time
from pathlib import Path

import pytest
import yaml

from e2e.hosts.machines import HERE, Machines
from support.processes import Child, still_running

pytestmark = pytest.mark.timeout(240)
DOWN_WITHIN_S = 10.0
SCRIPT = """
import os
import sys
import torch
from leash import PSOptimizer

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
with PSOptimizer(model.named_parameters()) as optimizer:
    step = 0
    while not os.path.exists(sys.argv[1]):
        inputs = torch.randn(8, 4)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step(samples=8)
        step += 1
        if step in (1, 2000):
            print(f"step {step} on", os.uname().nodename, os.path.exists(os.environ["LEASH_KEY"]),
                  flush=True)
print("trained", flush=True)
"""
ALL = "gpu1,gpu2:2,box3"
RANKS = {1: "gpu1", 2: "gpu2", 3: "gpu2", 4: "box3"}


@pytest.fixture
def end(machines: Machines) -> Path:
    """A file whose presence ends the training everywhere, at a place that all machines share."""
    (machines.project / "code").mkdir(exist_ok=True)
    (machines.project / "code" / "train.py").write_text(SCRIPT)
    (machines.project / ".gitignore").write_text("/data/\n")
    (machines.project / "data").mkdir(exist_ok=True)
    path = machines.folder / "end"
    path.unlink(missing_ok=True)
    return path


def train(machines: Machines, end: Path, run: str, *words: str) -> Child:
    return machines.launch(
        f"--hosts={ALL}", "--sync=.", "--policy=asp", f"--run-dir={run}", *words,
        "code/train.py", str(end),
    )  # fmt: skip


def await_step(child: Child, step: int, ranks: dict[int, str] = RANKS) -> None:
    wanted = {f"[{rank}] step {step} on {host} True" for rank, host in ranks.items()}
    while not wanted <= set(child.lines):
        child.read_next(100)


def require_nothing_left(machines: Machines, within_s: float = DOWN_WITHIN_S) -> None:
    assert still_running(machines.left(), within_s) == []
    assert {host.name: host.temporary_files() for host in machines.hosts.values()} == {
        name: [] for name in machines.hosts
    }


def test_three_hosts_train_and_one_is_powered_off(machines: Machines, end: Path) -> None:
    run = machines.project / "run-1"
    with train(machines, end, "run-1") as child:
        await_step(child, 1)
        assert (run / "keys").stat().st_mode & 0o777 == 0o700
        gpu1, project = machines.hosts["gpu1"], machines.project
        assert [gpu1.has(project / name) for name in ("code", ".gitignore", "data", "run-1")] == [
            True, True, False, False
        ]  # fmt: skip
        machines.hosts["box3"].power_off()
        child.read_until("worker 4 on box3: ssh is lost", 100)
        await_step(child, 2000, {rank: host for rank, host in RANKS.items() if host != "box3"})
        end.touch()
        status = child.wait(100)
    # A loop of one's own trains on data of its own, which nobody else has had.
    assert status == 1, "\n".join(child.lines)
    assert child.lines[-1].startswith("leash launch: not trained: worker 4")
    for rank in (1, 2, 3):
        assert "trained\n" in (run / "logs" / f"worker-{rank}.log").read_text()
    assert not (run / "keys").exists()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert (settings["hosts"], settings["workers"], settings["keys"]) == (ALL, 4, None)
    machines.hosts["box3"].power_on(machines.project)
    require_nothing_left(machines)


@pytest.mark.alone
def test_ctrl_c_ends_everything_everywhere(machines: Machines, end: Path) -> None:
    with train(machines, end, "run-2") as child:
        await_step(child, 1)
        began_s = time.monotonic()
        child.process.send_signal(signal.SIGINT)
        status = child.wait(30)
        require_nothing_left(machines, DOWN_WITHIN_S - (time.monotonic() - began_s))
        assert status == 130
    assert not (machines.project / "run-2" / "keys").exists()


def test_a_lost_ssh_stops_no_worker(machines: Machines, end: Path) -> None:
    with train(machines, end, "run-3") as child:
        await_step(child, 1)
        with machines.without_ssh():
            assert machines.hosts["gpu2"].lose_ssh()
            child.read_until("worker 2 on gpu2: ssh is lost", 60)
        child.read_until("worker 2 on gpu2: ssh is back", 60)
        await_step(child, 2000)
        end.touch()
        assert child.wait(100) == 0, "\n".join(child.lines)
    for rank, host in RANKS.items():  # nothing is missing, and nothing came twice
        log = (machines.project / "run-3" / "logs" / f"worker-{rank}.log").read_text()
        assert log.endswith(f"step 1 on {host} True\nstep 2000 on {host} True\ntrained\n")
    require_nothing_left(machines)


@pytest.mark.alone
def test_ctrl_c_reaches_a_worker_without_ssh_through_the_server(
    machines: Machines, end: Path
) -> None:
    with train(machines, end, "run-4") as child:
        await_step(child, 1)
        with machines.without_ssh():
            machines.hosts["gpu2"].lose_ssh()
            child.read_until("worker 3 on gpu2: ssh is lost", 60)
            child.process.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
            assert still_running(machines.left(), DOWN_WITHIN_S) == []


def test_workers_do_not_outlive_a_launch_that_was_killed(machines: Machines, end: Path) -> None:
    with train(machines, end, "run-5") as child:
        await_step(child, 1)
        workers = machines.left()
        child.kill()
        assert still_running(workers, 60) == []


def test_built_in_workers_and_an_address_and_a_port_of_ones_own(machines: Machines) -> None:
    words = ("--dataset=digits", "--epochs=1", "--run-dir=run-6", f"--address={HERE}",
             "--port=29600")  # fmt: skip
    (machines.project / "hosts").write_text("gpu1  # the large one\nbox3 slots=1\n")
    with machines.launch("--hosts=hosts", "--sync=.", *words) as child:
        assert child.wait(100) == 0, "\n".join(child.lines)
    logs = machines.project / "run-6" / "logs"
    assert "listening at tcp://0.0.0.0:29600, 2 workers" in (logs / "server.log").read_text()
    assert "epoch 1: loss" in (logs / "worker-2.log").read_text()


def test_each_host_says_what_it_lacks_and_nothing_is_started(machines: Machines) -> None:
    """gpu1 has no such script, nowhere is nobody, and box3 reaches no other address."""
    (machines.project / "other.py").write_text("")
    with machines.launch("--hosts=gpu1,nowhere.invalid", "--run-dir=run-7", "other.py") as child:
        assert child.wait(60) == 2
    by_host = {line.split()[0]: line for line in child.lines}
    assert f"no {machines.project}/other.py there" in by_host["gpu1"]
    assert "ssh nowhere.invalid true has to work" in by_host["nowhere.invalid"]
    assert child.lines[-1].startswith("leash launch: --hosts: 2 of 2 cannot take part: ")
    assert not (machines.project / "run-7").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--address=10.77.0.99", "--sync=.", "other.py"), "does not reach the server's ports"),
        (("--python=/no/python", "other.py"), "no Python at /no/python; give --python PATH"),
        (("--sync=.", "none.py"), "none.py: there is no such script to copy"),
        (("--sync=/usr", "other.py"), "--sync /usr: the workers begin in"),
    ],
)
def test_what_cannot_be_is_refused(machines: Machines, words: tuple[str, ...], says: str) -> None:
    (machines.project / "other.py").write_text("")
    with machines.launch("--hosts=box3", *words) as child:
        assert child.wait(60) == 2
    assert any(says in line for line in child.lines), child.lines
