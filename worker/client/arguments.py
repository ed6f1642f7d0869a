"""Checks what programs give to a client, before a server hears of it."""

import os
from operator import index
from typing import Final, Literal, SupportsIndex

from leash.ps.errors import ArgumentError, UsageError
from leash.ps.options.addresses import AUTO_RANK, MAX_RANK, RANK_MEND, check_server_address
from leash.ps.options.worker import GRACE_MAX_S, LEAVE_GRACE_S
from leash.ps.processes import GRACE_VARIABLE, PATIENCE_VARIABLE
from leash.ps.wire.messages import U32_MAX, U63_MAX
from leash.ps.wire.requester import PATIENCE_S

GRACE_MEND: Final = f"give a number of seconds from 0 to {GRACE_MAX_S:.0f}"
PATIENCE_MEND: Final = "give a number of seconds above 0, or inf"
TRANSPORTS: Final = ("auto", "tcp", "shm")


def checked_rank(rank: SupportsIndex | str, least: int) -> int | Literal["auto"]:
    """Checks a rank that a program gave, before a server hears of it.

    Args:
        rank: any whole number, also of numpy or torch; or "auto".
        least: 1 for a worker; 0 where it may be an observer.

    Returns:
        It, as an int, or "auto".

    Raises:
        ArgumentError: it is no whole number, or cannot be a rank.
    """
    if rank == AUTO_RANK:
        return AUTO_RANK
    try:
        number = index(rank)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(rank, bool) or not least <= number <= MAX_RANK:
        raise ArgumentError("rank", rank, RANK_MEND)
    return number


def checked_grace(grace_s: float | None) -> float:
    """Checks how long a program lets a worker take that was told to leave.

    Args:
        grace_s: seconds from 0; None where it did not say, so that LEASH_GRACE counts, or else
            `LEAVE_GRACE_S`.

    Returns:
        The seconds.

    Raises:
        UsageError: the argument or the variable is no such number.
    """
    text = os.environ.get(GRACE_VARIABLE)
    if grace_s is None and text is None:
        return LEAVE_GRACE_S
    try:
        seconds = float(grace_s if grace_s is not None else text or "")
    except (TypeError, ValueError):
        seconds = -1.0
    if 0 <= seconds <= GRACE_MAX_S:
        return seconds
    if grace_s is None:
        raise UsageError(f"{GRACE_VARIABLE}={text}: {GRACE_MEND}")
    raise ArgumentError("grace_s", grace_s, GRACE_MEND)


def checked_samples(samples: SupportsIndex) -> int:
    """Checks how many samples a program says are behind a step, before anything of it leaves.

    Args:
        samples: any whole number, also of numpy or a tensor of one value.

    Returns:
        It, as an int.

    Raises:
        ArgumentError: it is no whole number from 0 to 4294967295.
    """
    try:
        number = index(samples)
    except TypeError:
        number = -1
    if not 0 <= number <= U32_MAX:
        raise ArgumentError("samples", samples, f"give a whole number from 0 to {U32_MAX}")
    return number


def checked_patience(patience: float | None) -> float:
    """Checks for how long a program wants to keep trying when no server answers.

    Args:
        patience: seconds above 0, which may be infinite; None where it did not say, so that
            LEASH_PATIENCE counts, or else `PATIENCE_S`.

    Returns:
        The seconds.

    Raises:
        UsageError: the argument or the variable is no such number.
    """
    text = os.environ.get(PATIENCE_VARIABLE)
    if patience is None and text is None:
        return PATIENCE_S
    try:
        seconds = float(patience if patience is not None else text or "")
    except (TypeError, ValueError):
        seconds = -1.0
    if seconds > 0:  # nor is it a NaN
        return seconds
    if patience is None:
        raise UsageError(f"{PATIENCE_VARIABLE}={text}: {PATIENCE_MEND}")
    raise ArgumentError("patience", patience, PATIENCE_MEND)


def check_connection(address: str, transport: str, wait_s: float | None) -> None:
    """Checks what a program says of the connection to its server.

    Args:
        address: tcp://HOST:PORT.
        transport: one of `TRANSPORTS`.
        wait_s: above 0; None where nothing was said.

    Raises:
        UsageError: one of them cannot be.
    """
    if not isinstance(address, str):
        raise ArgumentError("server", address, "give its address, tcp://HOST:PORT")
    check_server_address(address)
    if transport not in TRANSPORTS:
        raise ArgumentError("transport", transport, f"take one of {', '.join(TRANSPORTS)}")
    if wait_s is not None and not wait_s > 0:
        raise ArgumentError("wait_s", wait_s, "give a number of seconds above 0")


def check_step(step: SupportsIndex) -> int:
    """Checks the number of a step that a program gave.

    Args:
        step: any whole number, also of numpy or torch.

    Returns:
        It, as an int.

    Raises:
        ArgumentError: it is no whole number from 0.
    """
    try:
        number = index(step)
    except TypeError:
        number = -1
    if not 0 <= number <= U63_MAX:
        raise ArgumentError("step", step, "give a whole number from 0")
    return number
