"""`leash doctor`: is this installation sound, and the way to a server? In five seconds."""

import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from ps import __version__
from ps.config import DoctorConfig
from ps.control import ControlChannel, request_state
from ps.errors import LeashError
from ps.probe import Probe
from ps.table import State, plain_line

Verdict = Literal["ok", "info", "warn", "fail"]
STYLES: Final = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
OLDEST_MSGPACK: Final = (1, 2, 3)
STATUS_TIMEOUT_S: Final = 1.5
TORCH_TIMEOUT_S: Final = 4.5  # after the start of all
MIB: Final = 1 << 20

# Runs in a process of its own: `ps` never imports PyTorch, and it takes seconds.
_ASK_TORCH: Final = """
import json, torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps([torch.__version__, torch.version.cuda, device]), flush=True)
from worker.vision import import_torchvision
print(json.dumps(import_torchvision().__version__), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the diagnosis."""

    verdict: Verdict
    what: str
    found: str
    mend: str = ""


def run(config: DoctorConfig) -> int:
    """Prints the checks; returns 1 if one failed."""
    console, failed = Console(), False
    torch = TorchChecks()
    try:
        for check in (*host_checks(), *server_checks(config.server), *torch.checks()):
            show(check, console)
            failed = failed or check.verdict == "fail"
    finally:
        torch.close()
    return int(failed)


def show(check: Check, console: Console) -> None:
    line = Text.assemble(
        (f"{check.verdict:<5}", STYLES[check.verdict]), (f"{check.what:<12}", "bold"), check.found
    )
    console.print(line, soft_wrap=True)
    if check.mend:
        console.print(Text(f"{'':17}▸ {check.mend}", "yellow"), soft_wrap=True)


# This host.


def host_checks() -> Iterator[Check]:
    yield python_check()
    yield Check("ok", "leash", __version__)
    yield core_check()
    yield zmq_check()
    yield msgpack_check(version("msgpack"))
    yield Check("ok", "numpy", version("numpy"))
    yield machine_check()


def python_check() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 10):  # noqa: UP036  # whoever got here has forced the installation
        return Check("fail", "python", found, "take Python 3.10 or newer")
    return Check("ok", "python", found)


def core_check() -> Check:
    """The compiled core."""
    try:
        core = importlib.import_module("ps._core")
    except ImportError as error:
        return Check("fail", "core", f"does not import: {error}", "build it: make install")
    others = ", ".join(core.instruction_sets())
    built = core.build_info()
    found = f"{core.instruction_set()} (of {others}), {built['build_type']} by {built['compiler']}"
    if built["sanitized"] or built["build_type"] == "Debug":
        return Check("warn", "core", found, "slow; for real runs build it with make install")
    return Check("ok", "core", found)


def zmq_check() -> Check:
    zmq = importlib.import_module("zmq")
    return Check("ok", "pyzmq", f"{zmq.pyzmq_version()} with libzmq {zmq.zmq_version()}")


def msgpack_check(found: str) -> Check:
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if numbers < OLDEST_MSGPACK:
        return Check("warn", "msgpack", f"{found}: it leaks memory and can be crashed by a peer",
                     "pip install 'msgpack>=1.2.3'")  # fmt: skip
    return Check("ok", "msgpack", found)


def machine_check() -> Check:
    memory_nbytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return Check("ok", "machine", f"{cores} cores, {memory_nbytes / (1 << 30):.0f} GiB memory, "
                                  f"{platform.machine()}")  # fmt: skip


class TorchChecks:
    """What PyTorch says of itself, asked in the background from the beginning."""

    def __init__(self) -> None:
        self._deadline_s: Final = time.monotonic() + TORCH_TIMEOUT_S
        self._process: subprocess.Popen[str] | None = None
        if _installed("torch"):
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ASK_TORCH], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip

    def checks(self) -> Iterator[Check]:
        if self._process is None:
            yield Check("info", "torch", "not installed: fine for a server's host",
                        "for workers: pip install 'leash[worker]'")  # fmt: skip
            return
        answers, complaint = self._answers(self._process)
        yield torch_check(answers, complaint)
        yield torchvision_check(answers, complaint)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _answers(self, process: subprocess.Popen[str]) -> tuple[list[str], str]:
        """The lines that it printed in time, and the last line of what went wrong."""
        try:
            out, err = process.communicate(timeout=max(0.0, self._deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err = f"did not answer within {TORCH_TIMEOUT_S:g} s; the machine may be busy"
        return out.splitlines(), (err.strip().splitlines() or [""])[-1]


def torch_check(answers: list[str], complaint: str) -> Check:
    if not answers:
        late = "did not answer" in complaint
        mend = "ask again" if late else "install it anew: pip install --force-reinstall torch"
        return Check("warn" if late else "fail", "torch", complaint, mend)
    torch, cuda, device = json.loads(answers[0])
    if device is not None:
        return Check("ok", "torch", f"{torch}, CUDA {cuda} on {device}")
    if not Path("/proc/driver/nvidia").exists():
        return Check("ok", "torch", f"{torch}, no GPU on this machine")
    mend = "update the NVIDIA driver" if cuda else "install a CUDA build: see pytorch.org"
    return Check("warn", "torch", f"{torch}, which cannot use this machine's GPU", mend)


def torchvision_check(answers: list[str], complaint: str) -> Check:
    if not _installed("torchvision"):
        return Check("info", "torchvision", "not installed: needed for mnist, cifar10, imagefolder",
                     "pip install 'leash[worker]'")  # fmt: skip
    if len(answers) < 2:
        return Check("warn", "torchvision", complaint, "needed for mnist, cifar10, imagefolder")
    return Check("ok", "torchvision", json.loads(answers[1]))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


# The way to a server.


def server_checks(address: str | None) -> Iterator[Check]:
    if address is None:
        yield Check("info", "server", "not asked for; --server tcp://HOST:PORT checks the way to one")
        return
    try:
        with ControlChannel(address) as channel:
            state = request_state(channel, STATUS_TIMEOUT_S)
        yield Check("ok", "server", f"answers at {address}: {plain_line(state)}")
        yield from link_checks(address, state)
    except LeashError as error:
        found, _, mend = str(error).partition(": ")
        yield Check("fail", "server", found, mend)


def link_checks(address: str, state: State) -> Iterator[Check]:
    payload_nbytes = min(MIB, state["chunk_nbytes"])
    for port in state["data_ports"][:1]:
        with Probe(address, port, state["chunk_nbytes"]) as probe:
            yield Check("ok", "round trip", f"{1e3 * probe.round_trip_s():.2f} ms to {probe.address}")
            rate = probe.bytes_per_s(payload_nbytes)
            yield Check("ok", "bandwidth", f"{rate / 1e9:.2f} GB/s each way at the same time, in "
                                           f"messages of {payload_nbytes // 1024} KiB")  # fmt: skip
