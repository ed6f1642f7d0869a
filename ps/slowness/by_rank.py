"""Reads the lists of --slow, --heterogeneity and --hetero-allocation, one item for each worker."""

import math

from leash.ps.errors import UsageError
from leash.ps.slowness.grammar import Slowness, parse_slowness, split_by_worker


def parse_slow(text: str, workers: int, flag: str = "--slow") -> list[Slowness]:
    """Reads each worker's slowness, from one for all or one for each, as grammar.py writes it.

    Raises:
        UsageError: an item does not follow the grammar, or there are neither 1 nor `workers`.
    """
    items = split_by_worker(text)
    if len(items) not in (1, workers):
        raise UsageError(f"{flag} {text}: expected one for all, or {workers} with commas between "
                         "(with / where one has a colon), one for each worker; "
                         f"got {len(items)}")  # fmt: skip
    try:
        slownesses = [parse_slowness(item) for item in items]
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from None
    return slownesses * (workers // len(items))


def parse_heterogeneity(text: str, workers: int) -> list[float]:
    """Reads each worker's r from ``0.5`` or ``1,1,0.5``; its steps take 1/r times as long.

    Raises:
        UsageError: a number is not above 0 and at most 1, or there are neither 1 nor `workers`.
    """
    ratios = _per_worker(text, "--heterogeneity", workers)
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise UsageError(f"--heterogeneity {text}: give numbers above 0 and at most 1")
    return ratios


def parse_allocation(text: str, workers: int) -> list[float]:
    """Reads each worker's share of the samples, as proportions, from ``1.0-0.5``.

    Raises:
        UsageError: a number is not above 0, or there are not `workers` of them.
    """
    flag = "--hetero-allocation"
    shares = _numbers(text, "-", flag)
    if not all(math.isfinite(share) and share > 0 for share in shares):
        raise UsageError(f"{flag} {text}: give numbers above 0")
    if len(shares) != workers:
        raise UsageError(f"{flag} {text}: expected {workers} numbers with dashes between, "
                         f"one for each worker, got {len(shares)}")  # fmt: skip
    return shares


def _per_worker(text: str, flag: str, workers: int) -> list[float]:
    numbers = _numbers(text, ",", flag)
    if len(numbers) == 1:
        return numbers * workers
    if len(numbers) != workers:
        raise UsageError(f"{flag} {text}: expected one number for all, or {workers} with commas "
                         f"between, one for each worker; got {len(numbers)}")  # fmt: skip
    return numbers


def _numbers(text: str, separator: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(separator)]
    except ValueError:
        example = "1.0-0.5" if separator == "-" else "0,0.05"
        raise UsageError(f"{flag} {text}: expected numbers, such as {example}") from None
