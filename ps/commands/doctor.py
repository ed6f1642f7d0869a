"""`leash doctor`: checks an installation, and the way to a server, within five seconds."""

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
from itertools import chain
from pathlib import Path
from subprocess import PIPE
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from leash._extras import install_command
from leash._version import version_and_commit
from leash.ps.commands.probe import MIB, Probe, encrypted_bytes_per_s
from leash.ps.commands.run_table import RunState, plain_line
from leash.ps.errors import LeashError
from leash.ps.options.commands import DoctorOptions
from leash.ps.processes import WITHOUT_WORKING_DIRECTORY
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import ClientKey, key_for
from leash.ps.wire.sockets import why_plain
from leash.ps.words import CORE_ANEW

Verdict = Literal["ok", "info", "warn", "fail"]
STYLES: Final = {"ok": "green", "info": "dim", "warn": "yellow", "fail": "bold red"}
OLDEST_MSGPACK: Final = (1, 2, 3)
STATUS_TIMEOUT_S: Final = 1.5
ALL_S: Final = 10.0  # all checks together take no longer; builds for CUDA import in about 6
LATE: Final = "which did not answer in time; the machine may be busy"
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia")
TWEETNACL_BYTES_PER_S: Final = 2e8  # it encrypts less than that on any processor

# A process of its own runs this: `ps` never imports PyTorch, and the import takes seconds.
_ASK_TORCH: Final = """
import json, torch
device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
print(json.dumps([torch.__version__, torch.version.cuda, device]), flush=True)
from leash.worker.vision import import_torchvision, is_repaired
print(json.dumps([import_torchvision().__version__, is_repaired()]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    verdict: Verdict
    what: str
    found: str
    mend: str = ""


def run(options: DoctorOptions) -> int:
    """Prints the checks; returns 1 if one failed."""
    console, failed = Console(), False
    deadline_s = time.monotonic() + ALL_S
    # PyTorch comes last: its import would take the processor from the measurements.
    for check in chain(
        host_checks(), server_checks(options.server, options.key), torch_checks(deadline_s)
    ):
        show(check, console)
        failed = failed or check.verdict == "fail"
    return int(failed)


def show(check: Finding, console: Console) -> None:
    """Prints one finding, and below it what mends it."""
    line = Text.assemble(
        (f"{check.verdict:<5}", STYLES[check.verdict]), (f"{check.what:<12}", "bold"), check.found
    )
    console.print(line, soft_wrap=True)
    if check.mend:
        console.print(Text(f"{'':17}▸ {check.mend}", "yellow"), soft_wrap=True)


# This host.


def host_checks() -> Iterator[Finding]:
    """Checks what Leash needs of this host."""
    yield python_check()
    yield Finding("ok", "leash", version_and_commit())
    yield core_check()
    yield zmq_check()
    yield lanes_check()
    yield curve_check()
    yield msgpack_check(version("msgpack"))
    yield Finding("ok", "numpy", version("numpy"))
    yield machine_check()


def python_check() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < (3, 10):  # noqa: UP036  # pip refuses an older Python unless forced
        return Finding("fail", "python", found, "take Python 3.10 or newer")
    return Finding("ok", "python", found)


def core_check() -> Finding:
    """Checks that the compiled core imports, and that it was built for speed."""
    try:
        core = importlib.import_module("leash.ps._core")
    except ImportError as error:
        return Finding("fail", "core", f"does not import: {error}", CORE_ANEW)
    others = ", ".join(core.instruction_sets())
    built = core.build_info()
    found = f"{core.instruction_set()} (of {others}), {built['build_type']} by {built['compiler']}"
    if built["sanitized"] or built["build_type"] == "Debug":
        return Finding("warn", "core", found, "slow; for real runs build it with make install")
    return Finding("ok", "core", found)


def zmq_check() -> Finding:
    zmq = importlib.import_module("zmq")
    return Finding("ok", "pyzmq", f"{zmq.pyzmq_version()} with libzmq {zmq.zmq_version()}")


def lanes_check() -> Finding:
    """Checks that updates can move without Python, and a server limit what its peers cost."""
    why = why_plain()
    if why is not None:
        return Finding("warn", "lanes", f"libzmq's functions were not found ({why}): small updates "
                       "take twice as long, and a server here limits the frames of a message, not "
                       "unfinished ones or connections",
                       "pip install --force-reinstall pyzmq, whose wheels have it")  # fmt: skip
    return Finding("ok", "lanes", "updates move without Python, and a server here closes "
                   "connections that cost too much")  # fmt: skip


def curve_check(maps: Path = Path("/proc/self/maps")) -> Finding:
    """Checks how fast libzmq encrypts: by tweetnacl it takes ten times as long as by libsodium."""
    zmq = importlib.import_module("zmq")
    mend = "pip install --force-reinstall pyzmq, whose wheels have libsodium"
    if not zmq.has("curve"):
        return Finding("warn", "curve", "this libzmq cannot encrypt, so there are no keys", mend)
    per_s = encrypted_bytes_per_s()
    # A library that has libsodium in itself shows no name, and is known by its speed.
    has_sodium = "libsodium" in maps.read_text() or per_s > TWEETNACL_BYTES_PER_S
    found = f"{per_s / 1e9:.2f} GB/s with keys, by {'libsodium' if has_sodium else 'tweetnacl'}"
    return Finding("ok", "curve", found) if has_sodium else Finding("warn", "curve", found, mend)


def msgpack_check(found: str) -> Finding:
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdecimal())
    if numbers < OLDEST_MSGPACK:
        return Finding("warn", "msgpack", f"{found}: it leaks memory and can be crashed by a peer",
                       "pip install 'msgpack>=1.2.3'")  # fmt: skip
    return Finding("ok", "msgpack", found)


def machine_check() -> Finding:
    memory_nbytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0))
    return Finding("ok", "machine", f"{cores} cores, {memory_nbytes / (1 << 30):.0f} GiB memory, "
                   f"{platform.machine()}")  # fmt: skip


def torch_checks(deadline_s: float) -> Iterator[Finding]:
    """Checks PyTorch and torchvision, if they answer before the deadline."""
    if not _installed("torch"):
        yield Finding("info", "torch", "not installed: fine for a server's host",
                      f"for workers: {install_command('torch')}")  # fmt: skip
        return
    answers, complaint = _ask_torch(max(0.0, deadline_s - time.monotonic()))
    yield torch_check(answers, complaint)
    yield torchvision_check(answers, complaint)


def _ask_torch(timeout_s: float) -> tuple[list[str], str]:
    """Asks PyTorch; gives the lines that it printed in time, and the last line of its error."""
    command = [sys.executable, "-c", f"{WITHOUT_WORKING_DIRECTORY}\n{_ASK_TORCH}"]
    with subprocess.Popen(command, text=True, stdout=PIPE, stderr=PIPE) as process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            err = LATE
        except BaseException:
            process.kill()
            raise
    return out.splitlines(), (err.strip().splitlines() or [""])[-1]


def torch_check(answers: list[str], complaint: str) -> Finding:
    if not answers and complaint == LATE:
        return Finding("warn", "torch", f"{version('torch')}, {complaint}", "ask again")
    if not answers:
        mend = "install it anew: pip install --force-reinstall torch"
        return Finding("fail", "torch", f"{version('torch')}: {complaint}", mend)
    torch, cuda, device = json.loads(answers[0])
    if device is not None:
        return Finding("ok", "torch", f"{torch}, CUDA {cuda} on {device}")
    if not NVIDIA_DRIVER.exists():
        return Finding("ok", "torch", f"{torch}, no GPU on this machine")
    mend = "update the NVIDIA driver" if cuda else "install a CUDA build: see pytorch.org"
    return Finding("warn", "torch", f"{torch}, which cannot use this machine's GPU", mend)


def torchvision_check(answers: list[str], complaint: str) -> Finding:
    if not _installed("torchvision"):
        found = "not installed: needed for mnist, cifar10, imagefolder"
        return Finding("info", "torchvision", found, install_command("torchvision"))
    if len(answers) < 2:
        mend = "needed for mnist, cifar10, imagefolder"
        return Finding("warn", "torchvision", f"{version('torchvision')}, {complaint}", mend)
    torchvision, is_repaired = json.loads(answers[1])
    if is_repaired:
        found = (f"{torchvision}, built for another torch: Leash reads data with it, but a script "
                 "that imports it fails")  # fmt: skip
        return Finding("warn", "torchvision", found, "install the build for your torch: see "
                       "pytorch.org")  # fmt: skip
    return Finding("ok", "torchvision", torchvision)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


# The way to a server.


def server_checks(address: str | None, key_file: str | None = None) -> Iterator[Finding]:
    """Checks that a server answers at this address, if one was given."""
    if address is None:
        yield Finding("info", "server", "not asked for: --server tcp://HOST:PORT checks one")
        return
    try:
        key = key_for(key_file)
        with ControlChannel(address, key=key) as channel:
            state = request_state(channel, STATUS_TIMEOUT_S)
        yield Finding("ok", "server", f"answers at {address}: {plain_line(state)}")
        yield from link_checks(address, state, key)
    except LeashError as error:
        found, _, mend = str(error).partition(": ")
        yield Finding("fail", "server", found, mend)


def link_checks(address: str, state: RunState, key: ClientKey | None = None) -> Iterator[Finding]:
    """Measures the way to each data socket of the server."""
    payload_nbytes = min(MIB, state["chunk_nbytes"])
    for shard, port in enumerate(state["data_ports"]):
        with Probe(address, port, state["chunk_nbytes"], key) as probe:
            round_trip_ms = 1e3 * probe.round_trip_s()
            yield Finding("ok", "round trip", f"{round_trip_ms:.2f} ms to {probe.address}")
            if shard:
                continue  # another port of a way that was measured
            rate = probe.bytes_per_s(payload_nbytes)
            yield Finding("ok", "bandwidth", f"{rate / 1e9:.2f} GB/s each way at the same time, in "
                          f"messages of {payload_nbytes // 1024} KiB")  # fmt: skip
