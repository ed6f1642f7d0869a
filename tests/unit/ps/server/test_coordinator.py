"""The coordinator, without sockets: who takes part, what each is told, and when a run is over."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leash.ps.errors import LayoutError, UsageError
from leash.ps.policy import POLICIES, choose_rule
from leash.ps.runs.disk import THIS_HOST
from leash.ps.runs.position import LeasePosition, Position, SharePosition
from leash.ps.server.coordinator import ALL_DONE, MAX_MISSING
from leash.ps.server.saves import Saves
from leash.ps.server.standing import STACKS_MAX_NBYTES
from leash.ps.shard.members import HELLOS_REMEMBERED, MAX_OBSERVERS
from leash.ps.wire.frames import REPLIES, decode, encode
from leash.ps.wire.messages import (
    CONTROL_REQUESTS,
    STACK_MAX_NBYTES,
    STOPPED_BY_TIMEOUT,
    TRAIN,
    Beat,
    Beaten,
    Bye,
    CheckpointPiece,
    Dismiss,
    Dismissed,
    Error,
    Hello,
    Lease,
    Leased,
    Log,
    Message,
    Ok,
    Read,
    Remember,
    Report,
    Save,
    Saved,
    Set,
    State,
    Status,
    Stop,
    Welcome,
)
from leash.ps.wire.shard_messages import Join, Leave, Reserve, SetRule, Start
from support.sockless import (
    FIRST_INCARNATION,
    LAYOUT,
    OTHER_LAYOUT,
    OWN_PORT,
    SocklessServer,
    StillClock,
)

EVICT_S = 5.0
REJOIN_S = 30.0
CHECKPOINT = 23  # the number of one that is there
PACKED = LAYOUT.pack()
# Policy ▸ the fields of a `set` that names it, and a bound for the command line.
SETS = {
    "bsp": (Set("bsp"), None),
    "ssp": (Set("ssp", staleness=4), 4),
    "asp": (Set("asp"), None),
    "dssp": (Set("dssp", staleness=2, staleness_max=9), 2),
    "backup": (Set("backup", backup_workers=1), None),
    "drop": (Set("drop", staleness=6), 6),
}


def make_server(workers: int = 2, policy: str = "ssp", **options: Any) -> SocklessServer:
    plain = {"evict_s": EVICT_S, "rejoin_s": REJOIN_S, "workers": workers}
    return SocklessServer(policy, **{**plain, **options})


def make_report(worker: int, incarnation: int, kind: str = "training", **changes: Any) -> Report:
    plain = Report(worker, incarnation, kind, 0, 1, 1, 0.5, 0.0, 1.0, 1.0)
    return replace(plain, **changes)


def make_request(verb: type[Message], worker: int, incarnation: int) -> Message:
    """One that is honoured of a live worker of a run that has started."""
    requests: dict[type[Message], Message] = {
        Hello: Hello("worker" if worker else "observer", worker, "again", number=99),
        Beat: Beat(worker, incarnation),
        Lease: Lease(worker, incarnation, 1, 60, 2, 10, 0.0),
        Report: make_report(worker, incarnation, "epoch" if worker else "evaluation", number=1),
        Log: Log(worker, incarnation, 5, 1),
        Remember: Remember(worker, incarnation, 0, 0, 0, 0),
        Status: Status(),
        Set: Set("asp"),
        Save: Save(17),
        Read: Read(CHECKPOINT, 2),
        Stop: Stop("too dear"),
        Bye: Bye(worker, incarnation, "stopped"),
        Dismiss: Dismiss(worker or 1),
    }
    return requests[verb]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Saves]:
    """A server's checkpoints: somebody may read the one that he has asked for."""
    saves, path = Saves(), tmp_path / "latest.safetensors"
    saves.ask(CHECKPOINT, has_values=True)
    path.write_bytes(b"checkpoint")
    saves.serve(saves.take_up(), lambda: THIS_HOST.open(path))
    yield saves
    saves.close()


SIGNED = [v for v in CONTROL_REQUESTS if "incarnation" in {f.name for f in fields(v)}]


def state_of(server: SocklessServer) -> dict[str, Any]:
    """How the run stands, but for the count of what was refused."""
    return {**server.coordinator.state(), "refused_messages": None}


def states(server: SocklessServer) -> dict[int, str]:
    return {row["worker"]: row["state"] for row in server.coordinator.state()["table"]}


# Hello.


def test_a_welcome_tells_what_a_newcomer_must_know() -> None:
    server = make_server(
        2, "dssp", bound=4, learners="3-7", shards=2, window=5, evict_s=10.0, epochs=9,
        model="linear", dataset="digits", local_steps="8", lr=0.5, batch_plan="weighted",
    )  # fmt: skip
    welcome = server.hello(7)
    assert replace(welcome, settings={}) == Welcome(
        7, FIRST_INCARNATION, 1, 65536, 5, [OWN_PORT, OWN_PORT + 1], 2.0, 10.0, {}, [0, 2], "f32"
    )
    expected = {
        "policy": "dssp", "bound": 4, "bound_max": 16, "bound_unit": "clocks", "backup_workers": 0,
        "staleness_limit": None, "workers": 2, "learners": "3-7", "optimizer": "sgd", "lr": 0.5,
        "data_plan": "lease", "batch_plan": "weighted", "local_steps": "8", "seed": 1,
        "planned_epochs": 9, "model": "linear", "dataset": "digits",
    }  # fmt: skip
    assert welcome.settings.items() >= expected.items()
    assert welcome.settings.items() <= server.coordinator.state().items()


def test_a_seed_that_was_given_is_told_zero_included() -> None:
    assert make_server(seed=0).hello(1).settings["seed"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_welcome_to_the_largest_run_fits_on_the_wire(policy: str) -> None:
    ranks = range(4_000_000_000, 4_000_000_300)
    server = make_server(
        300, policy, bound=SETS[policy][1], learners="-".join(map(str, ranks)), shards=64,
        optimizer="adamw", lr_schedule="power", model="some.module:model",
        dataset="some.module:data",
    )  # fmt: skip
    welcome = server.hello(ranks[-1])
    assert decode(encode(welcome), REPLIES) == welcome
    assert welcome.settings["workers"] == 300
    assert welcome.settings["learners"].split("-") == [str(rank) for rank in ranks[:100]]
    assert server.coordinator.state()["learners"].split("-") == [str(rank) for rank in ranks]


def test_the_answer_to_hello_brings_the_layout_once_there_is_one() -> None:
    server = make_server()
    observer = Hello("observer", 0, "early")
    assert server.coordinator.answer(observer, None)[1] is None
    assert server.coordinator.answer(Hello("worker", 1, ""), PACKED)[1] == PACKED
    assert server.coordinator.answer(observer, None)[1] == PACKED


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["f32"], "f32"),
        (["bf16", "f32"], "bf16"),
        (["zip", "topk", "int8", "f32"], "topk"),
        (["f64", "f16"], "f16"),  # f64 is no codec for gradients
    ],
)
def test_the_first_codec_that_the_server_knows_is_chosen(offered: list[str], chosen: str) -> None:
    assert make_server().hello(1, codecs=offered).codec == chosen


