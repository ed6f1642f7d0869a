"""Workers that come and go while a run goes on, as a server without sockets sees them."""

from dataclasses import replace
from typing import Any

import pytest

from leash.ps.wire.messages import Beat, Beaten, Bye, Dismiss, Dismissed, Error, Hello, Ok, Welcome
from support.sockless import LAYOUT, SocklessServer

PACKED = LAYOUT.pack()


def make_server(policy: str = "ssp", **options: Any) -> SocklessServer:
    return SocklessServer(policy, **{"workers": 2, "max_workers": 4, "evict_s": 5.0, **options})


def from_machine(name: str, number: int, wish: int = 0) -> Hello:
    """A hello of the first process of this machine, which takes any rank."""
    return Hello("worker", wish, name, ["f32"], number, True, f"{name}/0", f"seat of {name}")


def welcome(server: SocklessServer, hello: Hello) -> Welcome:
    answer = server.ask(hello, PACKED)
    assert isinstance(answer, Welcome), answer
    return answer


def dismissed(server: SocklessServer, *names: Any) -> list[int]:
    answer = server.ask(Dismiss(*names))
    assert isinstance(answer, Dismissed), answer
    return answer.workers


def is_told(server: SocklessServer, worker: int) -> str:
    answer = server.ask(Beat(worker, server.incarnation(worker)))
    assert isinstance(answer, Beaten)
    return answer.leave


def news(server: SocklessServer) -> list[str]:
    """What the server has to say of comings since the last call."""
    told = list(server.coordinator.crew.news)
    server.coordinator.crew.news.clear()
    return told


# The number of workers.


def test_a_run_begins_as_soon_as_the_least_number_is_here_whatever_their_ranks() -> None:
    server = make_server()
    server.hello(4)
    assert server.beat(4).missing == [1]
    assert not server.beat(4).started
    server.hello(2)
    assert server.beat(4).started
    assert server.beat(4).missing == []


def test_with_one_number_every_rank_is_awaited() -> None:
    server = make_server(workers=3, max_workers=None)
    server.hello(3)
    assert server.beat(3).missing == [1, 2]


@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp", "dssp", "drop"])
def test_whoever_joins_later_takes_part_at_once(policy: str) -> None:
    bounds = {"ssp": 1, "dssp": 1, "drop": 9}
    server = make_server(policy, bound=bounds.get(policy))
    server.hello(1), server.hello(2)
    server.init()
    for step in (1, 2):
        server.push(1, step), server.push(2, step)
    newcomer = server.hello(3)
    assert newcomer.first_step == 3
    assert server.counted() == [[1, 2, 3]]
    begun = len(server.sent)
    server.push(1, 3), server.push(2, 3)
    waits = policy == "bsp"
    assert server.answered(1, begun) == ([] if waits else [3])
    server.push(3, 3)
    assert server.answered(1, begun) == server.answered(3, begun) == [3]


def test_no_more_take_part_than_may() -> None:
    server = make_server()
    for rank in (1, 2, 3, 4):
        server.hello(rank)
    assert server.refusal(Hello("worker", 5, "fifth"), PACKED).code == "unknown_worker"
    refusal = server.refusal(from_machine("fifth", 5), PACKED)
    assert refusal.code == "too_many"
    assert "all ranks of this run (4)" in refusal.text
    assert "--workers" in refusal.text


def test_all_that_may_be_said_of_the_crew_is_in_state_and_settings() -> None:
    server = make_server()
    settings = server.hello(1).settings
    assert (settings["workers"], settings["least_workers"]) == (4, 2)
    server.hello(2), server.hello(3)
    server.bye(2, "stopped"), server.bye(3, "stopped")
    assert server.coordinator.state()["most_at_once"] == 3


# Ranks that the server gives.


def test_each_machine_gets_a_rank_and_keeps_it_over_its_absence() -> None:
    server = make_server()
    ranks = {name: welcome(server, from_machine(name, n)).worker
             for n, name in enumerate(("a", "b", "c"), start=1)}  # fmt: skip
    assert ranks == {"a": 1, "b": 2, "c": 3}
    for rank in (1, 3):
        server.bye(rank, "stopped")
    assert welcome(server, from_machine("c", 10)).worker == 3
    assert welcome(server, from_machine("d", 11)).worker == 4  # nobody has had it
    assert welcome(server, from_machine("a", 12)).worker == 1


def test_a_hello_that_comes_again_gets_the_same_rank_and_incarnation() -> None:
    server = make_server()
    hello = from_machine("a", 7)
    first, again = welcome(server, hello), welcome(server, hello)
    assert (first.worker, first.incarnation) == (again.worker, again.incarnation)
    assert len(server.members.live) == 1


def test_a_process_that_is_started_again_before_it_is_missed_takes_its_own_place() -> None:
    server = make_server()
    first = welcome(server, from_machine("a", 1))
    again = welcome(server, from_machine("a", 2))
    assert again.worker == first.worker
    assert again.incarnation > first.incarnation
    assert [m.worker for m in server.members.live] == [first.worker]


def test_two_machines_of_one_name_have_two_ranks() -> None:
    server = make_server()
    first = welcome(server, from_machine("localhost", 1))
    other = replace(from_machine("localhost", 2), seat="another seat")
    assert welcome(server, other).worker != first.worker


