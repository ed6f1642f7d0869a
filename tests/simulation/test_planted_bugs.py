"""Bugs that are planted on purpose: for each invariant one that breaks it, and is found soon."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from leash.ps.errors import NotAllowedError
from leash.ps.policy import ASP, SSP, Rule
from leash.ps.recovery.healing import Healing
from leash.ps.recovery.recovery import Recovery
from leash.ps.runs.journal import Granted, Journal, LeaseChange, Remembered
from leash.ps.server.continuation import Continuation
from leash.ps.server.coordinator import ControlAnswer, Coordinator
from leash.ps.server.leases.lease_desk import LeaseDesk
from leash.ps.server.leases.leases import EpochPositions, Leases
from leash.ps.server.leases.work_left import WorkLeft
from leash.ps.server.results import Results
from leash.ps.shard import identities
from leash.ps.shard.data_desk import DataDesk
from leash.ps.shard.identities import Identities
from leash.ps.shard.linked_shard import LinkedShard
from leash.ps.shard.members import Member, Members
from leash.ps.shard.model import ServedModel
from leash.ps.shard.rank_giver import RankGiver
from leash.ps.wire.frames import error_message
from leash.ps.wire.keys import ROLES
from leash.ps.wire.messages import Hello, Message, Offer, Remember, Save, Set
from leash.ps.wire.shard_messages import Done
from leash.worker.client.control.session import Session
from leash.worker.client.remembered import Answered
from simulation.checks.watch import Watch
from simulation.cluster import simulate
from simulation.faults import draw_faults
from simulation.machines.network import Frames
from simulation.machines.worker import SimulatedWorker
from simulation.scenario import draw

MOST_SEEDS = 400  # in which each has to be found
MOST_KILLS = 4000  # likewise, of those for which a server has to be killed

Plant = Callable[[pytest.MonkeyPatch], None]
Hand = Callable[[Watch, bytes, Frames], None]


def violation(first: int = 0) -> str:
    """The first that is found, from this seed on; empty if none is."""
    found = (simulate(seed).violation for seed in range(first, first + MOST_SEEDS))
    return next((text for text in found if text), "")


def violation_with_kills(first: int = 0) -> str:
    """The first that is found in the seeds in which a server is killed; empty if none is."""
    for seed in range(first, first + MOST_KILLS):
        faults = draw_faults(draw(seed))
        is_killed = any(fault.kind == "kill server" for fault in faults)
        if is_killed and (text := simulate(seed, faults=faults).violation):
            return text
    return ""


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
    patch.setattr(WorkLeft, "coming_back", [])


# Of a run that survives.


def an_answer_leaves_before_its_line_is_in_the_journal(patch: pytest.MonkeyPatch) -> None:
    note, force = Journal._note, Journal.force
    late: list[tuple[Journal, str, dict[str, Any]]] = []

    def note_and_force(journal: Journal) -> None:
        for line in [line for line in late if line[0] is journal]:
            late.remove(line)
            note(journal, line[1], **line[2])
        force(journal)

    patch.setattr(Journal, "_note", lambda journal, what, **f: late.append((journal, what, f)))
    patch.setattr(Journal, "force", note_and_force)


def what_a_full_disk_has_not_taken_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    write = Journal._write

    def forgetful(journal: Journal) -> None:
        write(journal)
        journal._waiting = b""

    patch.setattr(Journal, "_write", forgetful)


def the_bye_of_the_evicted_is_not_in_the_journal(patch: pytest.MonkeyPatch) -> None:
    count_bye = Coordinator._count_bye

    def forgetful(coordinator: Coordinator, member: Member, reason: str) -> None:
        kept, coordinator.journal = coordinator.journal, Journal(None)
        count_bye(coordinator, member, reason)
        coordinator.journal = kept

    patch.setattr(Coordinator, "_count_bye", forgetful)


def a_repeated_hello_is_taken_for_a_new_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Members, "greeted", lambda *_: None)


def the_bye_of_an_old_process_ends_the_new_one(patch: pytest.MonkeyPatch) -> None:
    require = Members.require_counted

    def lenient(members: Members, worker: int, incarnation: int) -> Any:
        newest = members.workers.get(worker)
        return require(members, worker, newest.incarnation if newest else incarnation)

    patch.setattr(Members, "require_counted", lenient)


def what_the_evicted_held_is_leased_twice(patch: pytest.MonkeyPatch) -> None:
    release = Leases.release

    def twice(leases: Leases, worker: int, answered: int, applied: int) -> None:
        holder = leases._holders.get(worker)
        held = [*holder.held] if holder is not None else []
        release(leases, worker, answered, applied)
        for lease in held:
            if lease.epoch in leases._epochs:
                leases._epochs[lease.epoch]._free.append(lease.positions)

    patch.setattr(Leases, "release", twice)


def a_round_that_is_given_up_is_applied_in_part(patch: pytest.MonkeyPatch) -> None:
    give_up = DataDesk.give_up_rounds

    def partly(desk: DataDesk) -> None:
        if desk._engine is not None:
            for rule in (Rule(ASP, None), desk._rule):
                desk._engine.set_rule(rule.core(), desk._now())
        give_up(desk)

    patch.setattr(DataDesk, "give_up_rounds", partly)


def a_policy_is_set_on_the_first_shard_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LinkedShard, "_on_set_rule", lambda *_: (Done(0), None))


def nobody_is_patient(patch: pytest.MonkeyPatch) -> None:
    begin = Session.__init__

    def impatient(session: Session, *arguments: Any, **more: Any) -> None:
        *others, patience_s = arguments
        begin(session, *others, min(patience_s, 10.0), **more)

    patch.setattr(Session, "__init__", impatient)


def the_last_checkpoint_is_not_tried_again(patch: pytest.MonkeyPatch) -> None:
    advance = Results.advance

    def once(results: Results) -> None:
        if results._wait is not None:
            results.give_up()
        else:
            advance(results)

    patch.setattr(Results, "advance", once)


# Of keys.


def a_key_speaks_for_others(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identities, "_sender", lambda *_: None)


def a_revoked_key_takes_part(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identities, "revoked", lambda _: [])


def an_observer_sets_the_policy(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(identities.MAY, Set, ROLES)  # type: ignore[arg-type]


def a_key_takes_the_rank_of_another(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identities, "_require_rank", lambda *_: None)


def a_message_is_refused_once_it_has_been_handled(patch: pytest.MonkeyPatch) -> None:
    answer = Coordinator.answer

    def late(
        coordinator: Coordinator, message: Message, payload: bytes | None, user: str = ""
    ) -> ControlAnswer:
        strict = coordinator._identities
        coordinator._identities = Identities(None, coordinator._members)  # type: ignore[misc]
        done = answer(coordinator, message, payload, user)
        coordinator._identities = strict  # type: ignore[misc]
        try:
            strict.require(message, user)
        except NotAllowedError as error:
            return error_message(error), None
        if isinstance(message, Hello):
            strict.bind(message.worker, user)
        return done

    patch.setattr(Coordinator, "answer", late)


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


def an_offer_of_an_older_generation_is_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Healing, "is_newer", lambda _, offer, version: offer.version > version)


def an_older_offer_of_the_same_generation_is_taken(patch: pytest.MonkeyPatch) -> None:
    is_newer = Healing.is_newer

    def lenient(healing: Healing, offer: Offer, version: int) -> bool:
        return is_newer(healing, replace(offer, version=version + 1), version)

    patch.setattr(Healing, "is_newer", lenient)


def an_offer_is_taken_after_the_recovery(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DataDesk, "start", lambda desk: desk._tell_gate())


def the_journal_forgets_a_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "lease", lambda *_: None)


def the_journal_is_written_late(patch: pytest.MonkeyPatch) -> None:
    note, write = Journal._note, Journal._write

    def later(journal: Journal, what: str, **fields: Any) -> None:
        with patch.context() as during:
            during.setattr(Journal, "_write", lambda _: None)
            note(journal, what, **fields)
        if what in ("generation", "started"):
            write(journal)

    patch.setattr(Journal, "_note", later)


def a_worker_is_not_waited_for_in_the_midst_of_its_offers(patch: pytest.MonkeyPatch) -> None:
    missing = Recovery.missing

    def hasty(recovery: Recovery, live: Iterable[int], now_s: float) -> list[int]:
        return sorted(set(missing(recovery, (), now_s)) - set(live))

    patch.setattr(Recovery, "missing", hasty)


def whoever_has_not_come_back_owes_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Continuation, "_note_absent", lambda _: None)


def a_lease_counts_whose_answer_was_lost(patch: pytest.MonkeyPatch) -> None:
    restore = LeaseDesk.restore

    def trusting(
        desk: LeaseDesk, changes: Sequence[LeaseChange], told: dict[int, Remember]
    ) -> None:
        newest = {c.request.worker: c.request for c in changes if isinstance(c, Granted)}
        believed = {
            worker: replace(own, lease=newest[worker].number, holder=newest[worker].incarnation)
            for worker, own in told.items() if worker in newest
        }  # fmt: skip
        restore(desk, changes, believed)

    patch.setattr(LeaseDesk, "restore", trusting)


def a_checkpoint_is_taken_in_the_midst_of_a_recovery(patch: pytest.MonkeyPatch) -> None:
    on_save = Coordinator._on_save

    def careless(coordinator: Coordinator, msg: Save, payload: Any) -> Any:
        with patch.context() as during:
            during.setattr(coordinator.continuation, "_recovery", None)
            return on_save(coordinator, msg, payload)

    patch.setattr(Coordinator, "_on_save", careless)


def a_push_without_answer_is_repeated_though_others_may_have_it(
    patch: pytest.MonkeyPatch,
) -> None:
    patch.setattr(SimulatedWorker, "_is_in_lockstep", True)
    patch.setattr(
        SimulatedWorker, "_is_in_step", property(lambda _: True, lambda *_: None), raising=False
    )


def all_are_in_lockstep_whatever_was_set_and_whatever_they_tell(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "in_step", lambda recovery, _: sorted(recovery.told))
    take = Remembered.take

    def forgetful(remembered: Remembered, line: dict[str, Any]) -> None:
        take(remembered, line)
        remembered.was_set = False

    patch.setattr(Remembered, "take", forgetful)


def what_a_repeated_step_is_worth_counts_before_it_is_answered(patch: pytest.MonkeyPatch) -> None:
    want = Session.want_remember

    def early(
        session: Session, lost: int, epochs: int, samples: int, *rest: Any, begun: bool
    ) -> None:
        want(session, lost, epochs, samples + 1, *rest, begun=begun)

    patch.setattr(Session, "want_remember", early)


def an_answer_for_several_chunks_names_the_least_version_of_all(patch: pytest.MonkeyPatch) -> None:
    offers = Answered.offers

    def coarse(answered: Answered, *arguments: Any) -> list[bytes]:
        least = min(version for version, _ in answered.newest)
        newest = [(least, step) for _, step in answered.newest]
        return offers(replace(answered, newest=newest), *arguments)

    patch.setattr(Answered, "offers", coarse)


# What each does, what is told of it, and a seed from which on it is found soon: from 0 on it takes
# as many as docs/simulation.md says.
WITH_KILLS: tuple[tuple[Plant, str, int], ...] = (
    (an_offer_of_an_older_generation_is_taken, "was taken, or not, wrongly", 0),
    (an_older_offer_of_the_same_generation_is_taken, "was taken, or not, wrongly", 0),
    (an_offer_is_taken_after_the_recovery, "", 0),
    (the_journal_forgets_a_lease, "leased", 0),
    (the_journal_is_written_late, "", 0),
    (a_worker_is_not_waited_for_in_the_midst_of_its_offers, "", 0),
    (whoever_has_not_come_back_owes_nothing, "never trained on", 0),
    (a_lease_counts_whose_answer_was_lost, "never trained on", 0),
    (a_checkpoint_is_taken_in_the_midst_of_a_recovery, "", 0),
    (a_push_without_answer_is_repeated_though_others_may_have_it, "", 0),
    (all_are_in_lockstep_whatever_was_set_and_whatever_they_tell, "", 65_700),
    (what_a_repeated_step_is_worth_counts_before_it_is_answered, "never trained on", 0),
    (an_answer_for_several_chunks_names_the_least_version_of_all, "never answered", 0),
)
PLANTED: tuple[tuple[Plant, str, int], ...] = (
    (a_duplicate_is_applied_again, "", 0),
    (a_mean_has_the_wrong_weight, "should be", 0),
    (the_bound_is_off_by_one, "answered too early", 0),
    (a_released_answer_is_forgotten, "", 0),
    (an_answer_has_the_parameters_of_another, "parameters", 0),
    (the_silent_are_not_evicted, "has been dead for", 0),
    (an_incarnation_is_not_checked, "", 0),
    (a_lease_is_handed_out_twice, "leased", 0),
    (what_a_dead_worker_held_is_lost, "", 0),
    (a_handler_raises, "planted", 0),
    (nobody_waits_for_the_evicted, "ended as 'incomplete'", 0),
    (a_worker_goes_on_with_other_parameters, "", 0),
    (a_checkpoint_has_parameters_of_later, "", 0),
    (an_answer_leaves_before_its_line_is_in_the_journal, "by the journal", 0),
    (what_a_full_disk_has_not_taken_is_forgotten, "by the journal", 363),
    (the_bye_of_the_evicted_is_not_in_the_journal, "by the journal evicted", 73),
    (a_repeated_hello_is_taken_for_a_new_one, "this hello had", 10),
    (the_bye_of_an_old_process_ends_the_new_one, "to be refused", 25),
    (what_the_evicted_held_is_leased_twice, "leased", 19),
    (a_round_that_is_given_up_is_applied_in_part, "", 177),
    (a_policy_is_set_on_the_first_shard_alone, "goes by", 0),
    (nobody_is_patient, "ended as", 44),
    (the_last_checkpoint_is_not_tried_again, "without its last checkpoint", 176),
    (a_key_speaks_for_others, "", 9),
    (a_revoked_key_takes_part, "still wait for it", 42),
    (an_observer_sets_the_policy, "honoured by its key", 9),
    (a_key_takes_the_rank_of_another, "honoured by its key", 31),
    (a_message_is_refused_once_it_has_been_handled, "not allowed changed something", 9),
    (a_run_waits_for_all_that_may_take_part, "training does not begin", 0),
    (a_run_begins_with_one_worker_too_few, "", 0),
    (a_machine_that_returns_gets_a_rank_like_any_other, "comes back as", 0),
    (who_restarts_quickly_does_not_get_its_own_place, "", 0),
)


@pytest.mark.parametrize(
    ("plant", "told", "first"), PLANTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_is_found(
    plant: Plant, told: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = violation(first)
    assert found
    assert told in found


@pytest.mark.parametrize(
    ("plant", "told", "first"), WITH_KILLS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_bug_of_a_recovery_is_found(
    plant: Plant, told: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = violation_with_kills(first)
    assert found
    assert told in found
