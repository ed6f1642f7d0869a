"""A run that ends with less training than it was asked for knows what is missing, and whose."""

from typing import Any

import pytest

from leash.ps.policy import POLICIES
from leash.ps.runs.unfinished import Unfinished
from leash.ps.wire.messages import TRAIN, Lease, Leased, Report
from support.sockless import SocklessServer

SHARE = 10  # samples of a worker's share
EPOCHS = 3
LOST = ("evicted", "failed", "stopped")  # ways to leave for good before one's work is done
BOUNDS = {"ssp": 100, "dssp": 100, "drop": 0}


def make_server(policy: str = "asp", workers: int = 2, **options: Any) -> SocklessServer:
    server = SocklessServer(policy, BOUNDS.get(policy), workers=workers, **options)
    server.start()
    return server


def report(server: SocklessServer, worker: int, kind: str, epoch: int, samples: int = 0) -> None:
    incarnation = server.incarnation(worker)
    server.ask(Report(worker, incarnation, kind, epoch, 0, samples, 0.0, 0.0, 0.0, 0.0))


def plan(server: SocklessServer, *workers: int) -> None:
    for worker in workers:
        report(server, worker, "plan", EPOCHS, SHARE)


def train(server: SocklessServer, worker: int, first_step: int, samples: int) -> None:
    for step in range(samples):
        server.push(worker, first_step + step)


def leave(server: SocklessServer, worker: int, way: str) -> None:
    if way == "evicted":
        server.evict(worker)
    else:
        server.bye(worker, way)


def complete(server: SocklessServer, worker: int) -> None:
    """This worker trains all of its epochs, and is done."""
    for epoch in range(EPOCHS):
        train(server, worker, epoch * SHARE + 1, SHARE)
        report(server, worker, "epoch", epoch + 1)
    server.bye(worker)


@pytest.mark.parametrize("way", [*LOST, "timeout"])
@pytest.mark.parametrize("policy", POLICIES)
def test_the_rest_of_the_share_of_a_worker_that_left_for_good_is_missing(
    policy: str, way: str
) -> None:
    server = make_server(policy, workers=3 if policy == "backup" else 2)
    ranks = server.members.ranks
    plan(server, *ranks)
    for step in range(1, SHARE + 5):  # one epoch, and four samples of the second
        for worker in ranks:
            server.push(worker, step)
        if step == SHARE:
            for worker in ranks:
                report(server, worker, "epoch", 1)
    leave(server, 2, way)
    for worker in set(ranks) - {2}:
        for epoch in (2, 3):
            report(server, worker, "epoch", epoch)
        server.bye(worker)
    if way == "evicted":
        assert not server.coordinator.finished  # it may come back for a while
        server.clock.skip(server.options.rejoin_s + 1)
    assert server.coordinator.finished
    assert server.coordinator.unfinished() == [Unfinished(2, way, "2-3", 2 * SHARE - 4)]
    assert server.coordinator.state()["unfinished"] == [
        {"worker": 2, "state": way, "epochs": "2-3", "samples": 2 * SHARE - 4}
    ]


def test_a_run_whose_workers_have_all_completed_their_shares_misses_nothing() -> None:
    server = make_server()
    plan(server, 1, 2)
    complete(server, 1)
    complete(server, 2)
    assert server.coordinator.unfinished() == []


@pytest.mark.parametrize("way", LOST)
def test_one_that_left_after_its_last_epoch_misses_nothing(way: str) -> None:
    server = make_server()
    plan(server, 1, 2)
    complete(server, 1)
    for epoch in range(1, EPOCHS + 1):
        report(server, 2, "epoch", epoch)
    leave(server, 2, way)
    assert server.coordinator.unfinished() == []


