"""In single precision, rounding adds up: so each step is compared from equal state."""

from __future__ import annotations

import copy
from typing import Any, Final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oracle.body import computing_in, require_equal
from oracle.cases import WAYS
from oracle.run import OPTIMIZERS, Run, Setting, backward, mlp
from support.servers import RunningServer

NAMES_OF_TORCH: Final = {"momentum": "momentum_buffer"}  # the others are called the same
WITH_A_COUNT: Final = ("adamw", "adagrad")


def states_at(running: RunningServer) -> dict[str, dict[str, Tensor]]:
    """What the server's optimizer keeps, by slot and name; nothing before the first step."""
    model = running.server.data.model
    assert model is not None
    shard, layout = model.shard, model.layout
    states: dict[str, dict[str, Tensor]] = {slot.name: {} for slot in layout.slots}
    if not shard.has_state(0):
        return states
    for name in shard.state_names():
        slab = np.zeros(layout.nbytes, np.uint8)
        for chunk in model.chunks:
            shard.state(chunk.index, name, slab[chunk.start : chunk.stop].data)
        for offset, slot in zip(layout.offsets, layout.slots, strict=True):
            numbers = slab[offset : offset + slot.nbytes].view(np.float32)
            states[slot.name][name] = torch.from_numpy(numbers).view(slot.shape).clone()
    return states


def with_state(
    model: nn.Module, states: dict[str, dict[str, Tensor]], optimizer: str, steps: int
) -> Any:
    """torch's optimizer over the model, after so many steps that led to this state."""
    of_torch, options = OPTIMIZERS[optimizer]
    made = of_torch(model.parameters(), **options)
    for name, parameter in model.named_parameters():
        for state, values in states[name].items():
            made.state[parameter][NAMES_OF_TORCH.get(state, state)] = values
        if steps and optimizer in WITH_A_COUNT:
            made.state[parameter]["step"] = torch.tensor(float(steps))
    return made


@pytest.mark.parametrize(("overlap", "transport"), WAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_step_in_f32_is_torchs_from_equal_state(
    optimizer: str, overlap: bool, transport: str
) -> None:
    torch.manual_seed(2)
    with computing_in(torch.float32), Run(False, Setting(optimizer, overlap, transport)) as run:
        model = mlp()
        trained = run.optimizer(model.named_parameters())
        for step, batch in enumerate(run.batches()):
            expected = copy.deepcopy(model)
            theirs = with_state(expected, states_at(run.servers[0]), optimizer, step)
            theirs.begin_step = lambda: None
            backward(theirs, expected, batch)
            theirs.step()
            backward(trained, model, batch)
            trained.step()
            require_equal(
                dict(model.named_parameters()), dict(expected.named_parameters()), f"step {step}"
            )
