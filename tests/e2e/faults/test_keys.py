"""A server with keys, attacked by strangers and by members, with real sockets and processes.

The peers know pyzmq and msgpack, and nothing of Leash. Whatever is refused is counted, and changes
nothing: neither a parameter, nor who takes part, nor how the run stands.
"""

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from safetensors.torch import load_file

from leash.ps.errors import NotAllowedError, ServerUnreachableError, UsageError
from leash.ps.runs.rundir import RunDir
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import add_key, key_for, new_keys, revoke_key
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Ok, Set
from leash.worker.client import Client
from leash.worker.optim.optimizer import PSOptimizer
from support.contract import LR, PACKED_LAYOUT, Worker, valid_messages
from support.peers import Header, Key, Peer, peers, peers_by
from support.processes import LEASH
from support.servers import RunningServer, serving

DATA_VERBS = ("init", "push_pull", "push", "pull", "publish", "options", "attach", "echo")
SILENCE_MS = 300


class Run:
    """A server with keys, and its two workers in the middle of a run."""

    def __init__(self, folder: Path, running: RunningServer, stack: ExitStack) -> None:
        self.folder = folder
        self.running = running
        self.addresses = [running.address, running.data_address]
        self.first, self.second = (self._worker(stack, rank) for rank in (1, 2))
        self.first.init()

    def _worker(self, stack: ExitStack, rank: int) -> Worker:
        control, data = self.peers(stack, f"worker-{rank}")
        worker = Worker(rank, control, data)
        worker.hello()
        return worker

    def key(self, name: str) -> Key:
        return Key.in_file(self.folder / f"{name}.key")

    def peers(self, stack: ExitStack, name: str) -> list[Peer]:
        """A peer for each socket of the server, all of them by this key."""
        return stack.enter_context(peers_by(self.key(name), *self.addresses))

    def channel(self, stack: ExitStack, name: str) -> ControlChannel:
        key = key_for(self.folder / f"{name}.key")
        return stack.enter_context(ControlChannel(self.running.address, key=key))

    def digest(self) -> tuple[Any, ...]:
        """Everything that a message may change."""
        server = self.running.server
        model = server.data.model
        assert model is not None
        values = hashlib.sha256()
        for chunk in model.own:
            out = bytearray(chunk.nbytes)
            version, _ = model.shard.pull(chunk.index, None, out)
            values.update(bytes(out) + bytes([version]))
        present = (*server.members.workers.values(), *server.members.observers.values())
        members = [(m.worker, m.incarnation, m.state, m.number, m.reported) for m in present]
        return values.hexdigest(), members, server.rule, server.metrics.steps

    def refused(self) -> tuple[int, int]:
        """How many connections and messages the server has refused so far."""
        summary = self.running.server.metrics.summary()
        return summary["refused_connections"], summary["refused_messages"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run") / "keys"
    new_keys(folder, 3)
    settings: dict[str, Any] = {
        "workers": 2, "policy": "asp", "lr": LR, "chunk_kib": 64, "evict_s": 900.0,
        "keys": str(folder),
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).delenv("LEASH_KEY", raising=False)
        yield Run(folder, stack.enter_context(serving(**settings)), stack)


def attempts(worker: Worker) -> dict[str, tuple[Header, tuple[bytes, ...]]]:
    """One of each verb in this worker's name, which would be honoured if it were its own."""
    fields = {"pid": os.getpid(), "fd": 0, "nbytes": 4096, "nonce": "00" * 16}
    publish = worker.header("publish", number=1, chunk=0, codec="f32")
    return {
        **valid_messages(worker),
        "hello": ({"t": "hello", "role": "worker", "worker": worker.rank, "name": "another"},
                  (PACKED_LAYOUT,)),
        "publish": (publish, (bytes(64 * 1024),)),
        "attach": (worker.header("attach", **fields), ()),
        "set": ({"t": "set", "policy": "bsp"}, ()),
        "save": ({"t": "save", "number": 7}, ()),
        "read": ({"t": "read", "number": 7, "offset": 0}, ()),
        "stop": ({"t": "stop"}, ()),
    }  # fmt: skip


OPEN = ("status", "echo")  # for every key, and about nobody


@pytest.mark.parametrize("name", ["worker-2", "worker-3", "observer", "admin"])
def test_no_verb_is_honoured_in_anothers_name(run: Run, name: str) -> None:
    own = {"admin": ("set", "save", "read", "stop")}.get(name, ())
    with ExitStack() as stack:
        control, data = run.peers(stack, name)
        before, (_, counted) = run.digest(), run.refused()
        tried = {v: m for v, m in attempts(run.first).items() if v not in (*OPEN, *own)}
        for verb, (header, payloads) in tried.items():
            peer = data if verb in DATA_VERBS else control
            assert peer.error(header, *payloads) == "not_allowed", verb
        assert run.digest() == before
        assert run.refused()[1] == counted + len(tried)
        assert {"set", "push_pull", "hello", "bye", "attach"} - {*own} <= tried.keys()


def test_an_observer_reads_and_changes_nothing(run: Run) -> None:
    with ExitStack() as stack:
        control, data = run.peers(stack, "observer")
        before = run.digest()
        hello = {"t": "hello", "role": "observer", "worker": 0, "name": "watcher"}
        welcome, _ = control.ask(hello)
        mine = {"worker": 0, "incarnation": welcome["incarnation"]}
        pull = {"t": "pull", **mine, "chunk": 0, "codec": "f32"}
        assert data.ask(pull)[0]["t"] == "params"
        assert control.ask({"t": "status"})[0]["t"] == "state"
        for verb, (header, payloads) in attempts(run.first).items():
            if verb in (*OPEN, "hello", "beat", "report", "bye", "pull"):
                continue
            peer = data if verb in DATA_VERBS else control
            theirs = {**header, **mine} if "incarnation" in header else header
            assert peer.error(theirs, *payloads) == "not_allowed", verb
        assert control.ask({"t": "bye", **mine, "reason": "done"})[0]["t"] == "ok"
        assert run.digest() == before


def test_a_worker_goes_on_between_all_attacks(run: Run) -> None:
    run.first.complete_a_step()
    run.first.require_unchanged()


@pytest.mark.parametrize("who", ["no key", "unknown key", "another server's key"])
def test_whoever_has_no_key_of_this_server_is_refused_and_counted(
    run: Run, tmp_path: Path, who: str
) -> None:
    before, (counted, _) = run.digest(), run.refused()
    server = run.key("worker-1").server
    with ExitStack() as stack:
        if who == "no key":
            sockets = stack.enter_context(peers(*run.addresses))
        else:
            new_keys(tmp_path / "other", 1)
            other = Key.in_file(tmp_path / "other" / "worker-1.key")
            key = Key.unknown(server) if who == "unknown key" else Key(
                run.key("worker-1").public, run.key("worker-1").secret, other.server
            )  # fmt: skip
            sockets = stack.enter_context(peers_by(key, *run.addresses))
        messages = attempts(run.first)
        for peer in sockets:
            for header, payloads in (messages["status"], messages["bye"], messages["push_pull"]):
                peer.send(header, *payloads)
        assert not any(peer.socket.poll(SILENCE_MS, zmq.POLLIN) for peer in sockets)
        assert run.digest() == before
        # One that is refused may hang up first, which is not counted; it tries again and again.
        deadline_s = time.monotonic() + 30
        while run.refused()[0] < counted + len(run.addresses):
            assert time.monotonic() < deadline_s
            assert not any(peer.socket.poll(SILENCE_MS, zmq.POLLIN) for peer in sockets)


def test_whoever_does_not_even_speak_zeromq_is_hung_up_on(run: Run) -> None:
    before = run.digest()
    for address in run.addresses:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        with (
            socket.create_connection((host, int(port)), 5.0) as stranger,
            suppress(ConnectionResetError),
        ):
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: leash\r\n\r\n" * 8)
            while stranger.recv(4096):  # its greeting; then the end
                pass
    assert run.digest() == before


def test_a_route_is_no_identity(run: Run) -> None:
    """A client may choose its route. Whoever takes another's does not speak for it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    header = run.first.header("pull", chunk=0, codec="f32")
    try:
        owner = Peer(context, run.addresses[1], run.key("worker-1"), route=b"mine")
        assert owner.ask(header)[0]["t"] == "params"
        owner.socket.close(linger=0)
        # A ROUTER is deaf to a second peer with a route until it has noticed that the first left.
        for _ in range(100):
            other = Peer(context, run.addresses[1], run.key("worker-3"), route=b"mine")
            other.send(header)
            if other.socket.poll(200):
                break
            other.socket.close(linger=0)
        assert other.receive()[0]["code"] == "not_allowed"
    finally:
        context.destroy(linger=0)


def await_let_in(run: Run, name: str) -> None:
    """Returns once the server, which looks once a second, lets this key in."""
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        with ExitStack() as stack, suppress(*REFUSED):
            request_state(run.channel(stack, name))
            return
    raise AssertionError(f"{name} was never let in")


def test_keys_come_and_go_while_a_server_runs(run: Run) -> None:
    members = run.running.server.members
    with ExitStack() as stack:
        add_key(run.folder, "guest", "observer")
        await_let_in(run, "guest")
        control, _ = run.peers(stack, "guest")
        hello = {"t": "hello", "role": "observer", "worker": 0, "name": "guest"}
        incarnation = control.ask(hello)[0]["incarnation"]
        assert incarnation in members.observers
        revoke_key(run.folder, "guest")
        beat = {"t": "beat", "worker": 0, "incarnation": incarnation}
        while (answer := control.ask(beat)[0])["t"] == "beaten":
            pass
        assert answer["code"] == "not_allowed"
        admin, deadline_s = run.channel(stack, "admin"), time.monotonic() + 30
        while incarnation in members.observers:  # it is evicted a few ticks later at most
            assert request_state(admin)
            assert time.monotonic() < deadline_s


# Who hangs up first, and so how much the other side learns, is up to the network.
REFUSED = (UsageError, ServerUnreachableError)


def test_what_a_command_says_of_a_key_that_does_not_fit(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LEASH_KEY", raising=False)
    address = run.running.address
    with (
        ControlChannel(address) as channel,
        pytest.raises(REFUSED, match=r"takes only those who .*give --key FILE"),
    ):
        request_state(channel)
    new_keys(tmp_path / "keys", 1)
    stranger = tmp_path / "keys" / "worker-1.key"
    with (
        ControlChannel(address, key=key_for(stranger)) as channel,
        pytest.raises(REFUSED, match="not by the server's key that --key names"),
    ):
        request_state(channel, 0.5)
    text = stranger.read_text()
    other = key_for(stranger)
    assert other is not None
    stranger.write_text(text.replace(other.server, run.key("admin").server.decode()))
    with (
        ControlChannel(address, key=key_for(stranger)) as channel,
        pytest.raises(UsageError, match="does not let this key in; leash keys list DIR"),
    ):
        request_state(channel)
    with (
        serving() as plain,
        ControlChannel(plain.address, key=key_for(run.folder / "admin.key")) as channel,
        pytest.raises(REFUSED, match=r"has no keys; leave --key and LEASH_KEY out|or by none"),
    ):
        request_state(channel)


def test_only_an_admin_changes_the_policy(run: Run) -> None:
    with ExitStack() as stack:
        with pytest.raises(NotAllowedError, match="set: the observer key observer may not"):
            run.channel(stack, "observer").request(Set("ssp", 5), Ok)
        admin = run.channel(stack, "admin")
        admin.request(Set("ssp", 5), Ok)
        assert request_state(admin)["policy"] == "ssp"
        admin.request(Set("asp"), Ok)


LAYOUT = Layout([Slot("w", "f32", (40_000,)), Slot("v", "f32", (40_000,))])


def trained(transport: str, key: Path | None, **settings: Any) -> tuple[bytes, int]:
    """The parameters after ten steps of one worker, and how many messages were refused."""
    with serving(lr=0.5, chunk_kib=64, policy="bsp", shards=2, **settings) as running:
        client = Client(running.address, LAYOUT, rank=1, transport=transport, key=key)
        slab = client.slabs[0]
        numbers = np.random.default_rng(1).standard_normal(slab.nbytes // 4, np.float32)
        client.begin(slab)
        for _ in range(10):
            slab.view(np.float32)[:] = numbers
            client.push_pull(slab, slab, samples=1)
        values = bytes(slab)
        client.close()
        running.join()
        summary = running.server.metrics.summary()
        return values, summary["refused_messages"] + summary["refused_connections"]


@pytest.mark.parametrize("transport", ["tcp", "shm"])
def test_training_by_keys_is_training_without_them_bit_by_bit(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEASH_KEY", raising=False)
    new_keys(tmp_path / "keys", 1)
    keyed = trained(transport, tmp_path / "keys" / "worker-1.key", keys=str(tmp_path / "keys"))
    assert keyed == trained(transport, None)
    assert keyed[1] == 0


def test_an_optimizer_of_torch_trains_by_a_workers_key_and_saves_by_an_admins(
    tmp_path: Path,
) -> None:
    new_keys(tmp_path / "keys", 1)
    own, admin = (tmp_path / "keys" / f"{name}.key" for name in ("worker-1", "admin"))
    model = torch.nn.Linear(4, 1)
    run_dir = RunDir(tmp_path / "run")
    with (
        serving(lr=0.1, policy="asp", keys=str(tmp_path / "keys"), run_dir=run_dir) as running,
        PSOptimizer(model.named_parameters(), running.address, 1, key=own) as optimizer,
    ):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step(samples=2)
        with pytest.raises(NotAllowedError, match="save: the worker key worker-1 may not"):
            optimizer.save(tmp_path / "here.safetensors")
        optimizer.save(tmp_path / "here.safetensors", key=admin)
        saved = load_file(tmp_path / "here.safetensors")
        assert torch.equal(saved["weight"], model.weight.detach())


def test_a_launcher_makes_the_keys_and_hands_them_on(tmp_path: Path) -> None:
    words = ["launch", "--workers=2", "--dataset=digits", "--epochs=1", "--keys=keys",
             "--run-dir=run", "--policy=ssp", "--transport=tcp", "--shards=2"]  # fmt: skip
    ended = subprocess.run(
        [*LEASH, *words], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "LEASH_KEY": "of another run"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "test accuracy" in ended.stdout  # so its evaluator was let in too
    assert {p.name for p in (tmp_path / "keys").iterdir()} >= {"server.key", "worker-2.key"}
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_a_further_shard_lets_in_and_refuses_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    new_keys(folder, 2)
    with ExitStack() as stack:
        running = stack.enter_context(serving(workers=1, shards=2, chunk_kib=64, keys=str(folder)))
        admin = stack.enter_context(
            ControlChannel(running.address, key=key_for(folder / "admin.key"))
        )
        far = f"tcp://127.0.0.1:{request_state(admin)['data_ports'][1]}"
        own, other = (Key.in_file(folder / f"worker-{n}.key") for n in (1, 2))
        control, data = stack.enter_context(peers_by(own, running.address, far))
        (theirs,) = stack.enter_context(peers_by(other, far))
        (stranger,) = stack.enter_context(peers(far))
        worker = Worker(1, control, data)
        worker.hello()
        init = worker.header("init", chunk=1, codec="f64")
        assert theirs.error(init, bytes(24)) == "not_allowed"
        assert data.ask(init, bytes(24))[0]["taken"] is True
        stranger.send({"t": "status"})
        told = ("refused_messages", "refused_connections")
        deadline_s = time.monotonic() + 30  # the shard tells its counts four times a second
        while (counts := [request_state(admin)[name] for name in told]) != [1, 1]:
            assert time.monotonic() < deadline_s, counts