REFUSED_HELLOS = {
    "a worker without a rank": (Hello("worker", 0, ""), PACKED, "bad_header"),
    "an observer with a rank": (Hello("observer", 1, ""), PACKED, "bad_header"),
    "neither of the two": (Hello("boss", 1, ""), PACKED, "bad_header"),
    "neither of the two, without a rank": (Hello("", 0, ""), PACKED, "bad_header"),
    "no codec": (Hello("worker", 1, "", []), PACKED, "bad_header"),
    "no codec that is known": (Hello("worker", 1, "", ["zip", "f64"]), PACKED, "bad_header"),
    "a rank of another run": (Hello("worker", 3, ""), PACKED, "unknown_worker"),
    "no layout": (Hello("worker", 1, ""), None, "bad_layout"),
    "what is no layout": (Hello("worker", 1, ""), b"\xc1", "bad_layout"),
    "an observer with what is no layout": (Hello("observer", 0, ""), b"", "bad_layout"),
}


@pytest.mark.parametrize(("hello", "payload", "code"), REFUSED_HELLOS.values(), ids=REFUSED_HELLOS)
def test_a_hello_that_is_refused_changes_nothing_and_chooses_no_model(
    hello: Hello, payload: bytes | None, code: str
) -> None:
    server = make_server(shards=2)
    before = state_of(server)
    assert server.refusal(hello, payload).code == code
    assert state_of(server) == before
    assert server.coordinator.state()["refused_messages"] == 1
    assert (server.far.told, server.events.kept) == ([], [])
    server.hello(1, OTHER_LAYOUT)


@pytest.mark.parametrize("worker", [0, 1, 2])
def test_another_layout_than_the_runs_is_refused_and_the_slot_is_named(worker: int) -> None:
    server = make_server()
    server.hello(1)
    before = state_of(server)
    role = "worker" if worker else "observer"
    error = server.refusal(Hello(role, worker, "other"), OTHER_LAYOUT.pack())
    assert error.code == "layout_mismatch"
    assert error.text == "slot 0: expected parameter w f32 16, got parameter w f32 17"
    assert state_of(server) == before
    assert server.beat(1).missing == [2]  # not even replaced


def test_a_model_that_a_shard_has_no_memory_for_is_not_the_runs() -> None:
    server = make_server(shards=2)
    server.far.all[0].link.fails_with = LayoutError("too large")
    error = server.refusal(Hello("worker", 1, ""), PACKED)
    assert (error.code, error.text) == ("bad_layout", "too large")
    server.hello(1, OTHER_LAYOUT)


def test_there_is_room_for_so_many_observers_and_no_more() -> None:
    server = make_server()
    for _ in range(MAX_OBSERVERS):
        server.hello(0)
    assert server.refusal(Hello("observer", 0, ""), PACKED).code == "too_many"
    server.bye(0, incarnation=FIRST_INCARNATION)
    server.hello(0)


# Whom a message is taken from.

Gone = tuple[SocklessServer, int]


def never_there() -> Gone:
    server = make_server()
    server.hello(2)
    return server, FIRST_INCARNATION


def of_an_incarnation_to_come() -> Gone:
    server = make_server()
    server.start()
    return server, server.incarnation(1) + 100


def replaced_by_a_newcomer() -> Gone:
    server = make_server()
    server.start()
    incarnation = server.incarnation(1)
    server.hello(1)
    return server, incarnation


def left_behind() -> Gone:
    server = make_server()
    server.start()
    server.evict(1)
    return server, server.incarnation(1)


def gone_by_itself() -> Gone:
    server = make_server()
    server.start()
    server.bye(1, "failed")
    return server, server.incarnation(1)


# What an evicted process has done counts all the same.
COUNTED: tuple[type[Message], ...] = (Report, Log, Bye)


@pytest.mark.parametrize("verb", SIGNED)
@pytest.mark.parametrize(
    ("story", "code"),
    [
        (never_there, "unknown_worker"),
        (of_an_incarnation_to_come, "unknown_worker"),
        (replaced_by_a_newcomer, "fenced"),
        (left_behind, "evicted"),
        (gone_by_itself, "evicted"),
    ],
)
def test_a_message_of_a_process_that_takes_no_part_is_refused_and_changes_nothing(
    story: Any, code: str, verb: type[Message]
) -> None:
    if story is left_behind and verb in COUNTED:
        return
    server, incarnation = story()
    before, told = state_of(server), len(server.events.kept)
    error = server.refusal(make_request(verb, 1, incarnation))
    assert (error.code, error.worker) == (code, 1)
    assert state_of(server) == before
    assert len(server.events.kept) == told


@pytest.mark.parametrize("verb", SIGNED)
def test_a_message_is_a_sign_of_life(verb: type[Message]) -> None:
    server = make_server()
    server.start()
    server.clock.skip(EVICT_S - 1)
    server.ask(make_request(verb, 1, server.incarnation(1)))
    server.clock.skip(2)
    server.coordinator.tick()
    assert states(server) == {1: "stopped" if verb is Bye else "live", 2: "evicted"}


REPEATED = {  # verb ▸ what the second of two equal requests is answered with, the first being taken
    Hello: Welcome,
    Beat: Beaten,
    Lease: Leased,
    Report: Ok,
    Log: Ok,
    Remember: Ok,
    Status: State,
    Set: Ok,
    Save: Saved,
    Read: CheckpointPiece,
    Stop: Ok,
    Bye: Ok,
    Dismiss: Dismissed,
}
OF_OBSERVERS = [verb for verb in CONTROL_REQUESTS if verb not in (Lease, Log, Remember, Bye)]


@pytest.mark.parametrize(
    ("verb", "worker"),
    [*((verb, 1) for verb in CONTROL_REQUESTS), *((verb, 0) for verb in OF_OBSERVERS)],
)
def test_a_request_that_is_repeated_changes_nothing_more(
    verb: type[Message], worker: int, checkpoint: Saves
) -> None:
    """A client asks again when an answer was lost, and does not know which of the two was."""
    server = make_server(policy="ssp", shards=2)
    server.coordinator.saves = checkpoint
    server.start()
    incarnation = server.hello(worker).incarnation
    request = make_request(verb, worker, incarnation)
    first = server.coordinator.answer(request, PACKED if verb is Hello else None)
    before, events, told = state_of(server), list(server.events.kept), list(server.far.told)
    second = server.coordinator.answer(request, PACKED if verb is Hello else None)
    assert type(second[0]) is REPEATED[verb]
    assert second == first
    assert state_of(server) == before
    assert server.events.kept == events
    assert server.far.told == told


