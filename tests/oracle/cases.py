"""Every habit with every setting, and the part of them that is enough for each day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from oracle.body import HABITS, Habit
from oracle.run import OPTIMIZERS, Setting

KINDS: Final = (
    "loops", "gradients", "outside", "freezing", "models", "memory", "options", "precision",
    "state", "several",
)  # fmt: skip
# Overlap or not, and the transport: of two neighbours, one has what the other has not.
WAYS: Final = ((False, "tcp"), (True, "shm"), (False, "shm"), (True, "tcp"))


@dataclass(frozen=True, slots=True)
class Case:
    """A habit in one setting.

    Attributes:
        habit: what is done.
        setting: what it is combined with.
        f32: whether its first step is compared in f32 too.
    """

    habit: Habit
    setting: Setting
    f32: bool = True

    def __str__(self) -> str:
        return f"{self.habit.name}-{self.setting}"


def all_habits() -> dict[str, Habit]:
    """Every habit, by name."""
    for kind in KINDS:
        import_module(f"oracle.habits.{kind}")
    return HABITS


def every_combination() -> Iterator[Case]:
    """Each habit × optimizer × overlap or not × transport."""
    for habit in all_habits().values():
        for optimizer in habit.optimizers:
            for overlap, transport in WAYS:
                yield Case(habit, Setting(optimizer, overlap, transport))


def pairwise_combinations() -> Iterator[Case]:
    """So many that every two of habit, optimizer, overlap and transport meet.

    A habit takes its optimizers in turn, and the four ways with them, one further than the habit
    before it: so each optimizer meets each way too, with every fourth habit.
    """
    for number, habit in enumerate(all_habits().values()):
        if not habit.daily:
            continue
        for turn in range(max(len(habit.optimizers), 2)):
            optimizer = habit.optimizers[turn % len(habit.optimizers)]
            first = number if len(habit.optimizers) == len(OPTIMIZERS) else 2 * number
            overlap, transport = WAYS[(first + turn) % len(WAYS)]
            yield Case(habit, Setting(optimizer, overlap, transport), f32=turn == number % 2)
