import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import msgpack
import pytest
import zmq

from leash.ps.errors import (
    FencedError,
    FrameCountError,
    HeaderError,
    ServerUnreachableError,
    UsageError,
)
from leash.ps.wire import hosts, requester
from leash.ps.wire.control import ControlChannel, await_state, request_state
from leash.ps.wire.frames import encode
from leash.ps.wire.messages import Beat, Beaten, Error, Message, Ok, State, Status
from leash.ps.wire.sockets import bind, make_router
from support.answering import server
from support.relays import Relay

SOON_S = 0.1
BEAT = Beat(1, 1)
OK = encode(Ok(1, 0, 0, True))
STATE = [encode(State()), msgpack.packb({"steps": 7})]


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens: its port is taken by a socket that does not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{taken.getsockname()[1]}"


def test_a_request_brings_its_answer_and_payload() -> None:
    with server(lambda _: [STATE]) as address, ControlChannel(address) as channel:
        assert channel.request(Status(), State) == (State(), STATE[1])
        assert request_state(channel) == {"steps": 7}


def test_an_error_is_raised_as_what_it_stands_for() -> None:
    error = encode(Error("fenced", "another process", 1, 0, 0, 0))
    with (
        server(lambda _: [[error]]) as address,
        ControlChannel(address) as channel,
        pytest.raises(FencedError, match="another process"),
    ):
        channel.request(BEAT, Beaten)


def test_an_answer_of_another_kind_is_refused() -> None:
    with (
        server(lambda _: [[OK]]) as address,
        ControlChannel(address) as channel,
        pytest.raises(HeaderError, match="expected one of beaten, error, got 'ok'"),
    ):
        channel.request(BEAT, Beaten)


def test_a_payload_too_many_is_refused() -> None:
    with (
        server(lambda _: [[OK, b"x"]]) as address,
        ControlChannel(address) as channel,
        pytest.raises(FrameCountError),
    ):
        channel.request(BEAT, Ok)


def test_nobody_answers_in_one_line_with_address_and_mend(nobody: str) -> None:
    with ControlChannel(nobody) as channel, pytest.raises(ServerUnreachableError) as caught:
        channel.request(Status(), State, timeout_s=SOON_S)
    assert str(caught.value) == (
        f"no server answers at {nobody} (waited 0.1 s): start one with leash server, or give its "
        "address, tcp://HOST:PORT"
    )


def test_who_hears_of_silences_is_not_told_of_an_answer_where_a_request_is_given_up(
    nobody: str,
) -> None:
    heard: list[float] = []
    with ControlChannel(nobody, on_silence=heard.append) as channel:
        for _ in range(2):
            with pytest.raises(ServerUnreachableError):
                channel.request(Status(), State, timeout_s=SOON_S)
    assert heard == [SOON_S, SOON_S]


def test_a_server_that_listens_and_is_silent_is_told_from_none() -> None:
    with (
        server(lambda _: []) as address,
        ControlChannel(address) as channel,
        pytest.raises(ServerUnreachableError, match="something listens there"),
    ):
        channel.request(Status(), State, timeout_s=SOON_S * 5)


def test_what_listens_and_speaks_no_zeromq_is_told_from_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with ControlChannel(address) as channel, pytest.raises(UsageError, match="is it a leash"):
            await_state(channel, SOON_S, lambda _: None)


def test_an_unknown_host_is_told_from_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    address = "tcp://no-such-host.invalid:29500"
    heard: list[float] = []
    with ControlChannel(address) as channel, pytest.raises(UsageError) as caught:
        await_state(channel, 0.7, heard.append)
    assert str(caught.value) == (
        f"no server answers at {address} (waited 0.7 s): no host no-such-host.invalid is known "
        "here (Name or service not known); mend its name, or give its address"
    )
    assert heard  # a name may become known while a worker waits


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_where_a_server_listens_is_told_from_its_address(nobody: str, host: str) -> None:
    address = f"tcp://{host}:{nobody.rpartition(':')[2]}"
    with ControlChannel(address) as channel, pytest.raises(UsageError) as caught:
        await_state(channel, SOON_S, lambda _: None)
    assert f"{host} is where a server listens; give an address" in str(caught.value)


def test_a_data_port_is_a_wrong_address() -> None:
    error = encode(Error("wrong_socket", "this is a data port", 0, 0, 0, 0))
    with (
        server(lambda _: [[error]]) as address,
        ControlChannel(address) as channel,
        pytest.raises(UsageError, match=f"address {address}: this is a data port"),
    ):
        channel.request(Status(), State)


