"""Connections are reset with each verb in flight, each way: no worker is lost, all counts once."""

import itertools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Report
from leash.ps.wire.options_table import OptionsTable
from leash.worker.client import Client
from leash.worker.client.control import membership
from support.relays import Relay
from support.servers import serving

LAYOUT = Layout([Slot("w", "f32", (4,))])
SIZE, EPOCHS, BATCH = 1 << 20, 100, 2
RESETS = 100  # with each transport, in `make torture`
SOON_S = 30.0


class Worker:
    """A worker that does anything that has a message: each step adds 1 to all parameters."""

    def __init__(self, control: Relay, data: Relay, transport: str) -> None:
        self.control = control
        self.data = data
        self.address = f"tcp://127.0.0.1:{control.port}"
        self.steps = 0
        self._reports = 0
        self._tables = 0
        self.parameters = np.zeros(LAYOUT.nbytes, np.uint8)
        self.client = Client(self.address, LAYOUT, rank=1, transport=transport)
        self.client.begin(self.parameters)

    def push(self) -> None:
        gradients = np.full(4, -1, "<f4").view(np.uint8).copy()
        self.client.push_pull(gradients, self.parameters, samples=1)
        self.steps += 1

    def pull(self) -> None:
        self.client.pull(self.parameters)

    def publish(self) -> None:
        self.client.publish(self.parameters)

    def set_options(self) -> None:
        self._tables += 1
        group = {"lr": 1.0, "weight_decay": 0.0, "maximize": False, "momentum": 0.0,
                 "dampening": 0.0, "nesterov": False, "clamp": (-1e9, 1e9 + self._tables)
                 }  # fmt: skip
        self.client.set_options(OptionsTable((group,), bytes(1)))
        self.push()

    def report(self) -> None:
        """A beat follows at once."""
        self._reports += 1
        self.client.report(
            Report(1, self.client.incarnation, "epoch", self._reports, self.steps, 1, 0.5, 0.0,
                   1.0, 1.0)
        )  # fmt: skip

    def lease(self) -> None:
        self.client.lease(SIZE, EPOCHS, BATCH, 100.0)

    def rejoin(self) -> None:
        self.client.rejoin()
        self.pull()

    def ask(self) -> None:
        with ControlChannel(self.address) as channel:
            request_state(channel)


Act = Callable[[Worker], None]
CONTROL: dict[str, Act] = {
    "hello": Worker.rejoin, "welcome": Worker.rejoin, "beat": Worker.report,
    "beaten": Worker.report, "report": Worker.report, "ok": Worker.report,
    "lease": Worker.lease, "leased": Worker.lease, "status": Worker.ask, "state": Worker.ask,
}  # fmt: skip
DATA: dict[str, Act] = {
    "push_pull": Worker.push, "params": Worker.push, "pull": Worker.pull,
    "publish": Worker.publish, "ok": Worker.publish, "options": Worker.set_options,
    "options_set": Worker.set_options,
}  # fmt: skip
# Headers of a segment go by its ring, but for a push behind options that have no answer yet.
OF_SEGMENTS: dict[str, Act] = {
    "attach": Worker.rejoin, "attached": Worker.rejoin, "push_pull": Worker.set_options,
    "params": Worker.pull,
}  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", ["init", "ok"])
@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_no_worker_is_lost_with_any_message_and_all_counts_once(
    transport: str, first: str, tmp_path: Path, torture: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "GONE_S", 0.5)  # a server that has ended stays away
    data_verbs = {**DATA, **(OF_SEGMENTS if transport == "shm" else {})}
    verbs = [*((True, *item) for item in CONTROL.items()),
             *((False, *item) for item in data_verbs.items())]  # fmt: skip
    run_dir = RunDir(tmp_path / "run")
    with (
        serving(workers=1, policy="asp", lr=1.0, epochs=EPOCHS, run_dir=run_dir) as running,
        ExitStack() as stack,
    ):
        control = Relay(int(running.address.rpartition(":")[2]))
        data = Relay(running.server.data_port)
        running.server.shards.ports[:] = [data.port]
        for relay in (control, data):
            stack.callback(relay.close)
        data.reset_with(first)
        worker = Worker(control, data, transport)
        assert data.met.get(timeout=SOON_S) == first
        resets = RESETS // 2 if torture else len(verbs)
        for is_control, verb, act in itertools.islice(itertools.cycle(verbs), resets):
            relay = control if is_control else data
            relay.reset_with(verb)
            act(worker)
            assert relay.met.get(timeout=SOON_S) == verb
            worker.push()
        control.reset_with("bye" if first == "init" else "ok")
        worker.client.close()
        stack.close()
        running.join()
    np.testing.assert_array_equal(worker.parameters.view("<f4"), worker.steps)
    summary = json.loads(run_dir.summary.read_text())
    told = ("evictions", "refused_messages", "failed_messages", "steps")
    assert [summary[name] for name in told] == [0, 0, 0, worker.steps]
