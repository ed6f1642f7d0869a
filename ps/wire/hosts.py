"""Hosts by name and by address, IPv4 and IPv6; and the addresses of this host.

In tcp://HOST:PORT an IPv6 address stands between brackets, as in tcp://[::1]:29500. A host is
written here as it stands there, brackets included.
"""

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

KNOCK_S: Final = 0.2  # a port that does not take a connection in this time counts as closed

# Where a server listens at every address of its host: of IPv4, and of IPv6 and IPv4.
EVERY_IPV4: Final = ("*", "0.0.0.0")
EVERY_IPV6: Final = "[::]"

# A destination of the public internet, in each family. Nothing is sent there: the system only tells
# from which of its addresses it would send.
_FAR_AWAY: Final = {socket.AF_INET: "198.51.100.1", socket.AF_INET6: "2001:db8::1"}
_SIOCGIFADDR: Final = 0x8915  # of linux/sockios.h: an interface's IPv4 address
_GLOBAL_SCOPE: Final = "00"  # in /proc/net/if_inet6
_IPV6_INTERFACES: Final = Path("/proc/net/if_inet6")
# Interfaces of these names lead to containers and virtual machines of this host.
_INSIDE: Final = ("docker", "br-", "veth", "virbr", "cni", "podman", "lxc")


def is_every(host: str) -> bool:
    """Whether it stands for every address of a server's host."""
    return host in EVERY_IPV4 or host == EVERY_IPV6


def is_loopback(host: str) -> bool:
    """Whether only processes of the same host can reach it."""
    if is_every(host):
        return False
    host = dict(_ipv4_interfaces()).get(host, host)
    with suppress(OSError):
        places = [place[0].partition("%")[0] for _, place in _found(host, 0)]
        return all(ipaddress.ip_address(place).is_loopback for place in places)
    return False


def is_literal(host: str) -> bool:
    """Whether it is an address and not a name."""
    try:
        ipaddress.ip_address(_bare(host))
    except ValueError:
        return False
    return True


def needs_ipv6(host: str, port: int) -> bool:
    """Whether a connection to this host has to go over IPv6.

    A name may stand for addresses of both kinds. IPv4 is taken then, unless somebody listens at the
    other alone.
    """
    if is_literal(host):
        return host.startswith("[")
    with suppress(OSError):  # a name that is unknown for now may be known later
        by_family = dict(reversed(_found(host, port)))
        if len(by_family) == 1:
            return socket.AF_INET6 in by_family
        return not _takes(by_family[socket.AF_INET]) and _takes(by_family[socket.AF_INET6])
    return False


def why_unknown(host: str) -> str | None:
    """What the system says of a name that it does not know; None of one that it knows."""
    try:
        _found(host, 0)
    except OSError as error:
        return error.strerror or str(error)
    return None


def local(host: str) -> str:
    """The host at which a process of this machine finds a server that listens at `host`."""
    if host in EVERY_IPV4:
        return "127.0.0.1"
    return "[::1]" if host == EVERY_IPV6 else host


def is_open(host: str, port: int) -> bool:
    """Whether anybody takes TCP connections there."""
    with suppress(OSError):
        return any(_takes(place) for _, place in _found(host, port))
    return False


def refuses(host: str, port: int) -> bool:
    """Whether the host is there, and says that nobody listens at this port with ZeroMQ."""
    with suppress(OSError):
        places = [place for _, place in _found(host, port)]
        return bool(places) and all(map(_refuses, places))
    return False


def to_bind(host: str) -> str:
    """The address at which a server that was given this host listens.

    ZeroMQ binds to addresses and interfaces of this host, not to names.
    """
    interfaces = {name for _, name in socket.if_nameindex()}
    if is_every(host) or is_literal(host) or host in interfaces:
        return host
    family, place = min(_found(host, 0), key=lambda found: found[0] != socket.AF_INET)
    return f"[{place[0]}]" if family == socket.AF_INET6 else place[0]


def own_hosts(*, ipv6: bool) -> list[str]:
    """The addresses at which other machines may reach this one, the likeliest first.

    That is the one from which this host reaches the internet; those that lead to its own containers
    come last. Without any, the list is empty.

    Args:
        ipv6: whether to take those of IPv6 too, behind those of IPv4.
    """
    found = _sorted(socket.AF_INET, _ipv4_interfaces())
    if ipv6:
        found += [f"[{host}]" for host in _sorted(socket.AF_INET6, _ipv6_interfaces())]
    return found


# How it is done.

_Place = tuple[str, int] | tuple[str, int, int, int]


def _bare(host: str) -> str:
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _found(host: str, port: int) -> list[tuple[int, _Place]]:
    """The family and the place of each address of a host; OSError if it is unknown."""
    answers = socket.getaddrinfo(_bare(host), port, type=socket.SOCK_STREAM)
    return [(answer[0], answer[4]) for answer in answers]  # type: ignore[misc]


def _takes(place: _Place) -> bool:
    with suppress(OSError), socket.create_connection(place[:2], KNOCK_S):
        return True
    return False


def _refuses(place: _Place) -> bool:
    try:
        with socket.create_connection(place[:2], KNOCK_S) as knocking:
            return not knocking.recv(1)  # as a proxy does; ZeroMQ greets whoever connects
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    except OSError:
        return False  # nobody answers, as in an outage


def _sorted(family: socket.AddressFamily, interfaces: Iterator[tuple[str, str]]) -> list[str]:
    """The hosts of these interfaces, without those of the loopback."""
    outward = _outward(family)

    def rank(found: tuple[str, str]) -> tuple[bool, bool]:
        interface, host = found
        return host != outward, interface.startswith(_INSIDE)

    return [host for _, host in sorted(interfaces, key=rank) if not is_loopback(host)]


def _outward(family: socket.AddressFamily) -> str | None:
    """The address from which this host reaches the internet; None if it does not."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((_FAR_AWAY[family], 1))
        host: str = probe.getsockname()[0]
        return host
    return None


def _ipv4_interfaces() -> Iterator[tuple[str, str]]:
    """The name and the IPv4 address of each interface that has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                request = struct.pack("256s", name.encode())
                yield name, socket.inet_ntoa(fcntl.ioctl(asking, _SIOCGIFADDR, request)[20:24])


def _ipv6_interfaces() -> Iterator[tuple[str, str]]:
    """The name and each global IPv6 address of each interface."""
    with suppress(OSError):  # the system has no IPv6
        for line in _IPV6_INTERFACES.read_text().splitlines():
            digits, _, _, scope, _, name = line.split()
            if scope == _GLOBAL_SCOPE:
                yield name, str(ipaddress.IPv6Address(int(digits, 16)))
