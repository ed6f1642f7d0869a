"""Machines of their own for tests: network namespaces with a real sshd each, on one bridge.

::

    here            gpu1         gpu2         box3
    10.77.0.1       10.77.0.11   10.77.0.12   10.77.0.13
        └─────────── bridge ─────────┴────────────┘

Each also has processes, a name, a project directory and one for temporary files of its own. All
else of the file system they share, so that the same Python is everywhere. From outside nobody sees
anything of it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from support.processes import Child

NAMES = ("gpu1", "gpu2", "box3")
HERE = "10.77.0.1"
SSHD = "/usr/sbin/sshd"
READY = "Server listening"


def why_none() -> str | None:
    """Why this machine can have no such machines; None if it can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    missing = [name for name in ("ip", "unshare", "ssh", "ssh-keygen") if not shutil.which(name)]
    missing += [] if Path(SSHD).exists() else ["sshd"]
    if missing:
        return f"not installed: {', '.join(missing)} (openssh-server, iproute2, util-linux)"
    name = f"leash{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespaces: {made.stderr.strip()}"
    run("ip", "netns", "delete", name)
    return None


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Machine:
    """A host with an sshd."""

    def __init__(self, name: str, address: str, namespace: str, folder: Path) -> None:
        self.name, self.address = name, address
        self._namespace, self._folder = namespace, folder
        self._temporary = folder / "temporary"
        self._sshd: Child | None = None

    def power_on(self, project: Path) -> None:
        """Starts its first process, which is sshd; its project directory is empty."""
        own = " ".join(f"mount -t tmpfs none {path};" for path in (project, self._temporary))
        run("ip", "-n", self._namespace, "link", "set", "eth0", "up")
        script = f"hostname {self.name}; {own} exec {SSHD} -D -e -f $0"
        self._sshd = Child([
            "ip", "netns", "exec", self._namespace, "unshare", "--mount", "--uts", "--pid",
            "--fork", "--kill-child", "--mount-proc", "sh", "-c", script,
            str(self._folder / "sshd_config"),
        ])  # fmt: skip
        self._sshd.read_until(READY)

    def power_off(self) -> None:
        """Takes its cable out, so that nobody hears of its end, and ends all processes at once."""
        run("ip", "-n", self._namespace, "link", "set", "eth0", "down")
        self._end()

    def _end(self) -> None:
        if self._sshd is not None:
            self._sshd.__exit__(None, None, None)
            self._sshd = None

    def close(self) -> None:
        self._end()

    def processes(self) -> list[psutil.Process]:
        """What runs on it, but for the sshd that listens."""
        if self._sshd is None:
            return []
        init = self._init()
        own = os.readlink(f"/proc/{init.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with suppress(OSError, psutil.Error):
                is_here = os.readlink(f"/proc/{process.pid}/ns/pid") == own
                if is_here and process.pid != init.pid and process.status() != "zombie":
                    found.append(process)
        return found

    def temporary_files(self) -> list[str]:
        """What is in its directory for temporary files."""
        return os.listdir(f"/proc/{self._init().pid}/root{self._temporary}")

    def has(self, path: Path) -> bool:
        """Whether it has this file or directory, in a directory that is its own."""
        return Path(f"/proc/{self._init().pid}/root{path}").exists()

    def _init(self) -> psutil.Process:
        assert self._sshd is not None
        below = psutil.Process(self._sshd.process.pid).children(recursive=True)
        return next(process for process in below if process.name() == "sshd")

    def lose_ssh(self) -> int:
        """Ends every connection of its sshd; returns how many."""
        sessions = [p for p in self.processes() if "sshd: " in " ".join(p.cmdline())]
        for session in sessions:
            with suppress(psutil.NoSuchProcess):
                session.send_signal(signal.SIGKILL)
        return len(sessions)


class Machines:
    """Several hosts, and the machine that launches: `here`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"  # the working directory, here and there
        self._stack = ExitStack()
        self._mark = f"leash{os.getpid()}"
        self.hosts: dict[str, Machine] = {}
        self._refusals = folder / "no-ssh"

    def __enter__(self) -> "Machines":
        self.project.mkdir()
        (self.folder / "temporary").mkdir()
        try:
            self._make_keys()
            self._make_network()
            for machine in self.hosts.values():
                self._stack.callback(machine.close)
                machine.power_on(self.project)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _make_network(self) -> None:
        here = self._namespace("here")
        run("ip", "-n", here, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", here, "address", "add", f"{HERE}/24", "dev", "bridge")
        run("ip", "-n", here, "link", "set", "bridge", "up")
        for number, name in enumerate(NAMES, start=11):
            there, address = self._namespace(name), f"10.77.0.{number}"
            run("ip", "-n", here, "link", "add", name, "type", "veth", "peer", "name", "eth0",
                "netns", there)  # fmt: skip
            run("ip", "-n", here, "link", "set", name, "master", "bridge", "up")
            run("ip", "-n", there, "address", "add", f"{address}/24", "dev", "eth0")
            self.hosts[name] = Machine(name, address, there, self.folder)
        self._write_config()

    def _namespace(self, name: str) -> str:
        whole = f"{self._mark}{name}"
        run("ip", "netns", "add", whole)
        self._stack.callback(run, "ip", "netns", "delete", whole)
        run("ip", "-n", whole, "link", "set", "lo", "up")
        return whole

    def _make_keys(self) -> None:
        for name in ("host", "user"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        (self.folder / "sshd_config").write_text(
            f"HostKey {self.folder}/host\nAuthorizedKeysFile {self.folder}/user.pub\n"
            "StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin prohibit-password\n"
            f"MaxStartups 100\nSetEnv TMPDIR={self.folder}/temporary\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it; Debian's service makes it

    def _write_config(self) -> None:
        """The user's own configuration of ssh, which `ssh` on his PATH goes by."""
        blocks = [f"Host {host.name}\n HostName {host.address}\n" for host in self.hosts.values()]
        (self.folder / "config").write_text(
            "".join(blocks) + f"Host *\n User root\n IdentityFile {self.folder}/user\n"
            f" StrictHostKeyChecking accept-new\n UserKnownHostsFile {self.folder}/known_hosts\n"
        )
        programs = self.folder / "bin"
        programs.mkdir()
        ssh = programs / "ssh"
        ssh.write_text(
            f"#!/bin/sh\nif [ -e {self._refusals} ]; then\n"
            "  echo 'ssh: connect to host port 22: Connection refused' >&2; exit 255\nfi\n"
            f'exec {shutil.which("ssh")} -F {self.folder}/config "$@"\n'
        )
        ssh.chmod(0o755)

    @contextmanager
    def without_ssh(self) -> Iterator[None]:
        """No new connection comes about."""
        self._refusals.touch()
        try:
            yield
        finally:
            self._refusals.unlink()

    def here(self, *words: str) -> Child:
        """A process on the machine that launches, in its project directory."""
        path = f"{self.folder}/bin:{os.environ['PATH']}"
        return Child(
            ["ip", "netns", "exec", f"{self._mark}here", "env", f"PATH={path}", *words],
            cwd=self.project,
        )  # fmt: skip

    def launch(self, *words: str) -> Child:
        return self.here(sys.executable, "-m", "leash.ps.cli", "launch", *words)

    def left(self, hosts: Sequence[str] = NAMES) -> list[psutil.Process]:
        """What runs on these hosts beside sshd."""
        return [process for name in hosts for process in self.hosts[name].processes()]