def test_reports_are_new_while_their_numbers_grow_and_where_they_have_none() -> None:
    server = make_server()
    server.start()
    incarnation = server.incarnation(1)
    for epoch, number in enumerate([1, 2, 2, 1, 3, 0, 0], start=1):
        server.ask(make_report(1, incarnation, "epoch", epoch=epoch, number=number))
    assert [event["epoch"] for event in server.events.named("epoch")] == [1, 2, 5, 6, 7]


def test_a_late_copy_of_a_hello_does_not_bring_its_process_back() -> None:
    server = make_server()
    server.hello(1, number=5)
    server.bye(1)
    assert server.refusal(Hello("worker", 1, "late", number=5), PACKED).code == "evicted"
    assert states(server) == {1: "done"}
    server.hello(1, number=6)
    assert states(server) == {1: "live"}


def test_a_late_copy_of_an_earlier_hello_leaves_the_process_alone_that_has_the_rank_now() -> None:
    server = make_server()
    numbers = list(range(1, 2 * HELLOS_REMEMBERED))
    for number in numbers:
        server.hello(1, number=number)
    before = state_of(server)
    for number in numbers[-HELLOS_REMEMBERED:-1]:
        late = server.refusal(Hello("worker", 1, "late", number=number), PACKED)
        assert late.code == "fenced"
        assert state_of(server) == before
    assert server.hello(1, number=numbers[-1]).incarnation == server.incarnation(1)
    assert state_of(server) == before


def test_a_late_copy_of_an_observers_hello_brings_nobody() -> None:
    server = make_server()
    first = server.hello(0, number=5).incarnation
    server.bye(0, incarnation=first)
    assert server.refusal(Hello("observer", 0, "late", number=5)).code == "evicted"
    assert server.coordinator.state()["observers"] == 0


@pytest.mark.parametrize("reason", ["done", "stopped"])
def test_what_a_worker_that_was_evicted_has_done_counts(reason: str) -> None:
    server = make_server()
    server.start()
    incarnation = server.incarnation(1)
    server.ask(make_report(1, incarnation, "plan", epoch=1, samples=10, number=1))
    server.evict(1)
    for _ in range(2):
        server.ask(make_report(1, incarnation, "epoch", epoch=1, number=2))
        server.ask(Bye(1, incarnation, reason))
    assert states(server) == {1: reason, 2: "live"}
    assert [e["epoch"] for e in server.events.named("epoch")] == [1]
    assert server.coordinator.state()["evictions"] == 1
    server.bye(2)
    assert server.coordinator.closed
    assert server.coordinator.unfinished() == []


def test_a_run_is_not_over_while_a_worker_may_come_back_that_owes_work() -> None:
    server = make_server()
    server.start()
    server.evict(1)
    server.bye(2)
    assert server.coordinator.state()["coming_back"] == [1]
    assert not server.coordinator.finished
    server.hello(1)
    assert server.coordinator.state()["coming_back"] == []
    server.bye(1)
    assert server.coordinator.finished


def test_a_run_waits_no_longer_than_it_was_told_for_who_does_not_come_back() -> None:
    server = make_server()
    server.start()
    server.evict(1)
    server.bye(2)
    server.clock.skip(REJOIN_S)
    assert not server.coordinator.finished
    server.clock.skip(0.1)
    server.coordinator.tick()
    assert server.coordinator.finished
    assert [part.worker for part in server.coordinator.unfinished()] == [1]


def test_nobody_waits_for_an_evicted_worker_whose_share_is_trained() -> None:
    server = make_server()
    server.start()
    for worker in (1, 2):
        incarnation = server.incarnation(worker)
        server.ask(make_report(worker, incarnation, "plan", epoch=1, samples=10, number=1))
        server.ask(make_report(worker, incarnation, "epoch", epoch=1, number=2))
    server.evict(1, 2)
    assert server.coordinator.finished


@pytest.mark.parametrize(
    ("phase", "phase_s", "told"),
    [("backward", 3.0, "backward"), ("", 0.0, ""), ("rm -rf", 1.0, ""), ("data", -5.0, "data"),
     ("data", math.nan, "data")],
)  # fmt: skip
def test_a_beat_tells_what_its_worker_does(phase: str, phase_s: float, told: str) -> None:
    server = make_server()
    server.start()
    server.ask(Beat(1, server.incarnation(1), phase, phase_s))
    server.clock.skip(2.0)
    row = server.coordinator.state()["table"][0]
    assert row["phase"] == told
    assert row["phase_s"] == (None if not told else 5.0 if phase == "backward" else 2.0)


def test_whoever_asks_for_stacks_gets_those_that_come_with_the_next_beats() -> None:
    server = make_server()
    server.start()
    beat = Beat(1, server.incarnation(1), "backward", 1.0)
    assert server.ask(beat) == replace(server.beat(2), awaited="")
    server.ask(Status(stacks=True))
    asked = server.ask(beat)
    assert isinstance(asked, Beaten)
    assert asked.stack
    again = server.ask(beat, b"in f\n")
    assert isinstance(again, Beaten)
    assert not again.stack
    rows = server.coordinator.state()["table"]
    assert [row["stack"] for row in rows] == ["in f\n", ""]
    assert server.refusal(beat, bytes(STACK_MAX_NBYTES + 1)).code == "bad_payload"


def test_all_stacks_together_fit_into_a_message() -> None:
    server = make_server(40)
    server.start()
    for worker in range(1, 41):
        server.ask(Beat(worker, server.incarnation(worker), "step"), b"x" * STACK_MAX_NBYTES)
    stacks = [row["stack"] for row in server.coordinator.state()["table"]]
    told = STACKS_MAX_NBYTES // STACK_MAX_NBYTES
    assert [len(stack) for stack in stacks] == [STACK_MAX_NBYTES] * told + [0] * (40 - told)


def test_a_hello_that_is_repeated_takes_its_predecessors_place() -> None:
    server = make_server(shards=2)
    server.start()
    first = server.incarnation(1)
    second = server.hello(1).incarnation
    assert second > first
    assert server.far.told[-3:] == [
        Leave(1, first, "replaced"), server.far.told[-2], Join(1, second, "process 1", 1),
    ]  # fmt: skip
    assert [e["incarnation"] for e in server.events.named("left", "joined")][-2:] == [first, second]
    assert server.counted() == [[1, 2], [1, 2]]
    assert server.coordinator.state()["evictions"] == 0


# The start.


