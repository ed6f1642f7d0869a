"""What people do to a model outside step(), followed by publish(), gives what torch gives."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.worker import PSOptimizer
from support.servers import serving


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    inputs = torch.linspace(-1, 1 + step, 24, dtype=torch.float64).view(4, 6)
    return nn.functional.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 0]))


def assert_alike(model: nn.Module, expected: nn.Module) -> None:
    theirs = expected.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-10, atol=1e-12, msg=name)


def loaded(model: nn.Module) -> None:
    model.load_state_dict({n: v * 0.5 if v.is_floating_point() else v
                           for n, v in model.state_dict().items()})  # fmt: skip


@torch.no_grad()
def masked(model: nn.Module) -> None:
    model.get_parameter("0.weight")[::2] = 0


def halved_through_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def from_a_vector(model: nn.Module) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters())
    nn.utils.vector_to_parameters(vector * 0.5, model.parameters())


@pytest.mark.parametrize("change", [loaded, masked, halved_through_data, from_a_vector])
@pytest.mark.parametrize(
    ("policy", "overlap", "transport"), [("bsp", False, "tcp"), ("asp", True, "shm")]
)
def test_what_is_published_after_a_change_goes_on_as_torch_does(
    change: Callable[[nn.Module], None], policy: str, overlap: bool, transport: str
) -> None:
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    with (
        serving(policy=policy, lr=0.1, momentum=0.9, weight_decay=0.01) as server,
        PSOptimizer(
            model.named_parameters(), server.address, 1, buffers=model.named_buffers(),
            overlap=overlap, transport=transport,
        ) as mine,
    ):  # fmt: skip
        for step in range(6):
            if step % 2:
                change(alone)
                change(model)
                mine.publish()
            theirs.zero_grad()
            loss_of(alone, step).backward()  # type: ignore[no-untyped-call]
            theirs.step()
            mine.zero_grad()
            mine.begin_step(samples=4)
            loss_of(model, step).backward()  # type: ignore[no-untyped-call]
            mine.step()
    assert_alike(model, alone)


@pytest.mark.parametrize("policy", ["bsp", "asp"])
def test_the_others_get_what_one_has_published(policy: str) -> None:
    models = [build(), build()]
    with (
        serving(workers=2, policy=policy) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        made = pool.map(
            lambda rank: PSOptimizer(models[rank].named_parameters(), server.address, rank + 1),
            range(2),
        )
        both = list(made)
        masked(models[1])
        both[1].publish()
        # Without gradients, so nothing but the answer changes parameters.
        list(pool.map(lambda optimizer: optimizer.step(), both))
        for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(mine, other)
        assert not models[0].get_parameter("0.weight")[::2].any()
        for optimizer in both:
            optimizer.close()


def test_gradients_that_are_there_outlast_a_publish() -> None:
    """An embedding's max_norm changes rows in the forward pass, just before backward."""
    model, alone = build(), build()
    theirs = torch.optim.SGD(alone.parameters(), lr=0.1)
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as mine,
    ):
        for _ in range(3):
            for each, optimizer in ((alone, theirs), (model, mine)):
                optimizer.zero_grad()
                masked(each)
                loss_of(each).backward()  # type: ignore[no-untyped-call]
                if optimizer is mine:
                    mine.publish()
                optimizer.step()
    assert_alike(model, alone)


def test_a_clamp_in_an_inner_optimizer_is_torchs() -> None:
    def clamp(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.clamp_(-0.1, 0.1)

    model, alone = build(), build()
    inner = torch.optim.RMSprop(model.parameters(), lr=0.01)
    theirs = torch.optim.RMSprop(alone.parameters(), lr=0.01)
    for optimizer in (inner, theirs):
        optimizer.register_step_post_hook(clamp)
    with (
        serving(outer_lr=1.0) as server,
        PSOptimizer(
            model.named_parameters(), server.address, 1, buffers=model.named_buffers(), inner=inner
        ) as mine,
    ):
        for step in range(5):
            for each, stepper in ((alone, theirs), (model, mine)):
                stepper.zero_grad()
                loss_of(each, step).backward()  # type: ignore[no-untyped-call]
                stepper.step()
    assert_alike(model, alone)
    assert max(p.abs().max().item() for p in model.parameters()) == pytest.approx(0.1)


@torch.no_grad()
def with_a_nan(model: nn.Module) -> None:
    model.get_parameter("3.bias")[1] = torch.nan


def test_what_cannot_be_published_is_an_error_and_changes_nothing() -> None:
    model = build()
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=True) as mine,
    ):
        mine.begin_step()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(UsageError, match="between backward and step"):
            mine.publish()
        mine.step()
        with_a_nan(model)
        with pytest.raises(UsageError, match=r"parameter 3\.bias has a NaN"):
            mine.publish()
        mine.rejoin()
        assert all(p.isfinite().all() for p in model.parameters())


def test_first_values_that_are_not_finite_are_refused_by_name() -> None:
    model = build()
    with_a_nan(model)
    with serving() as server:
        with pytest.raises(UsageError, match=r"parameter 3\.bias has a NaN"):
            PSOptimizer(model.named_parameters(), server.address, 1)
        PSOptimizer(build().named_parameters(), server.address, 1).close()
