"""Addresses and ranks, as people write them."""

from collections.abc import Sequence
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.wire.messages import U32_MAX

MAX_RANK: Final = (
    U32_MAX - 1
)  # the one above it keeps a place for newcomers: see leash.ps.shard.data_plane
MAX_SHOWN_LEARNERS: Final = 100  # as many ranks as a `welcome` names
DEFAULT_PORT: Final = 29500
DEFAULT_ADDRESS: Final = f"tcp://127.0.0.1:{DEFAULT_PORT}"


def address_of(address: str, ps_ip: str | None, ps_port: int | None) -> str:
    """The address, with host and port replaced by those of --ps-ip and --ps-port.

    Raises:
        UsageError: not of the form tcp://HOST:PORT.
    """
    host, port = split_address(address)
    if ps_port is not None and not 0 <= ps_port <= 65535:
        raise UsageError(f"--ps-port {ps_port}: a port is a number from 0 to 65535")
    return f"tcp://{ps_ip or host}:{port if ps_port is None else ps_port}"


def split_address(address: str) -> tuple[str, int]:
    """tcp://HOST:PORT ▸ (HOST, PORT); a port of * is 0. Raises UsageError for anything else."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    port = "0" if port == "*" else port
    if scheme != "tcp" or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"address {address!r}: write it as tcp://HOST:PORT, such as {DEFAULT_ADDRESS}"
        )
    return host, int(port)


def parse_learners(text: str | None, workers: int) -> tuple[int, ...]:
    """The ranks that take part: of "1-2-3" if given, otherwise 1 to `workers`.

    Raises:
        UsageError: no rank, a rank twice, or one that is no number from 1.
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
    """The ranks that take part, as `parse_learners` reads them.

    Args:
        most: names so many of them, and leaves the others out; None for all.
    """
    return "-".join(map(str, ranks[:most]))