@given(st.permutations([1, 2, 3, 0, 0]))
@settings(max_examples=25)
def test_a_run_starts_when_the_last_of_workers_and_observers_has_come(arrivals: list[int]) -> None:
    server = make_server(3, observers=2, shards=2)
    for count, worker in enumerate(arrivals, start=1):
        assert not server.coordinator.state()["started"]
        welcome = server.hello(worker)
        here = arrivals[:count]
        beaten = server.beat(worker, welcome.incarnation)
        assert beaten.started == (count == len(arrivals))
        assert beaten.missing == sorted({1, 2, 3}.difference(here))
    events = [event for event, _ in server.events.kept]
    assert events == ["joined"] * 5 + ["started"]
    assert server.events.named("started")[0]["workers"] == [1, 2, 3]
    kinds = [type(message) for message in server.far.told]
    assert kinds.count(Join) == 5
    assert kinds[-1] is Start


def test_a_run_does_not_start_while_one_that_had_come_is_away() -> None:
    server = make_server()
    server.hello(1)
    server.evict(1)
    server.hello(2)
    assert not server.beat(2).started
    assert server.beat(2).missing == [1]
    server.hello(1)
    assert server.beat(2).started


def test_a_run_that_has_started_does_not_start_again() -> None:
    server = make_server()
    server.start()
    server.evict(1, 2)
    server.hello(2)
    server.hello(1)
    assert len(server.events.named("started")) == 1


def test_a_beat_names_no_more_missing_workers_than_fit_into_it() -> None:
    server = make_server(MAX_MISSING + 10)
    server.hello(1)
    beaten = server.beat(1)
    assert beaten.missing == list(range(2, MAX_MISSING + 2))
    assert decode(encode(beaten), REPLIES) == beaten
    assert len(server.coordinator.state()["missing"]) == MAX_MISSING + 9


def test_leases_wait_for_the_start() -> None:
    server = make_server()
    server.hello(1)
    error = server.refusal(make_request(Lease, 1, server.incarnation(1)))
    assert (error.code, error.text) == ("not_ready", "waiting for worker 2")


# A run that is over.


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("watched", [False, True])
def test_a_worker_that_joins_after_the_end_hears_that_the_run_is_over(
    rank: int, watched: bool
) -> None:
    server = make_server()
    server.start()
    if watched:  # the run stays open until its observer has evaluated once more
        server.hello(0)
    server.bye(1)
    server.bye(2)
    error = server.refusal(Hello("worker", rank, ""), PACKED)
    assert (error.code, error.text) == ("stopping", ALL_DONE)
    assert states(server) == {1: "done", 2: "done"}


def test_a_worker_that_was_left_behind_comes_back_while_the_run_is_open() -> None:
    server = make_server()
    server.start()
    server.hello(0)
    server.evict(2)
    server.bye(1)
    server.hello(2)
    assert states(server) == {1: "done", 2: "live"}


def test_a_worker_that_joins_a_run_that_is_ending_hears_why() -> None:
    server = make_server()
    server.start()
    server.coordinator.stopping = "SIGINT"
    error = server.refusal(Hello("worker", 1, ""), PACKED)
    assert (error.code, error.text) == ("stopping", "SIGINT")


# The first values.


def test_the_lowest_live_worker_is_asked_for_the_first_values() -> None:
    server = make_server(3, shards=2)
    for worker in (3, 1, 2):
        assert not any(server.beat(m.worker).initialize for m in server.members.live)
        server.hello(worker)
    observer = server.hello(0).incarnation

    def asked() -> list[int]:
        return [m.worker for m in server.members.live if server.beat(m.worker).initialize]

    assert asked() == [1]
    server.bye(1, "failed")
    assert asked() == [2]
    server.hello(1)
    assert asked() == [1]
    assert not server.beat(0, observer).initialize
    server.init()
    assert asked() == []
    assert server.beat(2).initialized


def test_values_on_one_of_the_shards_are_not_those_of_the_model() -> None:
    server = make_server(1, shards=2)
    server.hello(1)
    model = server.plane.model
    assert model is not None
    for chunk in model.own:
        model.shard.init(chunk.index, bytes(chunk.nbytes))
    server.shards.count_up()
    assert server.beat(1).initialize
    assert not server.beat(1).initialized


@pytest.mark.parametrize("reason", ["done", "failed"])
def test_whoever_hears_that_a_run_is_over_hears_whether_it_has_a_model(reason: str) -> None:
    server = make_server(2, shards=3)
    observer = server.hello(0, None).incarnation
    server.hello(1)
    server.hello(2)
    for plane in server.planes:  # none of the other shards has told of its values yet
        assert plane.model is not None
        for chunk in plane.model.own:
            plane.model.shard.init(chunk.index, bytes(chunk.nbytes))
    server.bye(1)
    server.bye(2, reason)
    beaten = server.beat(0, observer)
    assert (beaten.finished, beaten.initialized) == (True, True)


# Reports and state.


@pytest.mark.parametrize("kind", ["training", "epoch", "evaluation", "gossip", ""])
@pytest.mark.parametrize("worker", [0, 1])
def test_workers_report_training_and_observers_evaluations(worker: int, kind: str) -> None:
    server = make_server()
    server.start()
    incarnation = server.hello(0).incarnation if worker == 0 else server.incarnation(worker)
    report = make_report(worker, incarnation, kind)
    before = state_of(server)
    if kind in (("evaluation",) if worker == 0 else ("training", "epoch")):
        assert server.ask(report) == Ok(worker, 0, 0, True)
        assert state_of(server) != before
    else:
        assert server.refusal(report).code == "bad_header"
        assert state_of(server) == before


def test_an_epoch_is_complete_when_everybody_who_still_takes_part_has_completed_it() -> None:
    server = make_server(3, data_plan="static")
    server.start()

    def completes(worker: int, epoch: int) -> int:
        report = make_report(worker, server.incarnation(worker), "epoch", epoch=epoch)
        assert server.ask(report) == Ok(worker, 0, 0, True)
        return server.beat(worker).epoch

    assert [completes(w, 1) for w in (1, 3)] == [0, 0]
    assert completes(2, 1) == 1
    assert completes(1, 2) == 1
    server.bye(1, "done")  # the others have to come as far as it
    assert completes(2, 2) == 1
    server.evict(3)  # nobody waits for it
    assert server.coordinator.state()["epochs"] == 2
    assert server.events.named("epoch_completed") == [{"epoch": 1}, {"epoch": 2}]


def test_an_epoch_that_all_but_one_have_completed_is_complete_when_that_one_goes() -> None:
    server = make_server(data_plan="static")
    server.start()
    server.ask(make_report(1, server.incarnation(1), "epoch", epoch=1))
    server.bye(2, "failed")
    assert server.beat(1).epoch == 1


