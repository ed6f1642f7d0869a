"""Finds the fewest faults with which a seed still fails: by halves first, then one by one."""

from collections.abc import Callable, Sequence

from simulation.faults import Fault


def shrink(faults: Sequence[Fault], fails: Callable[[list[Fault]], bool]) -> list[Fault]:
    """Leaves out what is not needed.

    Args:
        faults: with which it fails.
        fails: whether it does with only these.

    Returns:
        Faults none of which can be left out alone.
    """
    kept, size = list(faults), len(faults)
    if kept and fails([]):
        return []
    while size := size // 2:
        begin = 0
        while begin < len(kept):
            fewer = kept[:begin] + kept[begin + size :]
            if len(fewer) < len(kept) and fails(fewer):
                kept = fewer
            else:
                begin += size
    return kept