def test_a_late_answer_is_not_taken_for_the_next_ones() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    answers: list[Message] = []
    try:
        with ControlChannel(f"tcp://127.0.0.1:{port}", context) as channel:
            with pytest.raises(ServerUnreachableError):
                channel.request(BEAT, Ok, timeout_s=SOON_S * 5)
            asker = threading.Thread(target=lambda: answers.append(channel.request(BEAT, Ok)[0]))
            asker.start()
            first, _ = router.recv_multipart()
            second, _ = router.recv_multipart()
            with suppress(zmq.ZMQError):  # whoever asked first is gone
                router.send_multipart([first, encode(Ok(1, 0, 0, False))])
            router.send_multipart([second, OK])
            asker.join()
    finally:
        context.destroy(linger=0)
    assert first != second
    assert answers == [Ok(1, 0, 0, True)]


def test_a_request_whose_connection_breaks_is_sent_again() -> None:
    with server(lambda _: [[OK]]) as address:
        relay = Relay(int(address.rpartition(":")[2]))
        relay.reset_with("beat")
        relay.reset_with("ok")
        with ControlChannel(f"tcp://127.0.0.1:{relay.port}") as channel:
            assert channel.request(BEAT, Ok)[0] == Ok(1, 0, 0, True)
        assert [relay.met.get_nowait() for _ in range(2)] == ["beat", "ok"]
        relay.close()


def test_a_request_without_an_answer_is_sent_again_and_only_the_newest_answer_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requester, "RETRY_S", SOON_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    answers: list[Message] = []

    def ask(channel: ControlChannel) -> None:
        answers.append(channel.request(BEAT, Ok)[0])

    try:
        with ControlChannel(f"tcp://127.0.0.1:{port}", context) as channel:
            asker = threading.Thread(target=ask, args=(channel,))
            asker.start()
            routes = [router.recv_multipart()[0] for _ in range(2)]
            monkeypatch.setattr(requester, "RETRY_S", 60.0)
            with suppress(zmq.ZMQError):  # whoever asked first is gone
                router.send_multipart([routes[0], encode(Ok(1, 0, 0, False))])
            while asker.is_alive():
                with suppress(zmq.ZMQError):  # as are those who asked while this test was slow
                    router.send_multipart([routes[-1], OK])
                asker.join(SOON_S)
                if router.poll(0):
                    routes.append(router.recv_multipart()[0])
    finally:
        context.destroy(linger=0)
    assert routes[0] != routes[1]
    assert answers == [Ok(1, 0, 0, True)]


def test_what_is_no_address_is_a_wrong_argument() -> None:
    with ControlChannel("nowhere") as channel, pytest.raises(UsageError, match="tcp://HOST:PORT"):
        channel.request(Status(), State)


def test_who_waits_for_a_server_hears_of_it_and_then_gives_up(nobody: str) -> None:
    heard: list[float] = []
    with (
        ControlChannel(nobody) as channel,
        pytest.raises(UsageError, match=f"no server answers at {nobody} .waited 0.7 s"),
    ):
        await_state(channel, 0.7, heard.append)
    assert heard
    assert max(heard) < 0.7


def test_a_server_that_comes_later_is_found() -> None:
    with server(lambda _: [STATE]) as address, ControlChannel(address) as channel:
        assert await_state(channel, 5.0, lambda _: None) == {"steps": 7}


def test_closing_twice_does_no_harm() -> None:
    channel = ControlChannel("tcp://127.0.0.1:1")
    channel.close()
    channel.close()


def test_a_server_that_comes_later_and_by_ipv6_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name stands for both kinds of address, and nobody listened when this began."""
    looks = iter([False])
    monkeypatch.setattr(hosts, "needs_ipv6", lambda *_: next(looks, True))
    monkeypatch.setattr(requester, "RETRY_S", SOON_S)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with make_router(context, 8, 4096) as router:
        address = f"tcp://[::1]:{bind(router, '[::1]', 0)}"
        with ControlChannel(address) as channel:
            answers: list[Message] = []
            asker = threading.Thread(target=lambda: answers.append(channel.request(BEAT, Ok)[0]))
            asker.start()
            route, _ = router.recv_multipart()
            router.send_multipart([route, OK])
            asker.join()
    context.destroy(linger=0)
    assert answers == [Ok(1, 0, 0, True)]