def test_anybody_may_ask_how_the_run_stands() -> None:
    server = make_server(3, observers=1, shards=2)
    server.hello(3)
    server.hello(1)
    server.clock.skip(1.25)
    server.bye(3, "stopped")
    answer, payload = server.coordinator.answer(Status(), None)
    assert answer == State()
    state = msgpack.unpackb(payload or b"")
    expected = {
        "started": False, "finished": False, "stopping": "", "missing": [2, 3], "observers": 0,
        "shards": 2, "data_ports": [OWN_PORT, OWN_PORT + 1], "chunk_nbytes": 65536, "parked": 0,
        "initialized": False, "model_nbytes": 256, "policy": "ssp", "bound": 3, "learners": "1-2-3",
    }  # fmt: skip
    assert state.items() >= expected.items()
    rows = [(r["worker"], r["name"], r["state"], r["silence_s"]) for r in state["table"]]
    assert rows == [(1, "process 1", "live", 1.2), (3, "process 3", "stopped", 0.0)]


def test_a_state_can_be_sent_before_anything_has_happened() -> None:
    state = msgpack.unpackb(msgpack.packb(make_server().coordinator.state()))
    assert (state["model_nbytes"], state["table"]) == (0, [])


def test_requests_that_wait_for_an_answer_are_told() -> None:
    server = make_server(policy="bsp", shards=2)
    server.start()
    server.push(1, 1)
    server.shards.count_up()
    assert server.coordinator.state()["parked"] == 4  # chunks


# Another policy.


@pytest.mark.parametrize("policy", POLICIES)
def test_from_a_set_on_everybody_is_told_the_new_policy(policy: str) -> None:
    server = make_server(policy="bsp" if policy != "bsp" else "asp", shards=2)
    server.start()
    message, bound = SETS[policy]
    assert server.ask(message) == Ok(0, 0, 0, True)
    if policy == "drop":
        expected = choose_rule(policy, None, max_staleness=bound)
    else:
        expected = choose_rule(policy, bound, message.staleness_max or None)
    assert server.coordinator.rule == expected
    assert server.hello(1).settings.items() >= expected.settings().items()
    assert server.coordinator.state().items() >= expected.settings().items()
    assert server.events.named("policy_changed") == [expected.settings()]
    assert [m for m in server.far.told if isinstance(m, SetRule)] == [
        SetRule(
            policy, message.staleness, message.staleness_max, message.backup_workers, "clocks"
        )
    ]  # fmt: skip


def test_a_laxer_policy_lets_those_go_who_wait_after_it_was_recorded() -> None:
    server = make_server(policy="bsp", shards=2)
    server.start()
    server.push(1, 1)
    assert server.answered(1) == []
    server.ask(Set("asp"))
    assert server.answered(1) == [1]
    assert [event for event, _ in server.events.kept][-2:] == ["policy_changed", "step"]


def test_a_stricter_policy_holds_those_back_who_push_from_now_on() -> None:
    server = make_server(policy="asp", shards=2)
    server.start()
    server.push(1, 1)
    server.push(1, 2)
    server.ask(Set("ssp", staleness=2))
    server.push(1, 3)
    assert server.answered(1) == [1, 2]
    server.push(2, 1)
    assert server.answered(1) == [1, 2, 3]


def test_a_policy_that_is_set_before_the_model_is_known_holds_from_its_first_step() -> None:
    server = make_server(policy="asp", shards=2)
    server.ask(Set("bsp"))
    server.start()
    server.push(1, 1)
    assert server.answered(1) == []


REFUSED_SETS = {
    "an unknown policy": Set("osp"),
    "an unknown unit": Set("ssp", staleness=2, bound_unit="miles"),
    "a unit that this policy has no use for": Set("asp", bound_unit="versions"),
    "ssp with the bound of bsp": Set("ssp"),
    "a bound that asp has no use for": Set("asp", staleness=1),
    "an upper limit below the lower one": Set("dssp", staleness=5, staleness_max=4),
    "more spare workers than there are": Set("backup", backup_workers=2),
    "a number beyond the core's": Set("ssp", staleness=1 << 40),
}


@pytest.mark.parametrize("message", REFUSED_SETS.values(), ids=REFUSED_SETS)
def test_a_policy_that_this_run_cannot_follow_is_refused_and_changes_nothing(message: Set) -> None:
    server = make_server(policy="asp", shards=2)
    server.start()
    server.far.told.clear()
    before = state_of(server)
    error = server.refusal(message)
    assert error.code == "bad_header"
    assert error.text.startswith("set: ")
    assert state_of(server) == before
    assert not server.far.told
    assert not server.events.named("policy_changed")


def test_a_run_that_softens_stale_updates_takes_no_policy_without_any() -> None:
    server = make_server(policy="asp", staleness_lr="inverse")
    server.start()
    assert "nothing is stale under bsp" in server.refusal(Set("bsp")).text
    assert server.ask(Set("ssp", staleness=2)) == Ok(0, 0, 0, True)


def test_the_policy_that_a_run_has_is_no_change() -> None:
    server = make_server(policy="ssp", bound=3, shards=2)
    server.start()
    server.far.told.clear()
    server.ask(Set("ssp", staleness=3))
    assert not server.far.told
    assert not server.events.named("policy_changed")


@pytest.mark.parametrize(("message", "twice"), [(Set("bsp"), 0), (Set("ssp", staleness=1), 5)])
def test_what_a_lost_step_comes_to_goes_by_the_policy_of_now(message: Set, twice: int) -> None:
    """Under bsp a contribution without an answer is left out; elsewhere it was applied at once."""
    server = make_server(policy="asp", data_plan="lease")
    server.start()
    server.ask(message)
    server.ask(make_request(Lease, 1, server.incarnation(1)))
    for step in range(1, 3):  # one of the two waits for worker 2
        server.push(1, step, samples=5)
    server.evict(1)
    assert server.metrics.samples_twice == twice


# Leaving.


@pytest.mark.parametrize("reason", ["done", "timeout", "stopped", "failed"])
def test_a_bye_is_the_end_of_a_worker_and_nobody_waits_for_it(reason: str) -> None:
    server = make_server(policy="bsp", shards=2)
    server.start()
    server.push(1, 1)
    assert server.answered(1) == []
    server.bye(2, reason)
    assert server.answered(1) == [1]
    assert states(server) == {1: "live", 2: reason}
    assert server.counted() == [[1], [1]]
    left = {"worker": 2, "incarnation": server.incarnation(2), "reason": reason}
    assert server.events.named("left") == [left]
    assert isinstance(server.far.told[-1], Leave)


@pytest.mark.parametrize("reason", ["", "evicted", "live", "resting", "replaced", "DONE"])
def test_a_bye_for_another_reason_is_refused_and_the_worker_stays(reason: str) -> None:
    server = make_server()
    server.start()
    error = server.refusal(Bye(1, server.incarnation(1), reason))
    assert error.code == "bad_header"
    assert repr(reason) in error.text
    assert states(server) == {1: "live", 2: "live"}


