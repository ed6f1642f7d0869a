"""Says in words what the demo has shown."""

from typing import Final

from leash.ps.demo.outcome import SideOutcome
from leash.ps.demo.sides import TARGET_ACCURACY
from leash.ps.words import percent

ALIKE: Final = 0.05  # two times that differ by less are told as equal


def verdict(lockstep: SideOutcome, leash: SideOutcome) -> str:
    """Writes how long either side took to the same accuracy, and how much faster one was.

    Args:
        lockstep: the side where everybody waits for all others.
        leash: the side where nobody does.
    """
    target = f"{percent(TARGET_ACCURACY)} of the test digits right"
    in_lockstep = lockstep.seconds_to(TARGET_ACCURACY)
    on_leash = leash.seconds_to(TARGET_ACCURACY)
    if in_lockstep is not None and on_leash is not None:
        return (f"To {target}: in lockstep {in_lockstep:.1f} s, on the leash {on_leash:.1f} s: "
                f"{compared(in_lockstep / on_leash)}.")  # fmt: skip
    if in_lockstep is None and on_leash is None:
        return f"Neither came to {target}: give more --epochs. {_speeds(lockstep, leash)}"
    one, seconds = ("On the leash", on_leash) if in_lockstep is None else ("In lockstep",
                                                                          in_lockstep)  # fmt: skip
    other = "lockstep" if in_lockstep is None else "the leash"
    return (f"{one} it took {seconds:.1f} s to {target}; {other} did not come so far. "
            f"{_speeds(lockstep, leash)}")  # fmt: skip


def waited(lockstep: SideOutcome, leash: SideOutcome) -> str:
    """Writes for how much of their time the fast machines waited on either side."""
    in_lockstep, on_leash = (_wait_of_the_fast(side) for side in (lockstep, leash))
    if in_lockstep is None or on_leash is None:
        return ""
    return (f"The fast machines waited {percent(in_lockstep)} of their time in lockstep, "
            f"{percent(on_leash)} on the leash.")  # fmt: skip


def compared(ratio: float) -> str:
    """Writes how fast something is that another takes so many times as long for."""
    if abs(ratio - 1) < ALIKE:
        return "about as fast"
    return f"{ratio:.1f} times as fast" if ratio > 1 else f"{1 / ratio:.1f} times as slow"


def _speeds(lockstep: SideOutcome, leash: SideOutcome) -> str:
    return (f"Steps a second: {lockstep.steps_per_second:.1f} in lockstep, "
            f"{leash.steps_per_second:.1f} on the leash.")  # fmt: skip


def _wait_of_the_fast(side: SideOutcome) -> float | None:
    fast = [share for share in side.waits[:-1] if share is not None]
    return sum(fast) / len(fast) if fast else None
