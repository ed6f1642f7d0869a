"""The phase that the others see of a loop of one's own."""

import pytest
import torch

from leash import PSOptimizer
from leash.ps.words import BACKWARD, BETWEEN, FORWARD, FORWARD_OR_BACKWARD
from support.servers import serving


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("says_forward", [False, True])
def test_a_loop_says_what_it_knows(overlap: bool, says_forward: bool) -> None:
    model = torch.nn.Linear(3, 1)
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=overlap) as optimizer,
    ):
        doing = optimizer.client.doing
        if says_forward:
            doing.begin(FORWARD)
        optimizer.zero_grad()
        optimizer.begin_step(samples=2)
        assert doing.told()[0] == (FORWARD if overlap or says_forward else FORWARD_OR_BACKWARD)
        model(torch.ones(2, 3)).sum().backward()
        if overlap:
            assert doing.told()[0] == BACKWARD
        optimizer.step()
        assert doing.told()[0] == BETWEEN
