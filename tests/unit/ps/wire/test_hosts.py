"""Names and addresses of hosts, IPv4 and IPv6; the sockets are real."""

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
import zmq

from leash.ps.errors import UsageError
from leash.ps.wire import hosts
from leash.ps.wire.sockets import bind, connect, host_and_port, make_dealer, make_router

V4, V6 = ("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)


@contextmanager
def listening(*addresses: str) -> Iterator[int]:
    """Takes connections at these loopback addresses, all on one port."""
    sockets = [socket.create_server((addresses[0], 0), family=_family(addresses[0]))]
    port: int = sockets[0].getsockname()[1]
    try:
        sockets += [
            socket.create_server((address, port), family=_family(address))
            for address in addresses[1:]
        ]
        yield port
    finally:
        for each in sockets:
            each.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int]) -> None:
    """Has every name stand for these addresses."""
    real = socket.getaddrinfo

    def resolved(host: str, port: int, *args: object, **options: int) -> list[object]:
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host != "somewhere":
            return list(real(host, port, *args, **options))  # type: ignore[arg-type]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address, family in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.mark.parametrize(
    ("listens", "known", "over_ipv6"),
    [
        (["127.0.0.1"], [V4], False),
        (["::1"], [V6], True),
        (["127.0.0.1"], [V6, V4], False),
        (["::1"], [V4, V6], True),
        (["127.0.0.1", "::1"], [V6, V4], False),  # IPv4 wherever it works
        ([], [V6, V4], False),
        (["::1"], [], False),  # unknown for now
    ],
)
def test_a_name_is_reached_over_the_kind_of_address_at_which_somebody_listens(
    monkeypatch: pytest.MonkeyPatch,
    listens: list[str],
    known: list[tuple[str, int]],
    over_ipv6: bool,
) -> None:
    resolve_to(monkeypatch, *known)
    with listening(*listens or ["127.0.0.2"]) as port:
        assert hosts.needs_ipv6("somewhere", port) is over_ipv6


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "[::1]", "[fe80::1%lo]", "0.0.0.0"])
def test_an_address_needs_no_look_at_the_network(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the system"))
    assert hosts.needs_ipv6(host, 1) is host.startswith("[")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "*", "0.0.0.0", "[::]", "localhost", "lo"])
def test_a_server_binds_to_addresses_names_and_interfaces(host: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        server, client = make_router(context, 8, 4096), make_dealer(context, 8, 4096)
        port = bind(server, host, 0)
        connect(client, f"tcp://{'127.0.0.1' if host == 'lo' else hosts.local(host)}:{port}")
        assert client.poll(5000, zmq.POLLOUT)
        client.send(b"hello")
        assert server.recv_multipart()[1] == b"hello"
    finally:
        context.destroy(linger=0)


def test_a_server_at_every_address_of_ipv6_is_reached_by_ipv4_too() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        server, client = make_router(context, 8, 4096), make_dealer(context, 8, 4096)
        connect(client, f"tcp://127.0.0.1:{bind(server, '[::]', 0)}")
        assert client.poll(5000, zmq.POLLOUT)
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("host", ["somewhere", "[2001:db8::7]", "198.51.100.7"])
def test_what_is_not_of_this_host_cannot_be_bound_to(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    resolve_to(monkeypatch)
    mend = r"give an address of this host, such as tcp://0\.0\.0\.0:PORT"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with make_router(context, 8, 4096) as server, pytest.raises(UsageError, match=mend):
        bind(server, host, 0)
    context.term()


@pytest.mark.parametrize("address", ["nowhere", "tcp://host", "udp://host:1", "tcp://:1", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="write it as tcp://HOST:PORT"):
        host_and_port(address)


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("[::1]", True), ("localhost", True),
     ("0.0.0.0", False), ("[::]", False), ("*", False), ("192.0.2.7", False)],
)  # fmt: skip
def test_loopback_is_what_no_other_machine_reaches(host: str, is_loopback: bool) -> None:
    assert hosts.is_loopback(host) is is_loopback


@pytest.mark.parametrize("ipv6", [False, True])
def test_the_own_addresses_are_those_of_the_interfaces(ipv6: bool) -> None:
    families = (socket.AF_INET, socket.AF_INET6) if ipv6 else (socket.AF_INET,)
    known = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in families
    }
    own = [host.strip("[]") for host in hosts.own_hosts(ipv6=ipv6)]
    assert len(set(own)) == len(own)
    assert set(own) <= known
    assert not any(ipaddress.ip_address(host).is_loopback for host in own)
    reaches = {host for host in known if "%" not in host}
    reaches -= {host for host in reaches if ipaddress.ip_address(host).is_loopback}
    if not ipv6 and reaches:
        assert own  # the first of each interface, at least


def test_the_address_towards_the_internet_comes_first_and_that_towards_containers_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interfaces = [("docker0", "172.17.0.1"), ("lo", "127.0.0.1"), ("wlan0", "192.168.1.5"),
                  ("eth0", "10.0.0.5"), ("br-0af3", "172.18.0.1"), ("ib0", "10.9.0.5")]  # fmt: skip
    monkeypatch.setattr(hosts, "_ipv4_interfaces", lambda: iter(interfaces))
    monkeypatch.setattr(hosts, "_outward", lambda _: "10.0.0.5")
    assert hosts.own_hosts(ipv6=False) == [
        "10.0.0.5", "192.168.1.5", "10.9.0.5", "172.17.0.1", "172.18.0.1",
    ]  # fmt: skip
    monkeypatch.setattr(hosts, "_outward", lambda _: None)
    assert hosts.own_hosts(ipv6=False)[0] == "192.168.1.5"
