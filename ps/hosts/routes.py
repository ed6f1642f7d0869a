"""The addresses of this machine at which another one may find a server here."""

import socket
from contextlib import suppress
from typing import Final

from leash.ps.hosts.ssh import ssh_settings
from leash.ps.wire import hosts

MOST_ADDRESSES: Final = 8  # addresses that a host tries
_PORT: Final = 9  # nothing is sent there


def addresses_for(host: str) -> list[str]:
    """Those that a host tries, the likeliest first: that of the route there, then all others.

    An IPv6 address stands between brackets.

    Args:
        host: as ssh takes it.

    Raises:
        UsageError: ssh does not take it.
    """
    settings = ssh_settings(host)
    others = hosts.own_hosts(ipv6=True)
    is_direct = all(settings.get(by, "none") == "none" for by in ("proxyjump", "proxycommand"))
    # Behind another host its name may be unknown here, or stand for another machine.
    first = address_towards(settings.get("hostname", host)) if is_direct else None
    return list(dict.fromkeys([first, *others] if first else others))[:MOST_ADDRESSES]


def address_towards(host: str) -> str | None:
    """The address from which this machine reaches a host; None where there is no way.

    Args:
        host: its name or address.
    """
    with suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(host, _PORT, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(place)
                found: str = probe.getsockname()[0].partition("%")[0]
                return f"[{found}]" if family == socket.AF_INET6 else found
    return None
