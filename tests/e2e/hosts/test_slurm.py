"""`leash launch --slurm` under a real slurmctld and two slurmd of this machine."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.processes import Child

pytestmark = pytest.mark.timeout(240)
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "slurm.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
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
        if step == 1:
            print("begins at version", optimizer.version, "process", os.getpid(), flush=True)
print("trained", flush=True)
"""


def why_none() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [name for name in DAEMONS if shutil.which(name, path=path) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "slurmd starts tasks as root alone"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in taken]


class Cluster:
    """Two nodes that are both this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self._stack = ExitStack()
        programs = folder / "bin"
        for made in (self.work, folder / "state", programs):
            made.mkdir()
        leash = programs / "leash"
        leash.write_text(f'#!/bin/sh\nexec {sys.executable} -m leash.ps.cli "$@"\n')
        leash.chmod(0o755)
        self.environment = {
            **os.environ, "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin",
        }  # fmt: skip

    def __enter__(self) -> "Cluster":
        self._write_settings()
        folder = self.folder
        try:
            self._start(
                "munged", "--force", "--foreground", f"--key-file={folder}/munge.key",
                f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
            ).read_until("Created")  # fmt: skip
            self._start("slurmctld", "-D")
            for node in ("one", "two"):
                self._start("slurmd", "-D", "-N", node).read_until("slurmd started")
            self.until(lambda: self.tell("sinfo", "-h", "-o", "%D %t") == "2 idle", "idle nodes")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, *words: str) -> Child:
        settings = [f"{name}={self.environment[name]}" for name in ("SLURM_CONF", "PATH")]
        return self._stack.enter_context(Child(["env", *settings, *words]))

    def tell(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, cwd=self.work, text=True,
                              capture_output=True, check=False)  # fmt: skip
        return (done.stdout + done.stderr).strip()

    def until(self, happens: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not happens():
            log = "\n".join(path.read_text() for path in self.work.glob("slurm-*.out"))
            assert time.monotonic() < deadline_s, f"no {what}: {self.tell('squeue')}\n{log}"
            time.sleep(0.2)

    def _write_settings(self) -> None:
        folder, host = self.folder, socket.gethostname()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        (folder / "plugstack.conf").write_text("")
        control, *nodes = free_ports(3)
        user = getpass.getuser()
        settings = {
            "ClusterName": "leash", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": user,
            "SlurmdUser": user, "AuthType": "auth/munge",
            "AuthInfo": f"socket={folder}/munge.socket",
            "SlurmctldPort": control, "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": f"{folder}/spool-%n", "SlurmctldPidFile": folder / "control.pid",
            "SlurmdPidFile": f"{folder}/%n.pid", "ProctrackType": "proctrack/pgid",
            "TaskPlugin": "task/none", "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none", "MpiDefault": "none",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU",
            "SchedulerType": "sched/builtin", "ReturnToService": 2, "KillWait": 30,
            "PlugStackConfig": folder / "plugstack.conf", "MinJobAge": 300,
        }  # fmt: skip
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
            for name, port in zip(("one", "two"), nodes, strict=True)
        ]
        lines += ["PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP"]
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if (why := why_none()) is not None:
        pytest.skip(f"no Slurm: {why}")
    folder = Path("/tmp", f"leash-slurm-{os.getpid()}")  # munged refuses what others may write to
    folder.mkdir(mode=0o755)
    try:
        with Cluster(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder)


def test_a_job_trains_and_one_that_is_queued_again_goes_on(cluster: Cluster) -> None:
    (cluster.work / "train.py").write_text(SCRIPT)
    end = cluster.work / "end"
    told = cluster.tell("sbatch", "--parsable", "--nodes=2", str(EXAMPLE), "--policy=asp",
                        "train.py", str(end))  # fmt: skip
    assert told.isdecimal(), told
    output, run = cluster.work / f"slurm-{told}.out", cluster.work / "runs" / f"slurm-{told}"

    def begun() -> list[tuple[str, int]]:
        text = output.read_text() if output.exists() else ""
        found = re.findall(r"\[(\d)\] begins at version (\d+)", text)
        return [(rank, int(version)) for rank, version in found]

    cluster.until(lambda: {rank for rank, _ in begun()} == {"1", "2"}, "first steps")
    assert (run / "keys").stat().st_mode & 0o777 == 0o700
    processes = [int(n) for n in re.findall(r"process (\d+)", output.read_text())]
    assert len(processes) == 2
    assert cluster.tell("scontrol", "requeue", told) == ""
    cluster.until((run / "summary.json").exists, "end of the first run")
    assert json.loads((run / "summary.json").read_text())["ended"] == "SIGTERM"
    cluster.until(lambda: cluster.tell("squeue", "-h", "-o", "%t") == "PD", "job that waits")
    # Slurm would have it wait for the end of its credential, two minutes.
    assert cluster.tell("scontrol", "update", f"JobId={told}", "StartTime=now") == ""
    cluster.until(lambda: len(begun()) >= 4, "first steps of the second run")
    assert "goes on from" in output.read_text()
    assert all(version > 2 for _, version in begun()[2:])
    end.touch()
    cluster.until(lambda: cluster.tell("squeue", "-h") == "", "end of the job")
    text = output.read_text()
    assert text.count("] trained\n") == 2, text
    assert cluster.tell("scontrol", "show", "job", told).count("JobState=COMPLETED"), text
    assert json.loads((run / "summary.json").read_text())["ended"] == "done"
    assert (run / "summary-1.json").exists()
    assert not (run / "keys").exists()
    assert not list(run.glob("slurm-*.json"))
