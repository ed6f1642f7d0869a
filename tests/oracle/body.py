"""The one body of every case: a habit under torch's own optimizer, and the same under Leash's."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from leash.ps.errors import LeashError, UsageError
from oracle.run import STEPS, Run, Setting, Steps

# A habit is a generator: it trains, and yields after each step, with what else is to be compared.
Train = Callable[[Run], Steps]

TOLERANCES: Final = {torch.float64: 1e-10, torch.float32: 1e-6}  # of a tensor's largest value
# On a GPU torch rounds once where it multiplies and adds; what is rounded from that may differ too.
ON_GPU: Final = {**TOLERANCES, torch.bfloat16: 2.0**-8}

ALL: Final = ("sgd", "momentum", "adamw", "adagrad")


@dataclass(frozen=True, slots=True)
class Habit:
    """Something that people do to a model and its optimizer.

    Attributes:
        train: does it. Its name, which reads as a sentence, is the habit's.
        refusal: what the error says that ends it, a regular expression; None if it does what torch
            does.
        refusal_with_overlap: the same with ``overlap=True``.
        told_with_overlap: what a line says that tells of a difference with ``overlap=True``.
        may_be_refused: whether a UsageError is as good as doing what torch does.
        optimizers: those that torch allows with it.
        daily: whether it is fast enough for every day; otherwise only --torture has it.
        f32: whether its first step is compared in f32 too.
        on_gpu: whether it can be done to a model on a GPU.
        steps: how many steps are compared.
    """

    train: Train
    refusal: str | None = None
    refusal_with_overlap: str | None = None
    told_with_overlap: str | None = None
    may_be_refused: bool = False
    optimizers: tuple[str, ...] = ALL
    daily: bool = True
    f32: bool = True
    on_gpu: bool = True
    steps: int = STEPS

    @property
    def name(self) -> str:
        return self.train.__name__

    def expected_refusal(self, setting: Setting) -> str | None:
        return (self.refusal_with_overlap if setting.overlap else None) or self.refusal


HABITS: Final[dict[str, Habit]] = {}


def habit(train: Train | None = None, /, **properties: Any) -> Any:
    """Makes a function a habit, with the properties that `Habit` has."""
    if train is None:
        return lambda function: habit(function, **properties)
    assert train.__name__ not in HABITS, train.__name__
    HABITS[train.__name__] = Habit(train, **properties)
    return train


def check(habit: Habit, setting: Setting, *, f32: bool, device: str = "cpu") -> None:
    """Fails unless the habit does what torch does, or ends with the error that names the mend.

    Args:
        habit: is done under both optimizers.
        setting: what it is combined with.
        f32: whether its first step is compared in f32 too.
        device: where the model is, under both.
    """
    refusal = habit.expected_refusal(setting)
    if refusal is not None:
        with computing_in(torch.float64, device), pytest.raises(LeashError, match=refusal):
            for _ in states_of(habit, setting, is_torch=False, steps=10_000):
                pass
        return
    if setting.overlap and habit.told_with_overlap is not None:
        with computing_in(torch.float64, device), Run(False, setting) as run:
            for _ in habit.train(run):
                pass
        assert any(re.search(habit.told_with_overlap, line) for line in run.said), run.said
        return
    try:
        compare(habit, setting, torch.float64, habit.steps, device)
        if f32 and habit.f32:
            compare(habit, setting, torch.float32, 1, device)
    except UsageError:
        if not habit.may_be_refused:
            raise


def compare(
    habit: Habit, setting: Setting, dtype: torch.dtype, steps: int, device: str = "cpu"
) -> None:
    """Trains on both sides, and compares everything after every step."""
    with computing_in(dtype, device):
        expected = list(states_of(habit, setting, is_torch=True, steps=steps))
        assert expected
        # Closed here, or a habit that differs would keep its server until its memory is collected.
        with closing(states_of(habit, setting, is_torch=False, steps=steps)) as states:
            for step, (mine, theirs) in enumerate(zip(states, expected, strict=True), 1):
                require_equal(mine, theirs, f"step {step}")


def require_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor], when: str) -> None:
    """Fails for a tensor that differs by more than rounding."""
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        off = difference(mine[name], tensor)
        tolerances = ON_GPU if tensor.is_cuda else TOLERANCES
        assert off <= tolerances.get(tensor.dtype, 0.0), (
            f"{when}: {name} in {tensor.dtype} is off by {off:.1e} of its largest"
        )


def states_of(
    habit: Habit, setting: Setting, *, is_torch: bool, steps: int
) -> Generator[dict[str, Tensor], None, None]:
    """The parameters after each step, and what the habit yields."""
    torch.manual_seed(1)
    with Run(is_torch, setting) as run, closing(habit.train(run)) as trained:
        for _, shown in zip(range(steps), trained, strict=False):
            yield {**run.watched(), **named(shown)}


def named(shown: Any) -> dict[str, Tensor]:
    """What a habit yields, with names: nothing, a tensor, a number, or several."""
    if shown is None:
        return {}
    values = shown if isinstance(shown, list | tuple) else [shown]
    return {
        f"yielded {i}": (value if isinstance(value, Tensor) else torch.tensor(value))
        .detach()
        .clone()
        for i, value in enumerate(values)
    }


def difference(mine: Tensor, theirs: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest finite value."""
    mine, theirs = mine.detach(), theirs.detach()
    assert mine.dtype == theirs.dtype
    assert mine.shape == theirs.shape
    finite = torch.isfinite(theirs)
    if not torch.equal(mine[~finite], theirs[~finite]):
        return torch.inf
    mine, theirs = mine[finite].double(), theirs[finite].double()
    if torch.equal(mine, theirs):
        return 0.0
    largest = theirs.abs().max()
    return float((mine - theirs).abs().max() / largest) if largest else torch.inf


@contextmanager
def computing_in(dtype: torch.dtype, device: str = "cpu") -> Iterator[None]:
    """Makes them torch's defaults, with which habits make their models."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with nullcontext() if device == "cpu" else torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