def test_a_worker_is_left_behind_after_its_silence_and_not_before() -> None:
    server = make_server(policy="bsp", shards=2)
    server.start()
    server.push(1, 1)
    server.clock.skip(EVICT_S)
    server.coordinator.tick()
    assert states(server) == {1: "live", 2: "live"}
    server.beat(1)
    server.clock.skip(0.1)
    server.coordinator.tick()
    assert states(server) == {1: "live", 2: "evicted"}
    assert server.answered(1) == [1]
    assert server.counted() == [[1], [1]]
    assert server.coordinator.state()["evictions"] == 1


def test_an_observer_that_is_silent_is_left_behind_too() -> None:
    server = make_server(1)
    server.hello(0)
    server.start()
    server.clock.skip(EVICT_S + 1)
    server.beat(1)
    server.coordinator.tick()
    assert server.coordinator.state()["observers"] == 0
    assert server.coordinator.state()["evictions"] == 0  # of workers


def test_a_worker_that_returns_goes_on_where_the_others_are() -> None:
    server = make_server(policy="asp", shards=2)
    first = server.start()[1]
    for step in range(1, 4):
        server.push(1, step)
        server.push(2, step)
    server.evict(1)
    server.push(2, 4)
    again = server.hello(1)
    assert again.incarnation > first.incarnation
    assert again.first_step == 5
    server.push(1, 5)
    assert server.answered(1)[-1] == 5
    assert states(server) == {1: "live", 2: "live"}


def test_one_that_broke_the_contract_is_left_behind_at_once() -> None:
    server = make_server()
    server.start()
    server.coordinator.evict(2)
    assert states(server) == {1: "live", 2: "evicted"}
    events = len(server.events.kept)
    server.coordinator.evict(2)
    server.coordinator.evict(9)
    assert len(server.events.kept) == events
    assert server.coordinator.state()["evictions"] == 1


def lost_while_one_joins(verb: type[Message], *, returns: bool) -> SocklessServer:
    """Shard 1 is lost when worker 2 says hello, and was told this much of it.

    Args:
        verb: what it is told last, or would have been.
        returns: worker 2 takes part for the second time.
    """
    server = make_server(shards=2)
    server.hello(1)
    if returns:
        server.hello(2)
        server.init()
        server.evict(2)

    def lose(message: Message) -> None:
        if isinstance(message, verb):
            server.far.all[0].lose("killed by SIGKILL")

    server.far.on_the_way = lose
    error = server.refusal(Hello("worker", 2, ""), PACKED)
    assert error.code == "stopping"
    assert error.text == server.shards.lost == "shard 1 (process 70001) was lost: killed by SIGKILL"
    return server


@pytest.mark.parametrize("verb", CONTROL_REQUESTS)
@pytest.mark.parametrize("told", [Reserve, Join])
@pytest.mark.parametrize("returns", [False, True])
def test_after_a_hello_that_was_broken_off_everybody_is_answered(
    returns: bool, told: type[Message], verb: type[Message]
) -> None:
    """The run is about to end, in order: nobody may bring its loop down meanwhile."""
    server = lost_while_one_joins(told, returns=returns)
    for _ in range(2):
        server.ask(make_request(verb, 1, server.incarnation(1)), PACKED)
        if verb is Hello:  # refused, and its predecessor has been replaced all the same
            assert states(server) == {}
            return
    assert states(server) == {1: "stopped" if verb is Bye else "live"}


def test_two_newcomers_to_a_run_that_has_lost_a_shard_are_both_told() -> None:
    server = lost_while_one_joins(Join, returns=False)
    for _ in range(2):
        assert server.refusal(Hello("worker", 2, ""), PACKED).code == "stopping"
        assert server.refusal(Hello("observer", 0, ""), PACKED).code == "stopping"
    assert server.coordinator.state()["observers"] == 0


def test_a_hello_that_was_broken_off_starts_no_run_and_leaves_nobody_to_wait_for() -> None:
    server = lost_while_one_joins(Join, returns=False)
    assert not server.coordinator.state()["started"]
    assert server.beat(1).missing == [2]
    server.coordinator.stopping = server.shards.lost
    server.bye(1, "stopped")
    assert server.coordinator.closed


# The end.


def test_training_is_over_when_all_are_gone_and_one_of_them_was_done() -> None:
    server = make_server(3, observers=1)
    observer = server.hello(0).incarnation
    server.start()
    server.bye(1, "failed")
    server.bye(2, "done")
    assert not server.beat(0, observer).finished
    server.evict(3)
    assert not server.beat(0, observer).finished  # the third may come back
    server.ask(Bye(3, server.incarnation(3), "failed"))
    assert server.beat(0, observer).finished
    assert not server.coordinator.closed  # the observer has its last evaluation to tell
    server.ask(make_report(0, observer, "evaluation", epoch=1))
    server.bye(0, incarnation=observer)
    assert server.coordinator.closed


def test_training_is_not_over_while_nobody_has_come_to_its_end() -> None:
    server = make_server()
    server.start()
    server.bye(1, "failed")
    server.bye(2, "stopped")
    assert not server.coordinator.finished
    assert not server.coordinator.closed


def test_a_run_without_workers_waits_a_while_for_one_to_come_back() -> None:
    server = make_server()
    server.start()
    server.evict(1, 2)
    server.clock.skip(REJOIN_S)
    server.coordinator.tick()
    assert not server.coordinator.deserted
    server.clock.skip(0.1)
    assert server.coordinator.deserted


def test_the_wait_for_one_to_come_back_begins_anew_each_time() -> None:
    server = make_server()
    server.start()
    for _ in range(2):
        server.evict(1, 2)
        server.clock.skip(REJOIN_S - 1)
        server.coordinator.tick()
        server.hello(1)
        server.coordinator.tick()
    assert not server.coordinator.deserted


def test_a_run_that_has_not_started_waits_for_its_workers_for_ever() -> None:
    server = make_server()
    server.hello(1)
    server.evict(1)
    server.clock.skip(100 * REJOIN_S)
    server.coordinator.tick()
    assert not server.coordinator.deserted


def test_a_run_that_is_done_is_not_deserted_while_its_observer_evaluates() -> None:
    server = make_server(1)
    observer = server.hello(0).incarnation
    server.start()
    server.bye(1)
    server.coordinator.tick()
    server.clock.skip(REJOIN_S + 1)
    assert not server.coordinator.deserted
    assert server.beat(0, observer).finished


def test_the_time_of_training_ends_with_the_last_worker_and_goes_on_with_one_that_returns() -> None:
    server = make_server()
    server.start()
    server.clock.skip(4)
    server.bye(1, "failed")
    server.clock.skip(2)
    server.bye(2, "failed")
    server.clock.skip(100)
    assert server.coordinator.state()["train_seconds"] == 6
    server.hello(1)
    assert server.coordinator.state()["train_seconds"] == 106


