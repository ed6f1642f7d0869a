"""What a program gives is checked before a server hears of it."""

from typing import Any

import numpy as np
import pytest
import torch

from leash.ps.errors import ArgumentError
from leash.ps.options.addresses import MAX_RANK
from leash.ps.wire.layout import Layout, Slot
from leash.worker import PSOptimizer
from leash.worker.client import Client
from leash.worker.client.arguments import checked_rank, checked_samples

NOBODY = "tcp://127.0.0.1:1"


@pytest.mark.parametrize("rank", [7, np.int64(7), np.uint8(7), torch.tensor(7)], ids=repr)
def test_a_rank_is_any_whole_number(rank: Any) -> None:
    checked = checked_rank(rank, least=1)
    assert (checked, type(checked)) == (7, int)


@pytest.mark.parametrize(
    "rank", [0, np.int64(0), -1, True, False, np.True_, "1", 1.0, None, MAX_RANK + 1], ids=repr
)
def test_a_rank_that_cannot_be_is_refused_at_once_and_says_where_ranks_start(rank: Any) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ArgumentError, match=r"^rank=.*ranks start from 1.*torchrun, RANK \+ 1"):
        PSOptimizer([("w", parameter)], NOBODY, rank=rank)


@pytest.mark.parametrize("rank", [False, -1, "0", MAX_RANK + 1], ids=repr)
def test_an_observer_is_the_number_0_and_nothing_that_looks_like_it(rank: Any) -> None:
    with pytest.raises(ArgumentError, match="ranks start from 1"):
        Client(NOBODY, Layout([Slot("w", "f32", (1,))]), rank=rank)


@pytest.mark.parametrize("samples", [0, 2**32 - 1, np.int32(5), torch.tensor([5])], ids=repr)
def test_samples_are_any_whole_number_that_travels(samples: Any) -> None:
    checked = checked_samples(samples)
    assert (checked, type(checked)) == (int(samples), int)


@pytest.mark.parametrize("samples", [-1, 2**32, 5.0, "5", None, torch.tensor([1, 2])], ids=repr)
def test_other_samples_are_refused(samples: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^samples="):
        checked_samples(samples)
