"""Whose key may do what: the table of verbs, ranks, and messages in another's name."""

from pathlib import Path
from typing import Any

import pytest

from leash.ps.errors import NotAllowedError
from leash.ps.shard.identities import MAY, Identities
from leash.ps.shard.members import Member, Members
from leash.ps.wire.frames import CONTROL, DATA
from leash.ps.wire.keys import ROLES, Keyring, add_key, new_keys, revoke_key
from leash.ps.wire.messages import Beat, Bye, Hello, Pull, Push, PushPull, Set, Status


class Gate:
    """Identities over a folder of keys, and members that join by them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ring = Keyring(str(folder))
        self.members = Members((1, 2, 3), 5.0, lambda: 0.0)
        self.identities = Identities(self.ring, self.members)

    def key(self, name: str) -> str:
        (public,) = (key for key, holder in self.ring.holders.items() if holder.name == name)
        return public

    def join(self, name: str, worker: int) -> Member:
        key = self.key(name)
        role = "worker" if worker else "observer"
        self.identities.require(Hello(role, worker, name), key)
        member, _ = self.members.hello(worker, name, key=key)
        self.identities.bind(worker, key)
        return member


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    new_keys(tmp_path / "keys", 3)
    return Gate(tmp_path / "keys")


def test_the_table_has_every_verb_that_a_server_takes() -> None:
    assert set(MAY) == {*CONTROL.values(), *DATA.values()}


def test_only_admins_change_a_run_and_only_workers_change_the_model() -> None:
    by_verb = {message.verb: set(roles) for message, roles in MAY.items()}
    assert {verb for verb, roles in by_verb.items() if roles == {"admin"}} == {
        "set", "save", "read", "stop"
    }  # fmt: skip
    assert {verb for verb, roles in by_verb.items() if "observer" in roles} == {
        "hello", "beat", "report", "bye", "status", "pull", "echo"
    }  # fmt: skip
    assert all(roles <= set(ROLES) for roles in by_verb.values())


def test_without_keys_everybody_may_do_everything() -> None:
    members = Members((1,), 5.0, lambda: 0.0)
    identities = Identities(None, members)
    member, _ = members.hello(1, "somebody")
    for message in (Set("bsp"), Status(), Bye(1, member.incarnation, "done")):
        identities.require(message, "")
    assert identities.revoked() == []


def test_a_key_gets_its_rank_at_its_first_hello_and_keeps_it(gate: Gate) -> None:
    first = gate.join("worker-3", 1)
    gate.members.leave(first, "evicted")
    with pytest.raises(NotAllowedError, match="worker key worker-3 has rank 1, not 2"):
        gate.identities.require(Hello("worker", 2, ""), gate.key("worker-3"))
    again = gate.join("worker-3", 1)
    assert again.incarnation > first.incarnation
    assert gate.identities.ranks == {gate.key("worker-3"): 1}


def test_nobody_takes_the_rank_of_another_key_dead_or_alive(gate: Gate) -> None:
    member = gate.join("worker-1", 1)
    gate.members.leave(member, "evicted")
    with pytest.raises(NotAllowedError, match="rank 1 is that of the worker key worker-1"):
        gate.identities.require(Hello("worker", 1, ""), gate.key("worker-2"))
    revoke_key(gate.folder, "worker-1")
    gate.ring.refresh()
    gate.join("worker-2", 1)


def test_a_rank_of_the_file_is_kept_for_its_key(gate: Gate) -> None:
    add_key(gate.folder, "two", "worker", rank=2)
    gate.ring.refresh()
    with pytest.raises(NotAllowedError, match="rank 2 is that of the worker key two"):
        gate.identities.require(Hello("worker", 2, ""), gate.key("worker-1"))
    with pytest.raises(NotAllowedError, match="worker key two has rank 2, not 1"):
        gate.identities.require(Hello("worker", 1, ""), gate.key("two"))
    gate.join("two", 2)


def test_ranks_that_were_written_down_hold_in_a_run_that_goes_on(gate: Gate) -> None:
    gate.join("worker-1", 2)
    later = Gate(gate.folder)
    later.identities.ranks.update(gate.identities.ranks)
    with pytest.raises(NotAllowedError, match="has rank 2, not 1"):
        later.identities.require(Hello("worker", 1, ""), later.key("worker-1"))
    later.join("worker-1", 2)


@pytest.mark.parametrize(
    ("name", "role", "worker"),
    [("observer", "worker", 1), ("admin", "worker", 1), ("worker-1", "observer", 0)],
)
def test_a_hello_is_for_what_its_key_is(gate: Gate, name: str, role: str, worker: int) -> None:
    with pytest.raises(NotAllowedError, match=f"the .* key {name} is for no {role}"):
        gate.identities.require(Hello(role, worker, ""), gate.key(name))


PUSH: dict[str, Any] = {"step": 1, "chunk": 0, "codec": "f32", "samples": 1}


def test_no_message_speaks_for_a_process_that_came_by_another_key(gate: Gate) -> None:
    one, two = gate.join("worker-1", 1), gate.join("worker-2", 2)
    watcher = gate.join("observer", 0)
    speaking = (
        Beat(1, one.incarnation), Bye(1, one.incarnation, "done"),
        PushPull(1, one.incarnation, **PUSH), Push(1, one.incarnation, **PUSH),
        Pull(1, one.incarnation, 0, "f32"), Bye(0, watcher.incarnation, "done"),
    )  # fmt: skip
    for message in speaking:
        with pytest.raises(NotAllowedError, match="came by another key than"):
            gate.identities.require(message, two.key)
    for message in speaking[:5]:
        gate.identities.require(message, one.key)
    gate.identities.require(speaking[5], watcher.key)


def test_an_admin_says_that_a_worker_has_failed_and_nobody_else_does(gate: Gate) -> None:
    """A launcher has an admin's key, and sees that a worker of its own has died."""
    member = gate.join("worker-1", 1)
    bye = Bye(1, member.incarnation, "failed")
    gate.identities.require(bye, gate.key("admin"))
    for name in ("worker-2", "observer"):
        with pytest.raises(NotAllowedError, match="came by another key than"):
            gate.identities.require(bye, gate.key(name))
    for message in (Beat(1, member.incarnation), Bye(1, member.incarnation, "done")):
        with pytest.raises(NotAllowedError, match="came by another key than"):
            gate.identities.require(message, gate.key("admin"))


def test_a_revoked_key_may_nothing_and_its_holder_is_told(gate: Gate) -> None:
    one, two = gate.join("worker-1", 1), gate.join("worker-2", 2)
    revoke_key(gate.folder, "worker-1")
    assert gate.identities.revoked() == []
    gate.ring.refresh()
    assert gate.identities.revoked() == [one]
    with pytest.raises(NotAllowedError, match="it was revoked"):
        gate.identities.require(Status(), one.key)
    gate.identities.require(Beat(2, two.incarnation), two.key)
