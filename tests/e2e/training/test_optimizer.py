"""PSOptimizer, as somebody's own loop uses it, against a live server."""

import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import NonfiniteError, UsageError
from leash.worker import PSOptimizer
from support.servers import RunningServer, serving


def build() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def loss_of(model: nn.Module) -> Tensor:
    inputs = torch.linspace(-1, 1, 24).view(4, 6)
    dtype = next(model.parameters()).dtype
    return nn.functional.cross_entropy(model(inputs.to(dtype)).float(), torch.tensor([0, 1, 2, 0]))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def assert_close(model: nn.Module, expected: nn.Module) -> None:
    for (name, mine), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp"])
def test_one_worker_trains_as_with_torchs_own_sgd(policy: str) -> None:
    model, alone = build(), build()
    with (
        serving(policy=policy, lr=0.1, momentum=0.9, nesterov=True) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        train(model, optimizer)
        assert optimizer.version == 5
        assert optimizer.lag == 0
        assert optimizer.wait_seconds >= 0
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, nesterov=True))
    assert_close(model, alone)


LOOP = """
import sys
import torch
from leash.worker import PSOptimizer

model = torch.nn.Linear(2, 2)
with PSOptimizer(model.named_parameters(), sys.argv[1], rank=1) as optimizer:
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
print(optimizer.version, "torch._dynamo" in sys.modules)
"""


def test_a_workers_start_does_not_wait_for_torchs_compiler() -> None:
    """Its import takes 1.5 s, and torch's own optimizers do it when they are made."""
    with serving() as server:
        argv = [sys.executable, "-c", LOOP, server.address]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "1 False\n", done.stderr


@pytest.mark.parametrize(
    "softened", [{"delay_compensation": "adaptive"}, {"staleness_lr": "inverse"}], ids=str
)
@pytest.mark.parametrize("shards", [1, 2])
def test_what_softens_staleness_changes_nothing_for_one_worker(
    softened: dict[str, Any], shards: int
) -> None:
    model, alone = build(), build()
    with (
        serving(policy="asp", lr=0.1, momentum=0.9, shards=shards, **softened) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        train(model, optimizer)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9))
    assert_close(model, alone)


