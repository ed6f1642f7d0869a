import pytest
from hypothesis import given
from hypothesis import strategies as st

from leash.ps.errors import EvictedError, FencedError, TooManyError, UnknownWorkerError
from leash.ps.shard.members import MAX_OBSERVERS, Members
from leash.ps.words import DONE, EVICTED, LIVE

EVICT_S = 5.0


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def members(clock: FakeClock) -> Members:
    return Members([1, 2, 3], EVICT_S, clock, wall_time_us=lambda: 1000)


def test_ranks_are_missing_until_they_say_hello(members: Members) -> None:
    assert members.missing == [1, 2, 3]
    members.hello(2, "b")
    assert members.missing == [1, 3]
    assert [m.worker for m in members.live] == [2]


def test_incarnations_begin_at_the_wall_clock_and_grow_with_every_hello(members: Members) -> None:
    newcomers = [members.hello(worker, "")[0] for worker in (1, 2, 1, 0, 3, 1)]
    assert [m.incarnation for m in newcomers] == [1000, 1001, 1002, 1003, 1004, 1005]


def test_a_silent_member_is_found_after_the_limit_and_not_before(
    members: Members, clock: FakeClock
) -> None:
    member, _ = members.hello(1, "a")
    clock.now_s += EVICT_S
    assert members.silent() == []
    clock.now_s += 0.001
    assert members.silent() == [member]
    members.leave(member, EVICTED)
    assert members.silent() == []
    assert members.missing == [1, 2, 3]


def test_a_message_is_a_sign_of_life(members: Members, clock: FakeClock) -> None:
    member, _ = members.hello(1, "a")
    for _ in range(10):
        clock.now_s += EVICT_S - 1
        members.require_current(1, member.incarnation)
        assert members.silent() == []
    clock.now_s += 2.0
    assert members.silence_s(member) == 2.0


def test_a_refused_message_is_no_sign_of_life(members: Members, clock: FakeClock) -> None:
    member, _ = members.hello(1, "a")
    clock.now_s += EVICT_S + 1
    with pytest.raises(FencedError):
        members.require_current(1, member.incarnation - 1)
    assert members.silent() == [member]


def test_a_newcomer_takes_the_place_of_the_live_process_of_its_rank(members: Members) -> None:
    old, nobody = members.hello(1, "old")
    new, replaced = members.hello(1, "new")
    assert (nobody, replaced) == (None, old)
    with pytest.raises(FencedError, match=r"\(new\) has taken this rank: .* 1001, got 1000"):
        members.require_current(1, old.incarnation)
    assert members.require_current(1, new.incarnation) is new


def test_a_newcomer_replaces_nobody_where_the_one_before_has_left(members: Members) -> None:
    old, _ = members.hello(1, "old")
    members.leave(old, DONE)
    _, replaced = members.hello(1, "new")
    assert replaced is None


@pytest.mark.parametrize("state", [EVICTED, DONE, "timeout", "failed"])
def test_one_that_has_left_is_told_to_say_hello_again(members: Members, state: str) -> None:
    member, _ = members.hello(1, "a")
    members.leave(member, state)
    with pytest.raises(EvictedError, match=f"worker 1: {state}; say hello again"):
        members.require_current(1, member.incarnation)
    assert members.any_done == (state in (DONE, "timeout"))


def test_strangers_are_unknown(members: Members) -> None:
    member, _ = members.hello(1, "a")
    for worker, incarnation in ((2, member.incarnation), (1, member.incarnation + 1), (0, 1000)):
        with pytest.raises(UnknownWorkerError, match="say hello first"):
            members.require_current(worker, incarnation)
    with pytest.raises(UnknownWorkerError, match=r"rank 4 is not among the workers .*: 1, 2, 3"):
        members.hello(4, "d")


def test_observers_are_told_apart_by_their_incarnations(members: Members) -> None:
    first, second = members.hello(0, "x")[0], members.hello(0, "y")[0]
    assert members.require_current(0, first.incarnation) is first
    assert members.require_current(0, second.incarnation) is second
    members.leave(first, DONE)
    with pytest.raises(UnknownWorkerError):
        members.require_current(0, first.incarnation)
    assert members.live == []


@pytest.mark.parametrize("worker", [0, 2])
def test_a_newcomer_that_is_forgotten_was_never_there(members: Members, worker: int) -> None:
    others = [members.hello(rank, "")[0] for rank in (0, 1)]
    member, _ = members.hello(worker, "")
    members.forget(member)
    assert members.missing == [2, 3]
    assert list(members.observers.values()) == others[:1]
    with pytest.raises(UnknownWorkerError):
        members.require_current(worker, member.incarnation)


def test_observers_have_a_limit(members: Members) -> None:
    observers = [members.hello(0, "")[0] for _ in range(MAX_OBSERVERS)]
    with pytest.raises(TooManyError):
        members.hello(0, "")
    members.leave(observers[0], DONE)
    members.hello(0, "")


@given(st.lists(st.tuples(st.sampled_from(["hello", "leave"]), st.integers(1, 3))))
def test_each_rank_has_at_most_one_current_process(events: list[tuple[str, int]]) -> None:
    members = Members([1, 2, 3], EVICT_S)
    every, newest = [], {}
    for event, worker in events:
        if event == "hello":
            newest[worker], _ = members.hello(worker, "")
            every.append(newest[worker])
        elif worker in newest:
            members.leave(newest[worker], DONE)
    for member in every:
        if member is newest[member.worker] and member.state == LIVE:
            assert members.require_current(member.worker, member.incarnation) is member
        else:
            with pytest.raises((FencedError, EvictedError)):
                members.require_current(member.worker, member.incarnation)


def test_nobody_is_blamed_for_a_time_in_which_the_server_did_not_listen() -> None:
    now = [0.0]
    members = Members([1], evict_s=5.0, now=lambda: now[0])
    members.hello(1, "late")
    now[0] = 60.0
    members.excuse(58.0)
    assert members.silent() == []
    now[0] = 64.0
    assert len(members.silent()) == 1


def test_a_rank_of_an_earlier_server_has_left_unless_it_is_here_again() -> None:
    members = Members((1, 2), 5.0, lambda: 0.0)
    here, _ = members.hello(1, "here")
    for rank in (1, 2, 3):  # the last is not in this run
        members.remember(rank, "evicted")
    assert members.workers[1] is here
    assert {rank: member.state for rank, member in members.workers.items()} == {
        1: "live", 2: "evicted",
    }  # fmt: skip
