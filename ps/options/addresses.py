"""Addresses and ranks, as people write them."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from leash.ps.errors import ArgumentError, UsageError
from leash.ps.wire import hosts
from leash.ps.wire.messages import U32_MAX

MAX_RANK: Final = (
    U32_MAX - 1
)  # leash.ps.shard.data_desk uses the rank above it, to keep a place for a newcomer
AUTO_RANK: Final = "auto"  # stands for the rank that the server gives
RANK_MEND: Final = (
    f"ranks start from 1: give a whole number from 1 to {MAX_RANK} (of torchrun, RANK + 1), or "
    f"{AUTO_RANK} for the one that the server gives"
)
MAX_SHOWN_LEARNERS: Final = 100  # a `welcome` names no more ranks than this
MAX_PORT: Final = 65535
DEFAULT_PORT: Final = 29500
DEFAULT_ADDRESS: Final = f"tcp://127.0.0.1:{DEFAULT_PORT}"
_MISUSED: Final = re.compile(r"[:/\[\]\s]")  # no name of a host has one of these


def address_of(address: str, ps_ip: str | None, ps_port: int | None) -> str:
    """Puts the host of --ps-ip and the port of --ps-port into an address.

    Raises:
        UsageError: not of the form tcp://HOST:PORT.
    """
    host, port = split_address(address)
    if ps_port is not None and not 0 <= ps_port <= MAX_PORT:
        raise UsageError(f"--ps-port {ps_port}: a port is a number from 0 to {MAX_PORT}")
    if ps_ip is not None:
        host = f"[{ps_ip}]" if _is_ipv6(ps_ip) else ps_ip
    return f"tcp://{host}:{port if ps_port is None else ps_port}"


def split_address(address: str) -> tuple[str, int]:
    """Splits tcp://HOST:PORT into (HOST, PORT), * being port 0.

    An IPv6 address keeps its brackets.

    Raises:
        UsageError: the address is of another form.
    """
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and rest.count(":") > 1 and not rest.startswith("["):
        raise UsageError(
            f"address {address!r}: write an IPv6 address between brackets, such as "
            f"tcp://[::1]:{DEFAULT_PORT}"
        )
    port = "0" if port == "*" else port
    if scheme != "tcp" or not _is_host(host) or not port.isdecimal() or int(port) > MAX_PORT:
        raise UsageError(
            f"address {address!r}: write it as tcp://HOST:PORT, such as {DEFAULT_ADDRESS}"
        )
    return host, int(port)


def check_rank(rank: int) -> None:
    """Raises ArgumentError for a number that cannot be a worker's rank."""
    if not 1 <= rank <= MAX_RANK:
        raise ArgumentError("rank", rank, RANK_MEND)


def check_server_address(address: str) -> None:
    """Raises UsageError unless a process can reach a server at such an address."""
    host, port = split_address(address)
    if port == 0 or host == "*":
        raise UsageError(
            f"address {address!r}: a server may listen there, but to reach it takes its host and "
            f"its port, such as {DEFAULT_ADDRESS}; the server says them when it starts"
        )


def check_ports(address: str, shards: int) -> None:
    """Raises UsageError unless a server of so many shards finds its ports, one after another."""
    host, port = split_address(address)
    last = MAX_PORT - shards
    if port > last:
        raise UsageError(
            f"address {address!r}: a server takes the ports from this one to {shards} above it, "
            f"which would be {port + shards}; give at most tcp://{host}:{last}, or 0 for free ports"
        )


def risk_of(address: str) -> str:
    """Says that whoever reaches a server at this address can take part; empty on the loopback."""
    host, _ = split_address(address)
    if hosts.is_loopback(host):
        return ""
    return (
        f"{address}: whoever reaches it could join, read and change the model; either make keys "
        "(leash keys new DIR) and give --keys DIR, or trust the whole network and give --insecure"
    )


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return _is_ipv6(text[1:-1])
    return bool(text) and not _MISUSED.search(text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def parse_learners(text: str | None, workers: int) -> tuple[int, ...]:
    """Reads the ranks that take part: from a text such as "1-2-3", or 1 to `workers` without one.

    Raises:
        UsageError: the text names no rank, a rank twice, or something that is no number from 1.
    """
    if text is None:
        if workers < 1:
            raise UsageError(f"--workers {workers}: give 1 or more")
        return tuple(range(1, workers + 1))
    parts = text.split("-")
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise UsageError(f"--learners {text}: write ranks from 1 with dashes, such as 1-2-3")
    ranks = tuple(int(part) for part in parts)
    if max(ranks) > MAX_RANK:
        raise UsageError(f"--learners {text}: a rank is at most {MAX_RANK}")
    if len(set(ranks)) != len(ranks):
        raise UsageError(f"--learners {text}: a rank stands there twice")
    return ranks


def shown_learners(ranks: Sequence[int], most: int | None = MAX_SHOWN_LEARNERS) -> str:
    """Writes the ranks that take part, as `parse_learners` reads them.

    Args:
        most: how many to write; the others are left out. None writes all.
    """
    return "-".join(map(str, ranks[:most]))