@pytest.mark.parametrize("reason", ["SIGTERM", STOPPED_BY_TIMEOUT, "stopped", "stopped: too dear"])
def test_everybody_is_told_that_the_server_stops_but_an_observer_evaluates_once_after_a_good_end(
    reason: str,
) -> None:
    server = make_server(1)
    observer = server.hello(0).incarnation
    server.start()
    assert server.beat(1).stopping == server.beat(0, observer).stopping == ""
    server.coordinator.stopping = reason
    assert server.beat(1).stopping == reason
    assert server.beat(0, observer).stopping == (reason if reason == "SIGTERM" else "")
    assert server.coordinator.state()["stopping"] == reason


def test_a_server_that_stops_leases_nothing_and_counts_that_as_no_refusal() -> None:
    server = make_server()
    server.start()
    server.coordinator.stopping = "SIGTERM"
    error = server.refusal(make_request(Lease, 1, server.incarnation(1)))
    assert (error.code, error.text) == ("stopping", "SIGTERM")
    assert server.coordinator.state()["refused_messages"] == 0


def test_a_run_that_is_stopped_is_closed_when_all_have_left_even_before_its_start() -> None:
    server = make_server()
    server.hello(1)
    observer = server.hello(0).incarnation
    server.coordinator.stopping = "SIGINT"
    assert not server.coordinator.closed
    server.bye(1, "stopped")
    assert not server.coordinator.closed
    server.bye(0, "stopped", observer)
    assert server.coordinator.closed
    assert not server.coordinator.finished  # it never began


def test_a_run_that_is_stopped_is_finished_when_its_workers_have_left() -> None:
    server = make_server(1)
    server.start()
    server.coordinator.stopping = STOPPED_BY_TIMEOUT
    assert not server.coordinator.finished
    server.bye(1, "stopped")
    assert server.coordinator.finished
    assert server.coordinator.closed


def test_what_was_leased_to_workers_of_a_run_that_is_stopped_is_given_to_nobody() -> None:
    server = make_server(policy="ssp", bound=1)
    server.start()
    server.ask(make_request(Lease, 1, server.incarnation(1)))
    for step in range(1, 3):  # the second waits for worker 2
        server.push(1, step, samples=5)
    server.coordinator.stopping = "SIGTERM"
    server.bye(1, "stopped")
    assert server.metrics.samples_twice == 0


@pytest.mark.parametrize("is_stopping", [False, True])
def test_what_was_answered_of_a_lease_is_trained_whenever_its_worker_goes(
    is_stopping: bool,
) -> None:
    server = make_server(policy="asp")
    server.start()
    request = make_request(Lease, 1, server.incarnation(1))
    server.ask(request)
    server.push(1, 1, samples=5)
    if is_stopping:
        server.coordinator.stopping = "SIGTERM"
    for worker in (1, 2):
        server.bye(worker, "stopped")
    (part,) = server.coordinator.unfinished()
    assert part.samples == request.samples * request.epochs - 5


def test_a_lease_that_was_lost_with_its_worker_is_given_to_the_next_that_asks() -> None:
    server = make_server(policy="ssp")
    server.start()
    leased = server.ask(make_request(Lease, 1, server.incarnation(1)))
    assert isinstance(leased, Leased)
    assert (leased.order, leased.first, leased.count) == (TRAIN, 0, 10)
    server.evict(1)
    again = server.ask(make_request(Lease, 2, server.incarnation(2)))
    assert again == replace(leased, worker=2)
    assert server.coordinator.data_plan == "lease"


class CoordinatorModel(RuleBasedStateMachine):
    """Processes come, speak, fall silent and go; beside it a model of what that comes to."""

    ranks = st.integers(1, 3)

    def __init__(self) -> None:
        super().__init__()
        self.server = make_server(3, "asp", observers=1, shards=2)
        self.now: StillClock = self.server.clock
        self.states: dict[int, str] = {}  # of the newest process of each rank
        self.heard: dict[int, float] = {}
        self.evicted_s: dict[int, float] = {}
        self.ids: dict[int, list[int]] = {1: [], 2: [], 3: []}  # incarnations, by rank
        self.observers: dict[int, float] = {}  # incarnation ▸ when it was heard of
        self.started_s: float | None = None
        self.ended_s: float | None = None
        self.deserted_s: float | None = None
        self.evictions = 0

    @property
    def live(self) -> list[int]:
        return sorted(rank for rank, state in self.states.items() if state == "live")

    @property
    def is_over(self) -> bool:
        at_an_end = not {"done", "timeout"}.isdisjoint(self.states.values())
        may_come_back = any(
            state == "evicted" and self.now() - self.evicted_s[rank] <= REJOIN_S
            for rank, state in self.states.items()
        )
        is_deserted = self.started_s is not None and not self.live
        return is_deserted and at_an_end and not may_come_back

    def starts(self) -> None:
        if self.started_s is None and len(self.live) == 3 and self.observers:
            self.started_s = self.now()

    def ends(self) -> None:
        if self.started_s is not None and not self.live and self.ended_s is None:
            self.ended_s = self.now()

    @rule(rank=ranks)
    def comes(self, rank: int) -> None:
        if self.is_over and (not self.observers or self.states[rank] == "done"):
            assert self.server.refusal(Hello("worker", rank, ""), PACKED).code == "stopping"
            return
        incarnation = self.server.hello(rank).incarnation
        assert incarnation > max((i for ids in self.ids.values() for i in ids), default=0)
        self.ids[rank].append(incarnation)
        self.states[rank], self.heard[rank] = "live", self.now()
        self.ended_s = None
        self.starts()

    @rule()
    def an_observer_comes(self) -> None:
        if self.is_over and not self.observers:
            assert self.server.refusal(Hello("observer", 0, "")).code == "stopping"
            return
        self.observers[self.server.hello(0).incarnation] = self.now()
        self.starts()

    @precondition(lambda self: self.observers)
    @rule()
    def an_observer_goes(self) -> None:
        incarnation = min(self.observers)
        self.server.bye(0, "done", incarnation)
        del self.observers[incarnation]

    @rule(rank=ranks, reason=st.sampled_from(["done", "timeout", "stopped", "failed"]))
    def goes(self, rank: int, reason: str) -> None:
        if rank in self.live:
            self.server.bye(rank, reason)
            self.states[rank] = reason
            self.ends()

    @rule(rank=ranks)
    def beats(self, rank: int) -> None:
        for incarnation in self.ids[rank]:
            answer = self.server.ask(Beat(rank, incarnation))
            if incarnation < self.ids[rank][-1]:
                assert isinstance(answer, Error)
                assert answer.code == "fenced"
            elif rank in self.live:
                assert isinstance(answer, Beaten)
                self.heard[rank] = self.now()
            else:
                assert isinstance(answer, Error)
                assert answer.code == "evicted"

    @rule(seconds=st.sampled_from([1.0, 3.0, EVICT_S + 0.5, REJOIN_S]))
    def time_passes(self, seconds: float) -> None:
        self.now.skip(seconds)
        self.server.coordinator.tick()
        for rank in self.live:
            if self.now() - self.heard[rank] > EVICT_S:
                self.states[rank], self.evicted_s[rank] = "evicted", self.now()
                self.evictions += 1
                self.ends()
        for incarnation, heard_s in list(self.observers.items()):
            if self.now() - heard_s > EVICT_S:
                del self.observers[incarnation]
        if self.started_s is None or self.live:
            self.deserted_s = None
        elif self.deserted_s is None:
            self.deserted_s = self.now()

    @invariant()
    def the_coordinator_says_what_the_model_says(self) -> None:
        state, coordinator = self.server.coordinator.state(), self.server.coordinator
        is_started = self.started_s is not None
        is_finished = self.is_over
        assert states(self.server) == self.states
        assert state["started"] == is_started
        assert state["finished"] == is_finished
        assert state["missing"] == ([] if is_started else sorted({1, 2, 3} - set(self.live)))
        assert state["observers"] == len(self.observers)
        assert state["evictions"] == self.evictions
        assert coordinator.closed == (is_finished and not self.observers)
        if self.started_s is not None:
            until_s = self.now() if self.ended_s is None else self.ended_s
            assert state["train_seconds"] == until_s - self.started_s
        if self.deserted_s is None or is_finished:
            assert not coordinator.deserted
        else:
            assert coordinator.deserted == (self.now() - self.deserted_s > REJOIN_S)

    @invariant()
    def every_shard_waits_for_the_live_and_for_nobody_else(self) -> None:
        assert all(counted == self.live for counted in self.server.counted())
        for shard in self.server.far.all:
            assert [member.worker for member in shard.members.live] == self.live
            assert len(shard.members.observers) == len(self.observers)


