"""Addresses and ranks, as people write them."""

from collections.abc import Sequence
from typing import Final

from leash.ps.errors import ArgumentError, UsageError
from leash.ps.wire.messages import U32_MAX

MAX_RANK: Final = (
    U32_MAX - 1
)  # leash.ps.shard.data_plane uses the rank above it, to keep a place for a newcomer
RANK_MEND: Final = (
    f"ranks start from 1: give a whole number from 1 to {MAX_RANK} (of torchrun, RANK + 1)"
)
MAX_SHOWN_LEARNERS: Final = 100  # a `welcome` names no more ranks than this
DEFAULT_PORT: Final = 29500
DEFAULT_ADDRESS: Final = f"tcp://127.0.0.1:{DEFAULT_PORT}"


def address_of(address: str, ps_ip: str | None, ps_port: int | None) -> str:
    """Puts the host of --ps-ip and the port of --ps-port into an address.

    Raises:
        UsageError: not of the form tcp://HOST:PORT.
    """
    host, port = split_address(address)
    if ps_port is not None and not 0 <= ps_port <= 65535:
        raise UsageError(f"--ps-port {ps_port}: a port is a number from 0 to 65535")
    return f"tcp://{ps_ip or host}:{port if ps_port is None else ps_port}"


def split_address(address: str) -> tuple[str, int]:
    """Splits tcp://HOST:PORT into (HOST, PORT), * being port 0; UsageError for another form."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    port = "0" if port == "*" else port
    if scheme != "tcp" or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"address {address!r}: write it as tcp://HOST:PORT, such as {DEFAULT_ADDRESS}"
        )
    return host, int(port)


def check_rank(rank: int) -> None:
    """Raises ArgumentError for a number that cannot be a worker's rank."""
    if not 1 <= rank <= MAX_RANK:
        raise ArgumentError("rank", rank, RANK_MEND)


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
