"""A client says hello until it is heard, and again where the server has given it up meanwhile."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from leash.ps.errors import TooManyError
from leash.ps.wire import requester
from leash.ps.wire.frames import encode
from leash.ps.wire.layout import Layout, Slot
from leash.ps.wire.messages import Error, Hello, Message
from leash.worker.client import Client
from leash.worker.client.control import membership
from support.answering import Frames, server
from support.servers import serving

LAYOUT = Layout([Slot("w", "f32", (4,))])
EVICTED = Error("evicted", "worker 1: evicted", 1, 0, 0, 0)
END = Error("too_many", "the end of this test", 1, 0, 0, 0)


def test_a_hello_keeps_its_number_until_it_is_answered_and_the_next_has_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requester, "RETRY_S", 0.1)
    heard: list[int] = []

    def answer(message: Message) -> list[Frames]:
        assert isinstance(message, Hello)
        heard.append(message.number)
        if len(heard) < 3:
            return []
        return [[encode(EVICTED if heard[0] == message.number else END)]]

    with server(answer) as address, pytest.raises(TooManyError, match="the end of this test"):
        Client(address, LAYOUT, rank=1)
    assert heard[0] == heard[1] == heard[2] > 0
    assert heard[-1] not in (0, heard[0])


def test_two_processes_draw_different_numbers() -> None:
    heard: list[Message] = []

    def answer(message: Message) -> list[Frames]:
        heard.append(message)
        return [[encode(END)]]

    with server(answer) as address:
        for _ in range(2):
            with pytest.raises(TooManyError):
                Client(address, LAYOUT, rank=1)
    numbers = {hello.number for hello in heard if isinstance(hello, Hello)}
    assert len(numbers) == 2


def test_a_worker_that_takes_any_rank_waits_until_one_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "RANK_AGAIN_S", 0.02)
    said: list[str] = []
    with serving(workers=1, data_plan="lease") as running, ThreadPoolExecutor(1) as pool:
        first = Client(running.address, LAYOUT, rank="auto")
        waiting = pool.submit(Client, running.address, LAYOUT, rank="auto", say=said.append)
        refused = running.server.metrics.own.refusals
        while refused["too_many"] < 3:  # it asks again and again
            assert not waiting.done()
        first.close("stopped")
        second = waiting.result(30.0)
        assert second.rank == 1
        second.close("stopped")
    (told,) = said
    assert told.startswith("all ranks of this run (1) are taken: one is free once a worker leaves")
    assert told.endswith("this worker waits for that")


def test_it_waits_for_a_rank_for_as_long_as_it_was_told_to() -> None:
    with (
        server(lambda _: [[encode(END)]]) as address,
        pytest.raises(TooManyError, match="the end of this test"),
    ):
        Client(address, LAYOUT, rank="auto", wait_s=1.0)