def test_a_replacement_that_goes_on_where_the_run_is_leaves_out_the_epochs_before() -> None:
    server = make_server()
    plan(server, 1, 2)
    server.evict(2)
    for epoch in (1, 2):
        report(server, 1, "epoch", epoch)
    server.hello(2)
    plan(server, 2)
    report(server, 2, "epoch", 3)
    server.bye(2)
    report(server, 1, "epoch", 3)
    server.bye(1)
    assert server.coordinator.unfinished() == [Unfinished(2, "done", "1-2", 2 * SHARE)]


@pytest.mark.parametrize("share", [SHARE, SHARE + 2])
def test_one_that_came_back_within_an_epoch_misses_what_none_of_its_processes_has_done(
    share: int,
) -> None:
    """Where its share is another one, its second process trains on the whole epoch again."""
    server = make_server(workers=1)
    plan(server, 1)
    train(server, 1, 1, 4)
    welcome = server.hello(1)
    assert (welcome.epochs, welcome.samples, welcome.share) == (0, 4, SHARE)
    report(server, 1, "plan", EPOCHS, share)
    train(server, 1, welcome.first_step, 3)
    leave(server, 1, "failed")
    done = 4 + 3 if share == SHARE else 3
    assert server.coordinator.unfinished() == [Unfinished(1, "failed", "1-3", 3 * share - done)]


@pytest.mark.parametrize("way", [*LOST, "timeout"])
def test_a_loop_of_ones_own_that_was_not_done_is_named_and_one_that_was_is_not(way: str) -> None:
    server = make_server()
    leave(server, 2, way)
    server.bye(1)
    assert server.coordinator.unfinished() == [Unfinished(2, way, "", None)]


@pytest.mark.parametrize("way", LOST)
def test_where_statistics_are_summed_the_others_have_done_a_lost_workers_share(way: str) -> None:
    server = make_server("bsp", optimizer="sum", lr=1.0)
    leave(server, 2, way)
    server.bye(1)
    assert server.coordinator.unfinished() == []


class Leasing:
    """A server whose two workers ask for leases of two epochs of `SHARE` samples."""

    def __init__(self) -> None:
        self.server = make_server(data_plan="lease")
        self.numbers = dict.fromkeys(self.server.members.ranks, 0)
        self.steps = dict.fromkeys(self.server.members.ranks, 0)

    def ask(self, worker: int) -> Leased:
        self.numbers[worker] += 1
        lease = Lease(
            worker, self.server.incarnation(worker), self.numbers[worker], SHARE, 2, 2, 0.0
        )
        answer = self.server.ask(lease)
        assert isinstance(answer, Leased), answer
        return answer

    def train(self, worker: int) -> int:
        """Trains on one lease; returns how many samples it had, 0 if there was none."""
        leased = self.ask(worker)
        if leased.order != TRAIN:
            return 0
        for _ in range(leased.count):
            self.steps[worker] += 1
            self.server.push(worker, self.steps[worker])
        return leased.count


@pytest.mark.parametrize("way", LOST)
def test_a_lost_workers_leases_go_to_the_others_so_that_nothing_is_missing(way: str) -> None:
    run = Leasing()
    run.train(2)
    run.ask(2)
    leave(run.server, 2, way)
    while run.train(1):
        pass
    run.server.bye(1)
    assert run.server.coordinator.unfinished() == []


@pytest.mark.parametrize("way", LOST)
def test_leased_samples_that_nobody_is_left_to_train_on_are_missing(way: str) -> None:
    run = Leasing()
    trained = run.train(1) + run.train(2)
    for worker in (1, 2):
        leave(run.server, worker, way)
    left = 2 * SHARE - trained
    assert run.server.coordinator.unfinished() == [Unfinished(None, "", "1-2", left)]


def test_leased_samples_for_which_only_time_was_short_say_so() -> None:
    run = Leasing()
    trained = run.train(1)
    for worker in (1, 2):
        run.server.bye(worker, "timeout")
    left = 2 * SHARE - trained
    assert run.server.coordinator.unfinished() == [Unfinished(None, "timeout", "1-2", left)]
