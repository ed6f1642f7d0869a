"""Every habit with every setting, and the part of them that is enough for each day."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Final

from oracle.body import HABITS, Habit
from oracle.run import OPTIMIZERS, Setting

KINDS: Final = (
    "loops", "gradients", "outside", "freezing", "models", "memory", "options", "precision",
    "state", "several",
)  # fmt: skip
WAYS: Final = ((False, "tcp"), (True, "shm"), (False, "shm"), (True, "tcp"))


def all_habits() -> dict[str, Habit]:
    """Every habit, by name."""
    for kind in KINDS:
        import_module(f"oracle.habits.{kind}")
    return HABITS


def every_combination() -> Iterator[tuple[Habit, Setting]]:
    """Each habit × optimizer × overlap or not × transport."""
    for habit in all_habits().values():
        for optimizer in habit.optimizers:
            for overlap, transport in WAYS:
                yield habit, Setting(optimizer, overlap, transport)


def pairwise_combinations() -> Iterator[tuple[Habit, Setting]]:
    """So many that each habit meets every optimizer, and both values of the two others.

    Where torch allows all optimizers, a habit meets every pair of the two others too; and each
    optimizer meets each of these pairs with some habit.
    """
    names = list(OPTIMIZERS)
    for number, habit in enumerate(all_habits().values()):
        for turn in range(max(len(habit.optimizers), 2)):
            optimizer = habit.optimizers[turn % len(habit.optimizers)]
            way = number + (names.index(optimizer) if len(habit.optimizers) == 4 else turn)
            overlap, transport = WAYS[way % 4]
            yield habit, Setting(optimizer, overlap, transport)
