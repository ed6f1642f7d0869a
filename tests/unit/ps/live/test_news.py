"""What the live page says of workers and of events."""

import pytest

from leash.ps.commands.run_table import epoch_of
from leash.ps.live.news import told_of, workers_table
from leash.ps.wire.messages import Lease
from leash.ps.words import BYE_REASONS, EVICTED, REPLACED, RESTING, TAKES_PART
from support.sockless import SocklessServer


@pytest.mark.parametrize("reason", [*BYE_REASONS, RESTING, EVICTED, REPLACED])
def test_why_a_worker_has_left_is_a_sentence_for_people(reason: str) -> None:
    told = told_of({"event": "left", "worker": 3, "incarnation": 7, "reason": reason})
    assert "worker 3" in told
    assert not told.endswith(f": {reason}")
    assert len(told.split()) >= 4


def test_an_observer_and_what_another_release_writes_are_no_lines() -> None:
    assert told_of({"event": "joined", "worker": 0, "name": "evaluator:9"}) == ""
    assert told_of({"event": "left", "worker": 1, "reason": "abducted"}) == ""
    assert told_of({"event": "abducted", "worker": 1}) == ""


def test_the_epochs_of_a_loop_with_leases_stand_in_its_row_and_in_the_heading() -> None:
    """Such a loop reports none, and the server need not be told how many there are."""
    server = SocklessServer("ssp", workers=2)
    server.start()
    assert epoch_of(server.coordinator.state()) == ""
    for number in (1, 2):
        for worker in (1, 2):
            server.ask(Lease(worker, server.incarnation(worker), number, 20, 3, 10, 0.0))
            server.push(worker, number, 10)
    state = server.coordinator.state()
    assert [(row["epoch"], row["state"] in TAKES_PART) for row in state["table"]] == [(1, True)] * 2
    assert epoch_of(state) == "epoch 2 of 3"
    table = workers_table(state)
    assert table.count('<td class="number">1</td>') == 2
    assert "Epoch: those completed." in table