@pytest.mark.parametrize(
    ("name", "of_torch", "settings"),
    [
        ("adam", torch.optim.Adam, {"amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"eps": 1e-6}),
        ("adagrad", torch.optim.Adagrad, {"lr_decay": 0.1}),
    ],
)
def test_one_worker_trains_as_with_torchs_own_optimizer_and_schedule(
    name: str, of_torch: Any, settings: dict[str, Any]
) -> None:
    model, alone = build(), build()
    with (
        serving(optimizer=name, lr=0.1, lr_schedule="step", lr_step_size=2, **settings) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        train(model, optimizer)
        (group,) = optimizer.param_groups
    theirs = of_torch(alone.parameters(), lr=0.1, **settings)
    shown = {key: value for key, value in group.items() if key not in ("params", "lr")}
    assert len(shown) >= 5
    assert shown == {key: theirs.param_groups[0][key] for key in shown}
    scheduler = torch.optim.lr_scheduler.StepLR(theirs, step_size=2)
    theirs.register_step_post_hook(lambda *_: scheduler.step())
    train(alone, theirs)
    assert_close(model, alone)


def test_it_is_an_optimizer_of_torch() -> None:
    model = build()
    with (
        serving(lr=0.25, momentum=0.5) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        assert isinstance(optimizer, torch.optim.Optimizer)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["momentum"]) == (0.25, 0.5)
        assert group["params"] == list(model.parameters())
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        assert all(p.grad is None for p in model.parameters())


def test_a_closure_computes_the_loss_and_its_value_comes_back() -> None:
    model = build()
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        before = loss_of(model).item()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        told = optimizer.step(closure)
        assert isinstance(told, Tensor)
        assert told.item() == before
        assert loss_of(model).item() < before


def test_groups_of_parameters_are_one_model() -> None:
    model, alone = build(), build()
    named = list(model.named_parameters())
    groups = [{"params": named[:2]}, {"params": named[2:]}]
    with serving(lr=0.1) as server, PSOptimizer(groups, server.address, rank=1) as optimizer:
        assert len(optimizer.param_groups) == 2
        train(model, optimizer)
    train(alone, torch.optim.SGD(alone.parameters(), lr=0.1))
    assert_close(model, alone)


def test_parameters_cannot_be_added_once_the_run_has_begun() -> None:
    model = build()
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
        pytest.raises(UsageError, match="once the run has begun"),
    ):
        optimizer.add_param_group({"params": list(model.named_parameters())})


def test_parameters_without_names_are_refused_with_the_mend() -> None:
    with pytest.raises(UsageError, match="named_parameters"):
        PSOptimizer(build().parameters(), "tcp://127.0.0.1:1", rank=1)  # type: ignore[arg-type]


def test_a_model_in_half_precision_has_its_master_copy_on_the_server() -> None:
    """In bf16, 256 updates of 2^-10 to a weight of 1 would each be rounded away."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    with (
        serving(lr=2.0**-10) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        for _ in range(256):
            model.weight.grad = torch.ones_like(model.weight)
            optimizer.step()
    assert model.weight.item() == 0.75


def test_a_parameter_without_a_gradient_stays_as_it_is() -> None:
    model = build()
    frozen = model[0].weight.detach().clone()  # type: ignore[union-attr]
    with (
        serving(lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        model[0].weight.grad = None  # type: ignore[union-attr]
        optimizer.step()
    assert torch.equal(model[0].weight, frozen)  # type: ignore[arg-type]


def nan_in(model: nn.Module) -> None:
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    grad = model[2].bias.grad  # type: ignore[union-attr]
    assert isinstance(grad, Tensor)
    grad[1] = math.nan


def test_a_nan_ends_the_worker_with_step_and_slot_and_changes_nothing() -> None:
    model = build()
    with serving(lr=0.1) as server:
        optimizer = PSOptimizer(model.named_parameters(), server.address, rank=1)
        train(model, optimizer, steps=2)
        before = parameters_of(server)
        nan_in(model)
        with pytest.raises(NonfiniteError, match=r"step 3 of worker 1: slot 2\.bias .* --lr$"):
            optimizer.step()
        assert parameters_of(server) == before
        assert server.settled().data.nonfinite_chunks == 0  # it never got there
        optimizer.close("failed")


def test_a_worker_restarted_after_its_nan_takes_part_again() -> None:
    """Its first step may have the number of the one that the server refused, as with overlap."""
    with serving(lr=0.1, workers=2, policy="ssp") as server, ThreadPoolExecutor(2) as pool:

        def join(rank: int, overlap: bool = False) -> PSOptimizer:
            named = models[rank].named_parameters()
            return PSOptimizer(named, server.address, rank, overlap=overlap)

        models = {rank: build() for rank in (1, 2)}
        nan_in(models[1])  # before there is an optimizer, which would have to be told
        idle, failing = pool.submit(join, 2), pool.submit(join, 1, overlap=True)
        with pytest.raises(NonfiniteError, match="step 1 of worker 1"):
            failing.result().step()
        failing.result().close("failed")
        with join(1) as again:
            assert again.client.welcome.first_step == 1
            train(models[1], again, steps=2)
            assert again.version == 3
        idle.result().close()


def test_a_nan_that_is_to_be_skipped_is_counted_and_the_training_goes_on() -> None:
    model = build()
    with (
        serving(lr=0.1, nonfinite="skip") as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        before = parameters_of(server)
        nan_in(model)
        optimizer.step()
        assert parameters_of(server) == before
        train(model, optimizer)
        assert parameters_of(server) != before
        assert server.settled().summary()["nonfinite_chunks"] == 1


def test_an_evicted_worker_comes_back_by_itself() -> None:
    """Silence is simulated: the server's clock is put forward."""
    model = build()
    with (
        serving(has_lane=False, lr=0.1) as server,
        PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer,
    ):
        train(model, optimizer, steps=1)
        while server.server.metrics.evictions == 0:
            server.clock.skip(60.0)
            server.thread.join(0.05)  # a moment for its loop
        train(model, optimizer, steps=3)
        assert server.server.metrics.evictions == 1
        assert optimizer.evictions == 1


def parameters_of(running: RunningServer) -> bytes:
    model = running.server.data.model
    assert model is not None
    out = bytearray(model.chunks[0].nbytes)
    model.shard.pull(0, None, out)
    return bytes(out)
