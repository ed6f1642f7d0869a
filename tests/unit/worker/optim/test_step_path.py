"""What holds for both paths of a step to the server: as it is, or several in one push."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from leash.ps.errors import UsageError
from leash.worker.optim.local_steps import LocalSteps
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.optim.step_path import StepPath
from leash.worker.optim.streaming import StepStream
from support.exchanges import PromptExchange

Make = Callable[[nn.Module, ModelSlabs, PromptExchange], StepPath]


def streaming(_: nn.Module, slabs: ModelSlabs, exchange: PromptExchange) -> StepPath:
    return StepStream(slabs, exchange, overlap=False)


def rounds(model: nn.Module, slabs: ModelSlabs, exchange: PromptExchange) -> StepPath:
    return LocalSteps(slabs, exchange, torch.optim.SGD(model.parameters(), lr=0.1), every=3)


@pytest.fixture(params=[streaming, rounds])
def path_of(request: pytest.FixtureRequest) -> Callable[[nn.Module], StepPath]:
    make: Make = request.param

    def path(model: nn.Module) -> StepPath:
        slabs = ModelSlabs(model.named_parameters())
        exchange = PromptExchange(slabs.layout)
        exchange.start(slabs.parameters)
        return make(model, slabs, exchange)

    return path


def step(model: nn.Module, path: StepPath, samples: int = 1) -> bool:
    """Whether the step was followed by a push."""
    for parameter in model.parameters():
        parameter.grad = None
    path.begin(samples)
    assert path.is_begun
    model(torch.ones(2, 4)).sum().backward()
    return path.finish() is not None


def test_as_many_steps_as_it_says_make_one_push(path_of: Callable[[nn.Module], StepPath]) -> None:
    model = nn.Linear(4, 2)
    path = path_of(model)
    pushed = [step(model, path) for _ in range(2 * path.every)]
    assert pushed == 2 * [*[False] * (path.every - 1), True]
    assert path.pending == 0
    path.close()


def test_flush_pushes_what_is_pending_and_otherwise_nothing(
    path_of: Callable[[nn.Module], StepPath],
) -> None:
    model = nn.Linear(4, 2)
    path = path_of(model)
    assert path.flush() is None
    pending = not step(model, path)
    assert path.pending == int(pending)
    assert (path.flush() is not None) == pending
    assert (path.pending, path.is_begun, path.is_open) == (0, False, False)
    path.close()
    path.close()


def test_no_number_of_steps_is_taken_that_cannot_be(
    path_of: Callable[[nn.Module], StepPath],
) -> None:
    path = path_of(nn.Linear(4, 2))
    every = path.every
    with pytest.raises(UsageError, match="local_steps=0"):
        path.every = 0
    assert path.every == every
    path.close()
