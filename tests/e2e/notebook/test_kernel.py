"""`leash.launch` in a real Jupyter kernel: what a notebook sees, its stop button, and its end."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from support.processes import own_processes, still_running

LIMIT_S = 90.0
GONE_S = 20.0
START = """
import leash
run = leash.launch(workers=2, data="digits", epochs=100000, batch_size=16, slow="0.002",
                   run_dir={run!r})
"""
MODULE = """
import torch

def net():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))

def samples():
    x = torch.randn(64, 4)
    y = (x.sum(1) > 0).long()
    return (x, y), (x, y)
"""


MARK = "LEASH_TEST_NOTEBOOK"  # in the environment of a kernel, and of all that it starts


class Notebook:
    """A kernel, and the cells that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager()
        self._mark = str(folder)
        env = {**os.environ, MARK: self._mark}
        self.manager.start_kernel(cwd=str(folder), independent=False, env=env)
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_S)

    def processes(self) -> list[psutil.Process]:
        """The kernel, and all that it has started, however far down."""
        return [process for process in own_processes() if self._is_of(process)]

    def _is_of(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):  # it is ending
            return process.environ().get(MARK) == self._mark
        return False

    @property
    def pid(self) -> int:
        pid = self.manager.provisioner.pid  # type: ignore[union-attr]
        assert isinstance(pid, int)
        return pid

    def begin(self, cell: str) -> str:
        number = self.client.execute(cell)
        assert isinstance(number, str)
        return number

    def result_of(self, number: str) -> tuple[dict[str, Any], str]:
        """What a cell shows: its value by MIME type, and what it has printed or raised."""
        value, printed = dict[str, Any](), ""
        while True:
            message = self.client.get_iopub_msg(timeout=LIMIT_S)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_result":
                value = content["data"]
            elif kind == "stream":
                printed += content["text"]
            elif kind == "error":
                printed += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return value, printed

    def run(self, cell: str) -> tuple[dict[str, Any], str]:
        return self.result_of(self.begin(cell))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    notebook = Notebook(tmp_path)
    yield notebook
    notebook.close()
    assert still_running(notebook.processes(), GONE_S) == []


def started_by(notebook: Notebook) -> list[psutil.Process]:
    return [process for process in notebook.processes() if process.pid != notebook.pid]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_shows_itself_survives_the_stop_button_and_ends_with_the_kernel(
    notebook: Notebook, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    value, printed = notebook.run(START.format(run=str(run)) + "run")
    assert (printed, next(iter(value))) == ("", "text/plain")
    value, printed = notebook.run("run.table()")
    assert printed == ""
    assert "<pre" in value["text/html"]
    assert "worker" in value["text/html"]
    assert "worker" in value["text/plain"]
    # The stop button: the wait ends, the run goes on.
    waiting = notebook.begin("print('waits', flush=True); run.wait()")
    while "waits" not in notebook.client.get_iopub_msg(timeout=LIMIT_S)["content"].get("text", ""):
        pass
    os.killpg(os.getpgid(notebook.pid), signal.SIGINT)
    assert "KeyboardInterrupt" in notebook.result_of(waiting)[1]
    _, printed = notebook.run(
        "import threading\n"
        "pause = threading.Event().wait\n"
        "before = run.status()['steps']\n"
        "while run.status()['steps'] <= before and run.is_running: pause(0.05)\n"
        "print(run.is_running, run.status()['stopping'] == '', run)"
    )
    assert printed == f"True True LaunchedRun('{run}': goes on)\n"
    processes = started_by(notebook)
    assert len(processes) >= 4  # launcher, server, two workers
    os.kill(notebook.pid, signal.SIGKILL)
    assert still_running(processes, GONE_S) == []
    assert json.loads((run / "summary.json").read_text())["ended"] == "SIGTERM"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_functions_of_a_module_wrong_arguments_and_the_end_of_a_run(
    notebook: Notebook, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "nets.py").write_text(MODULE)
    _, printed = notebook.run(
        "import leash, sys\n"
        "sys.path.insert(0, 'elsewhere')\n"
        "import nets\n"
        "def here(): ...\n"
        "for wrong in (dict(model=here, data=nets.samples), dict(dataset='digitz'),\n"
        "              dict(data='digits', polcy='ssp'), dict(data='digits', workers=0),\n"
        "              dict(data='digits', policy='sps'), dict(data='digits', report='yes')):\n"
        "    try: leash.launch(**wrong)\n"
        "    except leash.UsageError as error: print(error)\n"
    )
    lines = printed.splitlines()
    assert len(lines) == 6, printed
    assert "model=: here is defined in this notebook or script" in lines[0]
    assert "%%writefile here.py" in lines[0]
    assert "unknown dataset 'digitz': did you mean digits?" in lines[1]
    assert lines[2].startswith("polcy=: leash launch has no such option; did you mean policy=?")
    assert "--workers 0" in lines[3]
    assert "--policy" in lines[4]
    assert lines[5] == "report='yes': give True or False"
    _, printed = notebook.run(
        "with leash.launch(workers=1, model=nets.net, data=nets.samples, epochs=2, batch_size=8,\n"
        "                  run_dir='own') as run:\n"
        "    summary = run.wait()\n"
        "print(summary['ended'], summary['steps'] > 0, run.status()['finished'], run)"
    )
    assert printed == "done True True LaunchedRun('own': done)\n"
    value, printed = notebook.run("report = run.report(); report")
    assert printed == ""
    assert value["text/html"].startswith("<iframe srcdoc=")
    _, printed = notebook.run(
        "import threading\n"
        "pause = threading.Event().wait\n"
        "run = leash.launch(workers=1, data='digits', epochs=100000, run_dir='stopped')\n"
        "try: run.wait(timeout_s=0.0)\n"
        "except TimeoutError as error: print(error)\n"
        "while not run.status()['steps']: pause(0.05)\n"
        "run.stop()\n"
        "print(run.is_running, run.wait()['ended'])\n"
        "try: leash.launch(data='digits', run_dir='own').wait()\n"
        "except leash.UsageError as error: print(error)\n"
    )
    assert printed.splitlines() == [
        "the run in stopped goes on", "False SIGTERM",
        "--run-dir own: the run there is done; take another, or begin anew with --fresh",
    ]  # fmt: skip
