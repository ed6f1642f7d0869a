"""The two runs of the demo: what is the same in both, and what is not."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from leash.ps.demo.options import DemoOptions
from leash.ps.options.launch import LaunchOptions

TARGET_ACCURACY: Final = 0.9
STEP_S: Final = 0.02  # what a step of a fast machine takes, beside the computing
BATCH_SIZE: Final = 16
LEARNING_RATE: Final = 0.012


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs."""

    name: str  # for people
    how: str  # the policy, and who gets which samples
    run_dir: Path
    options: LaunchOptions


def both_sides(options: DemoOptions, out: Path) -> tuple[Side, Side]:
    """Makes the runs: first the one in lockstep.

    Model, data, seed, batches, learning rate and machines are the same. A policy decides who waits
    for whom, and has the data plan that it has by default.

    Args:
        options: of the demo.
        out: the folder for both runs.
    """
    slow = [STEP_S] * (options.workers - 1) + [STEP_S * options.slower]
    common = LaunchOptions(
        workers=options.workers, dataset="digits", epochs=options.epochs, batch_size=BATCH_SIZE,
        lr=LEARNING_RATE, seed=options.seed, slow=",".join(f"{seconds:g}" for seconds in slow),
    )  # fmt: skip
    lockstep, leash = (replace(common, policy="bsp", run_dir=str(out / "lockstep")),
                       replace(common, policy="asp", run_dir=str(out / "leash")))  # fmt: skip
    return (Side("in lockstep", "bsp, equal shares", out / "lockstep", lockstep),
            Side("on the leash", "asp, leases", out / "leash", leash))  # fmt: skip


def machines_of(options: DemoOptions) -> str:
    """Says in a sentence what learns what, and who is slow."""
    slow = f"machine {options.workers} is {options.slower:g} times slower than the others"
    if options.slower == 1:
        slow = "all are equally fast"
    return f"{options.workers} machines learn handwritten digits together; {slow}."


def slowness_of(side: Side) -> str:
    """Says how the machines are made slow, and what else there is to know before it begins."""
    return (f"The same machines, model, data and seed twice. --slow {side.options.slow} makes them "
            "slow: so long they sleep before a step.")  # fmt: skip
