"""All shards of a run as one: how a newcomer joins them, and what they count and tell together.

The further shards are in this process, each with clocks of its own: see support.sockless.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from leash.ps._core import Outcome
from leash.ps.errors import LayoutError, LayoutMismatchError, ShardLostError
from leash.ps.policy import choose_rule
from leash.ps.runs.checkpoint import open_checkpoint, save_checkpoint
from leash.ps.runs.position import Position
from leash.ps.shard.members import Member
from leash.ps.wire.layout import assign
from leash.ps.wire.messages import Error, Message, Ok
from leash.ps.wire.shard_messages import (
    Asked,
    Counts,
    CountUp,
    GiveUp,
    Hold,
    Join,
    Leave,
    Release,
    Reserve,
    Serve,
    SetRule,
    Start,
    Stop,
    Unreading,
)
from support.sockless import CHUNKS, LAYOUT, OTHER_LAYOUT, OWN_PORT, SocklessServer

POSITION = Position(5, 1)
LOST = "shard 2 (process 70002) was lost: killed by SIGKILL"


def make_shards(shards: int = 3, policy: str = "asp", **options: Any) -> SocklessServer:
    """A server whose shards serve the model; nobody has joined."""
    server = SocklessServer(policy, workers=3, shards=shards, **options)
    server.shards.require_layout(LAYOUT)
    server.init()
    server.metrics.start([])
    server.shards.start()
    server.far.told.clear()
    return server


def join(server: SocklessServer, worker: int) -> int:
    """This worker says hello; its first step."""
    member, before = server.members.hello(worker, f"process {worker}")
    if before is not None:
        server.shards.leave(before, "replaced")
    first_step = server.shards.join(member)
    server.metrics.join(worker, member.incarnation, member.name, first_step)
    return first_step


def member_of(server: SocklessServer, worker: int) -> Member:
    return server.members.workers[worker]


def make_counts(**changes: Any) -> Counts:
    """What a shard that has done nothing tells."""
    fields = dict.fromkeys(Counts.__slots__, 0)
    return Counts(**{**fields, "initialized": False, "refusals": {}, "heard": [], **changes})


# The model.


def test_the_first_layout_is_served_by_all_and_is_the_runs_from_then_on() -> None:
    server = SocklessServer("asp", workers=3, shards=3)
    assert (server.shards.layout, server.shards.model) == (None, None)
    assert server.shards.first_chunks == [0]
    model = server.shards.require_layout(LAYOUT)
    assert (server.shards.layout, model.layout) == (LAYOUT, LAYOUT)
    assert server.shards.first_chunks == assign(LAYOUT.cut(65536), 3)
    again = server.shards.require_layout(LAYOUT)
    assert again.served is model.served
    assert server.far.told == [Serve()]
    with pytest.raises(LayoutMismatchError, match=r"^slot 0: expected .* f32 16, got .* f32 17$"):
        server.shards.require_layout(OTHER_LAYOUT)
    assert server.far.told == [Serve()]


def test_a_layout_that_another_shard_cannot_serve_is_served_by_none() -> None:
    server = SocklessServer("asp", workers=3, shards=2)
    server.far.all[0].link.fails_with = LayoutError("no memory")
    with pytest.raises(LayoutError, match="no memory"):
        server.shards.require_layout(LAYOUT)
    assert server.shards.model is None
    assert server.shards.require_layout(OTHER_LAYOUT).layout is OTHER_LAYOUT


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 6])
def test_every_chunk_is_found_where_it_is_held(shards: int) -> None:
    server = make_shards(shards)
    model = server.shards.model
    assert model is not None
    holders = []
    for plane, store in zip(server.planes, [None, *server.far.all], strict=True):
        assert plane.model is not None
        holders += [store or plane.model.shard for _ in plane.model.own]
    assert [model.shard_of(chunk.index) for chunk in model.chunks] == holders
    assert len(holders) == CHUNKS


@given(st.permutations(range(CHUNKS)))
@settings(max_examples=20)
def test_a_model_has_its_first_values_when_all_chunks_of_all_shards_do(order: list[int]) -> None:
    server = SocklessServer("asp", workers=3, shards=3)
    assert not server.shards.initialized
    model = server.shards.require_layout(LAYOUT)
    for count, chunk in enumerate(order, start=1):
        model.shard_of(chunk).init(chunk, bytes(model.chunks[chunk].nbytes))
        server.shards.count_up()
        assert server.shards.initialized == (count == CHUNKS)


def test_a_shard_that_has_not_told_of_its_first_values_may_have_none() -> None:
    server = SocklessServer("asp", workers=3, shards=3)
    model = server.shards.require_layout(LAYOUT)
    for chunk in model.chunks:
        model.shard_of(chunk.index).init(chunk.index, bytes(chunk.nbytes))
    for shard in (2, 1):
        assert not server.shards.initialized
        server.far.notify(shard, server.far.all[shard - 1].counts([]))
        server.shards.attend()
    assert server.shards.initialized


def test_a_checkpoint_of_several_shards_is_that_of_one_and_is_resumed_by_any_number(
    tmp_path: Path,
) -> None:
    paths = {}
    for shards in (1, 3):
        server = make_shards(shards, optimizer="adam")
        join(server, 1)
        for step in range(1, 4):
            server.push(1, step, value=step)
        model = server.shards.model
        assert model is not None
        paths[shards] = tmp_path / f"{shards}.safetensors"
        save_checkpoint(model, paths[shards], POSITION)
    one, three = load_file(paths[1]), load_file(paths[3])
    assert one.keys() == three.keys() > {"w", "d", "mean", "count", "exp_avg/w", "exp_avg_sq/d"}
    assert all(one[name].tobytes() == three[name].tobytes() for name in one)
    assert one["w"].any()

    resumed = SocklessServer("asp", workers=3, shards=2, optimizer="adam")
    model, earlier = open_checkpoint(str(paths[3]), "adam", resumed.shards.require_layout)
    assert (earlier.step, earlier.position) == (3, POSITION)
    clocks = [moment.state.clocks.least for moment in model.open_snapshot()]
    assert clocks == [3] * CHUNKS  # also of the chunks of the other shard
    resumed.shards.count_up()
    assert resumed.shards.initialized
    save_checkpoint(model, tmp_path / "again.safetensors", POSITION)
    again = load_file(tmp_path / "again.safetensors")
    assert {name: value.tobytes() for name, value in again.items()} == {
        name: value.tobytes() for name, value in one.items()
    }


# Who takes part.


def test_a_newcomer_joins_all_shards_at_the_largest_step_that_any_of_them_has_kept() -> None:
    server = make_shards()
    assert join(server, 1) == 1
    # Chunks of different shards get on at different speeds: on these, 3, 7 and 5 steps.
    for plane, steps in zip(server.planes, (3, 7, 5), strict=True):
        for step in range(1, steps + 1):
            server.push_to(plane, 1, step)
    server.far.told.clear()
    assert join(server, 2) == 8
    member = member_of(server, 2)
    assert server.far.told == [Reserve(), Join(2, member.incarnation, "process 2", 8)]
    assert server.counted() == [[1, 2], [1, 2], [1, 2]]  # and no kept place


def test_an_observer_is_known_to_all_shards_and_none_waits_for_it() -> None:
    server = make_shards()
    observer, _ = server.members.hello(0, "watches")
    assert server.shards.join(observer) == 0
    assert server.far.told == [Join(0, observer.incarnation, "watches", 0)]
    assert all(shard.members.observers for shard in server.far.all)
    server.shards.leave(observer, "done")
    assert server.far.told[-1] == Leave(0, observer.incarnation, "done")
    assert not any(shard.members.observers for shard in server.far.all)
    assert server.counted() == [[], [], []]


def test_what_waits_for_a_worker_alone_goes_out_on_every_shard_when_it_leaves() -> None:
    server = make_shards(policy="bsp")
    join(server, 1)
    join(server, 2)
    server.push(1, 1)
    assert server.answered(1) == []
    server.shards.leave(member_of(server, 2), "failed")
    assert server.far.told[-1] == Leave(2, member_of(server, 2).incarnation, "failed")
    assert server.answered(1) == [1]
    assert server.counted() == [[1], [1], [1]]


def test_a_rule_holds_on_every_shard_when_it_has_been_set() -> None:
    server = make_shards(policy="bsp")
    join(server, 1)
    join(server, 2)
    server.push(1, 1)
    server.shards.set_rule(choose_rule("ssp", 2))
    assert server.far.told[-1] == SetRule("ssp", 2, 0, 0, "clocks")
    server.push(1, 2)
    server.push(1, 3)
    assert server.answered(1) == [1, 2]


def wait_crosswise(server: SocklessServer) -> None:
    """Each of three workers, of whom one may be late, waits at another shard."""
    for worker in (1, 2, 3):
        join(server, worker)
    server.push_to(server.plane, 1, 1)
    server.push_to(server.far.all[0].plane, 2, 1)
    server.push_to(server.far.all[1].plane, 3, 1)
    server.shards.count_up()


def test_workers_that_wait_for_each_other_go_on_after_a_second() -> None:
    server = make_shards(policy="backup", backup_workers=1)
    wait_crosswise(server)
    for seconds, ends in ((0.0, False), (0.9, False), (1.1, True), (1.3, False)):
        assert server.shards.end_stall((1, 2, 3), 10.0 + seconds) is ends
    assert server.far.told[-1] == GiveUp()
    assert {answer.worker for answer in server.sent if isinstance(answer, Ok)} == {1, 2, 3}


def test_nobody_goes_on_as_long_as_one_computes_or_something_moves() -> None:
    server = make_shards(policy="backup", backup_workers=1)
    wait_crosswise(server)
    assert not any(server.shards.end_stall((1, 2, 3, 4), at_s) for at_s in (0.0, 2.0, 4.0))
    server.push_to(server.plane, 2, 1)  # a second gradient completes the round of this chunk
    assert not server.shards.end_stall((1, 2, 3), 5.0)


def test_a_rule_holds_on_other_shards_before_it_does_on_this_one() -> None:
    """If a shard is lost, this one still goes by the rule that the coordinator knows of."""
    server = make_shards(policy="bsp")
    join(server, 1)
    join(server, 2)
    server.push_to(server.plane, 1, 1)
    server.far.all[1].lose("killed by SIGKILL")
    with pytest.raises(ShardLostError, match="shard 2"):
        server.shards.set_rule(choose_rule("asp", None))
    assert server.sent == []


def test_every_shard_is_told_of_the_start() -> None:
    server = SocklessServer("asp", workers=3, shards=3)
    server.shards.start()
    assert server.far.told == [Start()]
    assert all(shard.metrics.started for shard in server.far.all)


def test_whoever_waits_is_refused_by_every_shard_when_the_run_stops() -> None:
    server = make_shards(policy="bsp")
    join(server, 1)
    join(server, 2)
    server.push(1, 1)
    assert server.sent == []
    server.shards.stop("SIGTERM")
    assert server.far.told[-1] == Stop("SIGTERM")
    refused = [message for message in server.sent if isinstance(message, Error)]
    assert len(refused) == len(server.sent) == CHUNKS
    assert {(m.code, m.text, m.worker, m.step) for m in refused} == {
        ("stopping", "SIGTERM", 1, 1)
    }  # fmt: skip
    assert sorted(message.chunk for message in refused) == list(range(CHUNKS))


@given(
    shards=st.sampled_from([1, 2, 3, 4, 6]),
    rule=st.sampled_from([("asp", None), ("ssp", 1), ("ssp", 3), ("bsp", None), ("backup", None)]),
    before=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), max_size=25),
    meanwhile=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 2)), max_size=40),
)
@settings(max_examples=60)
def test_the_first_step_of_a_newcomer_is_new_on_every_chunk_however_fast_the_others_push(
    shards: int,
    rule: tuple[str, int | None],
    before: list[tuple[int, int]],
    meanwhile: list[tuple[int, int]],
) -> None:
    """Worker 3 comes back while 1 and 2 push, to some shards earlier than to others.

    Each push goes to one shard, to whose chunks it is this worker's next one, if the answers to its
    last one there have come; `meanwhile` is pushed between the two rounds of the join.
    """
    server = make_shards(shards, rule[0], bound=rule[1])
    first_steps = {worker: join(server, worker) for worker in (1, 2, 3)}
    clocks = {(s, worker): first_steps[worker] - 1 for s in range(shards) for worker in (1, 2, 3)}

    def push(shard: int, worker: int) -> None:
        plane = server.planes[shard % shards]
        if not waits(plane, worker):
            clocks[shard % shards, worker] += 1
            server.push_to(plane, worker, clocks[shard % shards, worker])

    def waits(plane: Any, worker: int) -> bool:
        """It has a push to this shard that has no answer."""
        index = server.planes.index(plane)
        step, own = clocks[index, worker], {chunk.index for chunk in plane.model.own}
        answered = {
            m.chunk for m in server.sent
            if isinstance(m, Ok) and (m.worker, m.step) == (worker, step)
        }  # fmt: skip
        return step >= first_steps[worker] and not own <= answered

    for shard, worker in before:
        push(shard, worker)
    server.members.leave(member_of(server, 3), "evicted")
    server.shards.leave(member_of(server, 3), "evicted")

    def between_the_rounds(message: Message) -> None:
        if isinstance(message, Join):
            for shard, worker in meanwhile:
                push(shard, worker)

    server.far.on_the_way = between_the_rounds
    first_step = join(server, 3)
    for plane in server.planes:
        assert plane.model is not None
        for chunk in plane.model.own:
            assert plane.model.shard.minimum(chunk.index) <= first_step - 1
            pushed = plane.model.shard.push(
                chunk.index, 3, first_step, 1, bytearray(chunk.nbytes), False
            )
            assert pushed.outcome is Outcome.APPLIED
            assert pushed.clock == first_step


# What the others tell.


def test_counts_are_those_of_all_shards_and_each_counts_with_its_newest() -> None:
    server = make_shards()
    join(server, 1)
    server.push(1, 1)
    server.push(1, 1)  # again: a duplicate on every chunk
    for shard in (1, 2):
        server.far.notify(shard, make_counts(replies=900, bytes_pushed=900, refusals={"old": 1}))
    server.shards.count_up()
    assert server.far.told[-1] == CountUp()
    counted = server.metrics.data
    assert counted.replies == CHUNKS
    assert counted.duplicates == CHUNKS
    assert counted.bytes_pushed == 2 * LAYOUT.nbytes
    assert counted.refusals.total() == 0


def test_counts_keep_every_figure_that_a_shard_tells() -> None:
    server = make_shards(2)
    names = [
        "replies", "staleness_sum", "max_staleness", "max_lag", "duplicates", "nonfinite_chunks",
        "bytes_pushed", "bytes_answered", "dropped",
    ]  # fmt: skip
    told = {name: number for number, name in enumerate(names, start=1)}
    server.far.notify(1, make_counts(**told, refusals={"bad_header": 3}))
    server.shards.attend()
    data = server.metrics.data
    assert {name: getattr(data, name) for name in names} == told
    assert data.refusals == {"bad_header": 3}


def test_parked_requests_are_those_of_all_shards() -> None:
    server = make_shards(policy="bsp")
    join(server, 1)
    join(server, 2)
    server.push(1, 1)
    assert server.shards.parked == 1  # the chunk of this process
    server.shards.count_up()
    assert server.shards.parked == CHUNKS


def test_a_worker_that_another_shard_has_heard_of_is_not_silent() -> None:
    server = make_shards()
    for worker in (1, 2):
        join(server, worker)
    server.clock.skip(server.options.evict_s + 1)
    server.far.notify(1, make_counts(heard=[2, 9]))
    server.shards.attend()
    assert server.members.silent() == [member_of(server, 1)]


def test_what_happens_on_another_shard_becomes_an_event_of_the_run() -> None:
    server = make_shards()
    details = {"worker": 1, "chunk": 3, "step": 2, "slot": "w"}
    server.far.happened(2, "nonfinite", msgpack.packb(details))
    server.far.notify(1, server.far.all[0].counts([]))
    server.shards.attend()
    server.shards.attend()
    assert server.events.named("nonfinite") == [details]


def test_workers_that_do_not_read_another_shards_answers_are_told_of_once() -> None:
    server = make_shards()
    for shard, worker in ((1, 3), (2, 1)):
        server.far.notify(shard, Unreading(worker))
    server.shards.attend()
    assert server.shards.take_unreading() == [3, 1]
    assert server.shards.take_unreading() == []


def test_a_signal_that_another_shard_got_is_told_with_its_name() -> None:
    server = make_shards()
    assert server.shards.asked is None
    server.far.notify(2, Asked(15))
    server.shards.attend()
    assert server.shards.asked == ("shard 2 (process 70002)", 15)


# The loss of a shard.


def test_a_lost_shard_is_named_and_becomes_one_event() -> None:
    server = make_shards()
    assert server.shards.lost == ""
    server.far.all[1].lose("killed by SIGKILL")
    for _ in range(3):
        server.shards.attend()
    assert server.shards.lost == LOST
    assert server.events.named("shard_lost") == [
        {"shard": 2, "process": 70002, "how": "killed by SIGKILL"}
    ]


ASKING: dict[str, Callable[[SocklessServer], Any]] = {
    "join": lambda server: server.shards.join(server.members.hello(2, "")[0]),
    "join of an observer": lambda server: server.shards.join(server.members.hello(0, "")[0]),
    "set_rule": lambda server: server.shards.set_rule(choose_rule("ssp", 2)),
    "start": lambda server: server.shards.start(),
    "count_up": lambda server: server.shards.count_up(),
    "held": lambda server: server.shards.held().__enter__(),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_whatever_needs_an_answer_says_which_shard_is_lost(
    ask: Callable[[SocklessServer], Any],
) -> None:
    server = make_shards()
    join(server, 1)
    server.far.all[1].lose("killed by SIGKILL")
    for _ in range(2):
        with pytest.raises(ShardLostError) as lost:
            ask(server)
        assert str(lost.value) == LOST
    assert server.counted() == [[1], [1], [1]]  # no place is kept for anybody


def test_those_that_are_left_are_told_when_somebody_leaves_or_the_run_stops() -> None:
    server = make_shards(policy="bsp")
    for worker in (1, 2):
        join(server, worker)
    server.far.all[0].lose("killed by SIGKILL")
    server.push_to(server.plane, 1, 1)
    server.push_to(server.far.all[1].plane, 1, 1)
    server.shards.leave(member_of(server, 2), "stopped")
    assert server.counted() == [[1], [1, 2], [1]]
    server.shards.stop("shard lost")
    assert [plane.stopping for plane in server.planes] == ["shard lost", "", "shard lost"]


# Reading what belongs together.


def test_no_shard_takes_messages_while_what_it_holds_is_read() -> None:
    server = make_shards()
    with server.shards.held():
        assert all(shard.is_held for shard in server.far.all)
    assert not any(shard.is_held for shard in server.far.all)
    assert server.far.told == [Hold(), Release()]


def test_shards_are_let_go_when_reading_fails() -> None:
    server = make_shards()
    with pytest.raises(OSError, match="disk"), server.shards.held():
        raise OSError("the disk is full")
    assert not any(shard.is_held for shard in server.far.all)


def test_shards_are_let_go_when_one_of_them_is_lost_before_all_are_held() -> None:
    server = make_shards()

    def lose(message: Message) -> None:
        server.far.all[0].take(message, None)
        server.far.all[1].lose("killed by SIGKILL")

    server.far.on_the_way = lose
    with pytest.raises(ShardLostError), server.shards.held():
        pytest.fail("not all of them are held")
    assert not server.far.all[0].is_held


def test_ports_and_processes_are_in_the_order_of_the_shards() -> None:
    server = make_shards()
    assert server.shards.ports == [OWN_PORT, OWN_PORT + 1, OWN_PORT + 2]
    assert server.shards.processes == [os.getpid(), 70001, 70002]