TestCoordinatorModel = CoordinatorModel.TestCase
TestCoordinatorModel.settings = settings(max_examples=25, stateful_step_count=25)


# Going on where another run was.

SHARES = {1: SharePosition(2, 20, 50), 2: SharePosition(3, 0, 50)}
LEASES = LeasePosition(60, 1, {2: [(40, 60)]})


def test_a_rank_is_told_where_its_predecessor_was_in_an_earlier_run() -> None:
    server = make_server(data_plan="static", seed=5)
    server.coordinator.continuation.go_on(Position(5, 2, SHARES))
    assert server.coordinator.continuation.position() == Position(5, 2, SHARES)
    for rank, share in SHARES.items():
        welcome = server.hello(rank)
        assert SharePosition(welcome.epochs, welcome.samples, welcome.share) == share
    assert server.beat(1).epoch == 2


def test_other_ranks_than_before_begin_with_the_next_whole_epoch() -> None:
    server = make_server(3, data_plan="static", seed=5)
    server.coordinator.continuation.go_on(Position(5, 2, SHARES))
    for rank in (1, 2, 3):
        welcome = server.hello(rank)
        assert (welcome.epochs, welcome.samples, welcome.share) == (2, 0, 0)


def test_an_observer_and_a_newcomer_to_a_new_run_begin_at_the_beginning() -> None:
    server = make_server()
    for rank in (0, 1):
        welcome = server.hello(rank)
        assert (welcome.epochs, welcome.samples, welcome.share) == (0, 0, 0)


def test_leases_go_on_where_those_of_an_earlier_run_were() -> None:
    server = make_server(data_plan="lease", seed=5)
    server.coordinator.continuation.go_on(Position(5, 1, {}, LEASES))
    assert server.coordinator.continuation.position() == Position(5, 1, {}, LEASES)
    server.start()
    leased = server.ask(make_request(Lease, 1, server.incarnation(1)))
    assert isinstance(leased, Leased)
    assert (leased.epoch, leased.first) == (2, 40)
    # What is leased and not answered is not done.
    assert server.coordinator.continuation.position() == Position(5, 1, {}, LEASES)


@pytest.mark.parametrize("data_plan", ["static", "lease"])
def test_a_run_that_cannot_go_on_like_this_is_refused_with_what_to_give(data_plan: str) -> None:
    shares, leases = (SHARES, None) if data_plan == "static" else ({}, LEASES)
    position = Position(5, 2, shares, leases)
    with pytest.raises(UsageError, match="give --seed 5"):
        make_server(data_plan=data_plan, seed=6).coordinator.continuation.go_on(position)
    with pytest.raises(UsageError, match="such as --epochs 4"):
        make_server(data_plan=data_plan, seed=5, epochs=2).coordinator.continuation.go_on(position)


def test_loops_of_peoples_own_may_go_on_with_any_seed() -> None:
    server = make_server(seed=6, epochs=1)
    server.coordinator.continuation.go_on(Position(5, 2))
    assert server.coordinator.continuation.position() == Position(6, 0)


def test_what_begins_anew_is_what_workers_keep_for_themselves() -> None:
    assert make_server().coordinator.continuation.position().anew == []
    server = make_server(outer_lr=0.7)
    server.hello(1, codecs=["int8", "f32"])
    server.hello(2)
    assert server.coordinator.continuation.position().anew == [
        "what int8 has left over of gradients", "the workers' own optimizers",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "answer", "rounded"),
    [
        ("f32", "", []), ("bf16", "", ["bf16"]), ("bf16", "f32", []), ("int8", "", []),
        ("int8", "bf16", ["bf16"]), ("f32", "f16", ["f16"]), ("f32", "of a later version", []),
    ],
)  # fmt: skip
def test_what_is_rounded_is_what_parameters_come_back_in(
    codec: str, answer: str, rounded: list[str]
) -> None:
    server = make_server()
    server.hello(1, codecs=[codec, "f32"], answer=answer)
    told = [text for text in server.coordinator.continuation.position().anew if "rounded" in text]
    assert told == [f"what workers have of parameters, rounded to {name}" for name in rounded]


# Checkpoints for those who ask.


def test_whoever_asks_for_a_checkpoint_is_told_when_it_is_there_and_gets_it_in_pieces(
    checkpoint: Saves,
) -> None:
    server = make_server()
    server.start()
    server.coordinator.saves = checkpoint
    assert server.ask(Save(5)) == Saved(5, ready=False, nbytes=0)
    assert server.ask(Save(CHECKPOINT)) == Saved(CHECKPOINT, ready=True, nbytes=10)
    assert server.coordinator.answer(Read(CHECKPOINT, 5), None) == (
        CheckpointPiece(CHECKPOINT, 5),
        b"point",
    )
    assert server.refusal(Read(5, 0)).code == "bad_header"


def test_nobody_gets_a_checkpoint_of_a_model_without_values_or_without_a_folder_for_it(
    checkpoint: Saves,
) -> None:
    server = make_server()
    server.hello(1)
    assert server.refusal(Save(5)).code == "bad_header"  # this server writes none
    server.coordinator.saves = checkpoint
    assert server.refusal(Save(5)).code == "not_ready"
    assert not checkpoint.awaited
