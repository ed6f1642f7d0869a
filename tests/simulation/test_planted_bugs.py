"""Bugs that are planted on purpose: for each invariant one that breaks it, and is found soon."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from leash.ps.policy import SSP, Rule
from leash.ps.server.coordinator import Coordinator
from leash.ps.server.leases import EpochPositions, Leases
from leash.ps.shard.members import Members
from leash.ps.shard.model import ServedModel
from leash.ps.shard.rank_giver import RankGiver
from leash.ps.wire.messages import Hello
from simulation.checks.watch import Watch
from simulation.cluster import simulate
from simulation.machines.network import Frames
from simulation.machines.worker import SimulatedWorker

MOST_SEEDS = 400  # in which each has to be found

Plant = Callable[[pytest.MonkeyPatch], None]
Hand = Callable[[Watch, bytes, Frames], None]


def violation(most: int = MOST_SEEDS) -> str:
    """The first that is found; empty if none is."""
    found = (simulate(seed).violation for seed in range(most))
    return next((text for text in found if text), "")


def changes_pushes(
    patch: pytest.MonkeyPatch, change: Callable[[Watch, dict[str, Any]], None]
) -> None:
    """Has the shards see other headers than the workers have sent."""
    hand: Hand = Watch._hand

    def changed(watch: Watch, route: bytes, frames: Frames) -> None:
        try:
            header = msgpack.unpackb(frames[0])
        except ValueError:
            hand(watch, route, frames)
            return
        if header.get("t") == "push_pull":
            change(watch, header)
        hand(watch, route, [msgpack.packb(header), *frames[1:]])

    patch.setattr(Watch, "_hand", changed)


def a_duplicate_is_applied_again(patch: pytest.MonkeyPatch) -> None:
    def change(watch: Watch, header: dict[str, Any]) -> None:
        naive = watch.chunks.get(header["chunk"])
        clock = naive.clocks.get(header["worker"]) if naive is not None else None
        if clock == header["step"]:
            header["step"] += 1

    changes_pushes(patch, change)


def a_mean_has_the_wrong_weight(patch: pytest.MonkeyPatch) -> None:
    changes_pushes(patch, lambda _, header: header.update(samples=1))


def the_bound_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    core = Rule.core

    def loose(rule: Rule) -> Any:
        more = rule.policy is SSP and rule.bound is not None
        return core(replace(rule, bound=rule.bound + 1) if more else rule)

    patch.setattr(Rule, "core", loose)


def a_released_answer_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    leave = Watch._leave

    def forgetful(watch: Watch, worker: int) -> None:
        watch._sent.clear()
        leave(watch, worker)

    patch.setattr(Watch, "_leave", forgetful)


def an_answer_has_the_parameters_of_another(patch: pytest.MonkeyPatch) -> None:
    settle = Watch._settle

    def late(watch: Watch, touched: Any) -> None:
        watch._sent = [
            (route, header, bytes(payload)[::-1] if payload is not None else None)
            for route, header, payload in watch._sent
        ]
        settle(watch, touched)

    patch.setattr(Watch, "_settle", late)


def the_silent_are_not_evicted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "silent", lambda _: [])


def an_incarnation_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    require = Members.require_current

    def lenient(members: Members, worker: int, incarnation: int) -> Any:
        newest = members.workers.get(worker)
        return require(members, worker, newest.incarnation if newest else incarnation)

    patch.setattr(Members, "require_current", lenient)


def a_lease_is_handed_out_twice(patch: pytest.MonkeyPatch) -> None:
    take = EpochPositions.take

    def generous(positions: EpochPositions, most: int) -> range:
        taken = take(positions, most)
        if taken.start == 0:
            positions._free.insert(0, taken)
        return taken

    patch.setattr(EpochPositions, "take", generous)


def what_a_dead_worker_held_is_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leases, "_finish", lambda leases, held, done: 0)


def a_handler_raises(patch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("planted")

    patch.setattr(Coordinator, "_leave", broken)


def a_worker_goes_on_with_other_parameters(patch: pytest.MonkeyPatch) -> None:
    take_step = SimulatedWorker._take_step

    def careless(worker: SimulatedWorker, places: Any) -> Any:
        yield from take_step(worker, places)
        worker._slabs.reverse()

    patch.setattr(SimulatedWorker, "_take_step", careless)


def a_checkpoint_has_parameters_of_later(patch: pytest.MonkeyPatch) -> None:
    def read(model: ServedModel, chunk: int, array: int, begin: int, out: memoryview) -> bool:
        values = bytearray(model.chunk(chunk).nbytes)
        model.shard.pull(chunk, None, values)
        out[:] = values[begin : begin + len(out)]
        return True

    patch.setattr(ServedModel, "read_snapshot", read)


def nobody_waits_for_the_evicted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coordinator, "coming_back", [])


def a_run_waits_for_all_that_may_take_part(patch: pytest.MonkeyPatch) -> None:
    def missing(members: Members) -> list[int]:
        there = {member.worker for member in members.live}
        return [rank for rank in members.ranks if rank not in there]

    patch.setattr(Members, "missing", property(missing))


def a_run_begins_with_one_worker_too_few(patch: pytest.MonkeyPatch) -> None:
    missing: Any = Members.missing
    patch.setattr(Members, "missing", property(lambda members: missing.fget(members)[:-1]))


def a_machine_that_returns_gets_a_rank_like_any_other(patch: pytest.MonkeyPatch) -> None:
    rank_for = RankGiver.rank_for

    def forgetful(giver: RankGiver, hello: Hello, user: str) -> int:
        return rank_for(giver, replace(hello, worker=0, place=""), user)

    patch.setattr(RankGiver, "rank_for", forgetful)


def who_restarts_quickly_does_not_get_its_own_place(patch: pytest.MonkeyPatch) -> None:
    rank_for = RankGiver.rank_for
    patch.setattr(
        RankGiver, "rank_for",
        lambda giver, hello, user: rank_for(giver, replace(hello, seat=""), user),
    )  # fmt: skip


PLANTED: tuple[tuple[Plant, str], ...] = (
    (a_duplicate_is_applied_again, ""),
    (a_mean_has_the_wrong_weight, "should be"),
    (the_bound_is_off_by_one, "answered too early"),
    (a_released_answer_is_forgotten, ""),
    (an_answer_has_the_parameters_of_another, "parameters"),
    (the_silent_are_not_evicted, "has been dead for"),
    (an_incarnation_is_not_checked, ""),
    (a_lease_is_handed_out_twice, "leased"),
    (what_a_dead_worker_held_is_lost, ""),
    (a_handler_raises, "planted"),
    (nobody_waits_for_the_evicted, "ended as 'incomplete'"),
    (a_worker_goes_on_with_other_parameters, ""),
    (a_checkpoint_has_parameters_of_later, ""),
    (a_run_waits_for_all_that_may_take_part, "training does not begin"),
    (a_run_begins_with_one_worker_too_few, ""),
    (a_machine_that_returns_gets_a_rank_like_any_other, "comes back as"),
    (who_restarts_quickly_does_not_get_its_own_place, ""),
)


@pytest.mark.parametrize(
    ("plant", "told"), PLANTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_is_found(plant: Plant, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = violation()
    assert found
    assert told in found