def test_a_rank_that_is_wished_for_is_given_unless_another_machine_has_it() -> None:
    server = make_server()
    assert welcome(server, from_machine("a", 1, wish=3)).worker == 3
    assert welcome(server, from_machine("b", 2, wish=3)).worker == 1
    server.bye(3, "stopped")
    assert welcome(server, from_machine("c", 3, wish=3)).worker == 2


def test_a_newcomer_takes_the_rank_that_is_away_for_longest_before_one_that_is_done() -> None:
    server = make_server()
    for n, name in enumerate("abcd", start=1):
        welcome(server, from_machine(name, n))
    server.bye(1, "done")
    server.clock.skip(1)
    server.bye(3, "stopped")
    server.clock.skip(1)
    server.bye(2, "stopped")
    assert welcome(server, from_machine("new", 9)).worker == 3


def test_places_that_a_journal_has_kept_count_as_if_the_machines_had_been_here() -> None:
    server = make_server()
    server.coordinator.rank_giver.places.update({1: "x/0", 2: "y/0"})
    assert welcome(server, from_machine("y", 1)).worker == 2
    assert welcome(server, from_machine("z", 2)).worker == 3


def test_an_observer_takes_no_rank() -> None:
    refusal = make_server().refusal(Hello("observer", 0, "o", any_rank=True), PACKED)
    assert (refusal.code, "hello.any_rank" in refusal.text) == ("bad_header", True)


def test_nobody_joins_a_run_that_is_over() -> None:
    server = make_server()
    server.hello(1), server.hello(2)
    server.hello(0, layout=None)  # so that the server does not end
    server.bye(1), server.bye(2)
    assert server.refusal(from_machine("late", 5), PACKED).code == "stopping"
    assert server.refusal(Hello("worker", 3, "late"), PACKED).code == "stopping"


# Being told to leave.


def test_a_worker_that_is_dismissed_hears_of_it_with_its_next_beat() -> None:
    server = make_server()
    server.hello(1), server.hello(2)
    assert dismissed(server, 2) == [2]
    assert dismissed(server, 2) == [2]  # a repetition
    assert (is_told(server, 1), is_told(server, 2)) == ("", "leash leave")


def test_all_workers_of_a_host_are_dismissed_by_its_name_or_one_by_its_place() -> None:
    server = make_server()
    for n, place in enumerate(("gpu-3/0", "gpu-3/1", "gpu-31/0"), start=1):
        server.hello(n, place=place)
    assert dismissed(server, 0, "gpu-3/1") == [2]
    assert dismissed(server, 0, "gpu-3") == [1, 2]
    assert dismissed(server, 0, "gpu") == []
    assert dismissed(server, 4) == []


@pytest.mark.parametrize("dismiss", [Dismiss(), Dismiss(1, "gpu-3")])
def test_a_dismissal_names_a_rank_or_a_host(dismiss: Dismiss) -> None:
    assert make_server().refusal(dismiss).code == "bad_header"


def test_who_was_dismissed_and_evicted_before_it_heard_is_still_told() -> None:
    server = make_server()
    server.hello(1), welcome(server, from_machine("a", 1))
    dismissed(server, 2)
    server.evict(2)
    welcome(server, from_machine("a", 2))
    assert is_told(server, 2) == "leash leave"
    server.bye(2, "stopped")
    welcome(server, from_machine("a", 3))
    assert is_told(server, 2) == ""


# What people read.


def test_comings_are_told_in_one_line_each_once_the_run_goes_on() -> None:
    server = make_server()
    server.hello(1), server.hello(2)
    assert news(server) == []
    server.hello(3)
    assert news(server) == ["worker 3 (process 3) joins; 3 take part"]
    bye = Bye(3, server.incarnation(3), "stopped", "preempted")
    assert isinstance(server.ask(bye), Ok)
    assert news(server) == ["worker 3 leaves: preempted; 2 go on"]
    server.bye(2, "failed")
    assert news(server) == ["worker 2 leaves: it has failed; 1 goes on"]
    server.bye(1)
    assert news(server) == []  # it was done


def test_the_scaled_rate_of_a_mean_is_told_whenever_the_number_changes() -> None:
    server = make_server("bsp")
    server.hello(1), server.hello(2)
    server.coordinator.tick()
    server.hello(3)
    server.coordinator.tick()
    server.bye(1, "stopped")
    server.coordinator.tick()
    told = [line for line in news(server) if "lr-scaling" in line]
    assert [line.split(",")[0] for line in told] == [
        "an update is now a mean of 3", "an update is now a mean of 2"
    ]  # fmt: skip
    assert [event["workers"] for event in server.events.named("lr_scaled")] == [2, 3, 2]


@pytest.mark.parametrize("options", [{"policy": "ssp"}, {"policy": "bsp", "lr_scaling": "none"}])
def test_a_rate_that_is_not_scaled_is_not_told(options: dict[str, str]) -> None:
    server = make_server(**options)
    server.hello(1), server.hello(2), server.hello(3)
    server.coordinator.tick()
    assert not server.events.named("lr_scaled")


def test_errors_have_one_line_with_the_mend() -> None:
    answer = make_server().ask(Hello("worker", 0, "no rank"), PACKED)
    assert isinstance(answer, Error)
    assert "rank from 1" in answer.text
