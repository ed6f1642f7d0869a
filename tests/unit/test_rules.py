"""What ARCHITECTURE.md says is absent, is absent."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("leash", "ps", "worker", "bench", "examples", "tools")
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
ENGINES = (
    "server/run_engine.py", "server/ending.py", "server/results.py", "server/coordinator.py",
    "server/continuation.py", "server/standing.py", "server/checks.py", "server/checkpoints.py",
    "server/saves.py", "server/progress.py", "server/shards/shards.py",
    "server/shards/remote_shards.py", "server/leases/lease_desk.py", "server/leases/leases.py",
    "server/leases/pacing.py", "server/leases/work_left.py", "shard/linked_shard.py",
    "shard/members.py", "shard/metrics.py", "shard/alignment.py", "shard/model.py",
)  # fmt: skip
CARRIERS = {"zmq", "socket", "select", "subprocess", "threading", "multiprocessing"}
CLOCKS = {
    "time.monotonic", "time.monotonic_ns", "time.time", "time.time_ns", "time.perf_counter",
    "time.localtime", "time.gmtime", "time.sleep", "datetime.now", "os.urandom",
}  # fmt: skip
CHANCE = {"random", "secrets", "uuid"}
# What decides without even a clock: the time is an argument of each call.
TIMELESS = ("ps/wire/requester.py", "worker/client/control/session.py")
WAITING_MODULES = {"asyncio", "os", "select", "socket", "threading", "time", "zmq"}
BANNED_CALLS = {"eval", "exec", "recv_pyobj", "send_pyobj", "torch.load"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_importing_all_of_ps_imports_neither_torch_nor_worker() -> None:
    modules = [
        ".".join(("leash", *path.relative_to(ROOT).with_suffix("").parts))
        for path in sources("ps")
        if path.stem not in ("__init__", "__main__")
    ]
    assert "leash.ps.server.loop" in modules
    script = (
        f"import sys, {', '.join(modules)}\n"
        "print([m for m in sys.modules if m.startswith(('torch', 'leash.worker', 'leash.bench'))])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_knows_neither_sockets_nor_processes(name: str) -> None:
    assert not CARRIERS & {imported.split(".")[0] for imported in imports(ROOT / "ps" / name)}


@pytest.mark.parametrize("path", sources("ps/server", "ps/shard", "ps/runs"), ids=lambda p: p.name)
def test_where_a_server_decides_time_and_chance_come_in_as_arguments(path: Path) -> None:
    read = {call for call in calls(path) if call in CLOCKS or call.split(".")[0] in CHANCE}
    assert read == ({"time.time_ns"} if path.name == "members.py" else set())


@pytest.mark.parametrize("name", TIMELESS)
def test_an_engine_has_no_clock_no_socket_and_no_thread(name: str) -> None:
    imported = {module.split(".")[0] for module in imports(ROOT / name)}
    assert "leash" in imported
    assert not WAITING_MODULES & imported


@pytest.mark.parametrize("path", sources("ps", "worker"), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_bench(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] == "bench"]


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_runs_code_that_a_peer_could_send(path: Path) -> None:
    assert not BANNED_MODULES & {name.split(".")[0] for name in imports(path)}
    assert not BANNED_CALLS & set(calls(path))


def test_the_core_knows_neither_python_nor_zeromq() -> None:
    files = [*(ROOT / "csrc" / "core").rglob("*.h"), *(ROOT / "csrc" / "core").rglob("*.cpp")]
    assert len(files) > 10
    for path in files:
        included = [line for line in path.read_text("utf-8").splitlines() if "#include" in line]
        assert not [i for i in included if any(w in i for w in ("Python.h", "pybind11", "zmq"))]


@pytest.mark.parametrize(
    "path", sources("tests", *PACKAGES), ids=lambda p: str(p.relative_to(ROOT))
)
def test_nothing_imports_a_name_that_may_be_a_users_own(path: Path) -> None:
    # test_users_files.py asks for the names of before in a script of its own.
    assert not {"ps", "worker", "bench"} & {name.split(".")[0] for name in imports(path)}
