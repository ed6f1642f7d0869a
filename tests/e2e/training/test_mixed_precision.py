"""Clipping, autocast and GradScaler: what torch's own optimizer does with them, step by step."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import ArgumentError, NonfiniteError, UsageError
from leash.worker import PSOptimizer
from support.servers import serving

STEPS = 6
OVERFLOWS = (1, 4)  # steps whose loss overflows


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def loss_of(model: nn.Module, step: int, dtype: torch.dtype | None) -> Tensor:
    inputs = torch.linspace(-1, 1 + step, 24).view(4, 6)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = model(inputs)
    loss = nn.functional.cross_entropy(outputs.float(), torch.tensor([0, 1, 2, 0]))
    return loss * (torch.inf if step in OVERFLOWS else 1.0)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, dtype: torch.dtype | None,
    scaler: torch.amp.GradScaler, *, clips: bool = False, unscales: bool = False,
) -> list[float]:  # fmt: skip
    """Returns the scaler's scale after each step."""
    scales = []
    for step in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step, dtype)).backward()  # type: ignore[no-untyped-call]
        if clips or unscales:
            scaler.unscale_(optimizer)
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


def make_scaler() -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)


def assert_close(model: nn.Module, expected: nn.Module) -> None:
    for (name, mine), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("clips", ["not", "by itself", "in the loop"])
@pytest.mark.parametrize("has_inner", [False, True])
def test_a_grad_scaler_does_what_it_does_with_torchs_optimizer(
    dtype: torch.dtype | None, clips: str, has_inner: bool
) -> None:
    """Steps whose gradients overflow are skipped, whether it unscales by itself or is told to."""
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) if has_inner else None
    server_side: dict[str, Any] = {"outer_lr": 1.0} if has_inner else {"lr": 0.1, "momentum": 0.9}
    with (
        serving(**server_side) as server,
        PSOptimizer(
            model.named_parameters(), server.address, 1, inner=inner,
            clip_norm=0.1 if clips == "by itself" else None,
        ) as mine,
    ):  # fmt: skip
        scales = train(model, mine, dtype, make_scaler(), clips=clips == "in the loop")
        assert mine.client.steps == STEPS  # those that were skipped are pushed too
    expected = train(alone, theirs, dtype, make_scaler(), clips=clips != "not")
    assert scales == expected
    assert set(scales) == {512.0, 1024.0}
    assert_close(model, alone)


def test_nobody_waits_for_a_step_that_was_skipped_and_it_is_no_part_of_the_mean() -> None:
    """Under bsp, with a scaler for each of two workers, of which one overflows now and then."""
    models, alone = [build(), build()], build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1)

    def work(index: int) -> None:
        scaler = make_scaler()
        with PSOptimizer(models[index].named_parameters(), server.address, index + 1) as optimizer:
            for step in range(STEPS):
                optimizer.zero_grad()
                scaler.scale(loss_of(models[index], step if index else 0, None)).backward()
                scaler.step(optimizer, samples=4)
                scaler.update()

    with serving(workers=2, policy="bsp", lr=0.1, lr_scaling="none") as server:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, range(2)))
        assert server.join() == 0
    for step in range(STEPS):
        theirs.zero_grad()
        loss = loss_of(alone, 0, None)
        if step not in OVERFLOWS:
            loss = (loss + loss_of(alone, step, None)) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        theirs.step()
    for model in models:
        assert_close(model, alone)


def test_a_whole_gradient_is_clipped_as_torch_does() -> None:
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.5)
    with (
        serving(lr=0.5) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, clip_norm=0.05) as mine,
    ):
        for _ in range(3):
            mine.zero_grad()
            loss_of(model, 0, None).backward()  # type: ignore[no-untyped-call]
            mine.step()
            theirs.zero_grad()
            loss_of(alone, 0, None).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(alone.parameters(), 0.05)
            theirs.step()
    assert_close(model, alone)


def test_a_bad_gradient_leaves_nothing_behind_and_the_next_step_is_taken() -> None:
    model, alone = build(), build()
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, clip_norm=1.0) as optimizer,
    ):
        loss_of(model, OVERFLOWS[0], None).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(NonfiniteError, match=r"step 1 of worker 1: slot 0\.weight"):
            optimizer.step()
        assert_close(model, alone)
        optimizer.zero_grad()
        loss_of(model, 0, None).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert (optimizer.version, optimizer.client.steps) == (1, 1)


def test_with_overlap_both_are_errors_that_name_the_mend() -> None:
    model = build()
    with serving() as server:
        with pytest.raises(ArgumentError, match="overlap=False"):
            PSOptimizer(model.named_parameters(), server.address, 1, overlap=True, clip_norm=1.0)
        with PSOptimizer(
            model.named_parameters(), server.address, 1, overlap=True
        ) as optimizer:  # fmt: skip
            scaler = make_scaler()
            optimizer.begin_step()
            scaler.scale(loss_of(model, 0, None)).backward()  # type: ignore[no-untyped-call]
            with pytest.raises(UsageError, match=r"GradScaler.*overlap=False"):
                scaler.step(optimizer)
            optimizer.step()


@pytest.mark.parametrize("to_none", [True, False])
def test_zeros_in_place_of_gradients_are_stepped_as_torch_does(to_none: bool) -> None:
    """With momentum and decay, a head that has no part in every other loss moves on, or not."""
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    with (
        serving(lr=0.1, momentum=0.9, weight_decay=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as mine,
    ):
        for each, optimizer in ((model, mine), (alone, theirs)):
            for step in range(5):
                optimizer.zero_grad(set_to_none=to_none)
                first: nn.Module = each[0]  # type: ignore[index]
                loss = first(torch.ones(1, 6)).sum() if step % 2 else loss_of(each, 0, None)
                loss.backward()
                optimizer.step()
    assert_close(model, alone)
