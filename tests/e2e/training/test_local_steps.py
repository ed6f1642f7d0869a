"""Local steps against torch alone: an inner optimizer's rounds, averaged and applied outside."""

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import NonfiniteError, UsageError
from leash.worker import PSOptimizer
from leash.worker.client.encoding import Encoding
from support.servers import RunningServer, serving

Inner = Callable[[nn.Module], torch.optim.Optimizer]
BATCH_SIZES = (5, 3)  # of worker 1 and 2: their differences weigh 5 to 3


def build(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def batch(worker: int, step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * worker + step)
    size = BATCH_SIZES[worker - 1]
    inputs = torch.randn(size, 6, generator=generator, dtype=torch.float64).to(dtype)
    return inputs, torch.randint(3, (size,), generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, worker: int, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        inputs, targets = batch(worker, step, dtype)
        optimizer.zero_grad()
        if isinstance(optimizer, PSOptimizer):
            optimizer.begin_step(samples=len(targets))
        nn.functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.2)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.02)


def local(
    model: nn.Module, server: RunningServer, every: int, inner: Inner = sgd, *, rank: int = 1,
    **settings: Any,
) -> PSOptimizer:  # fmt: skip
    return PSOptimizer(
        model.named_parameters(), server.address, rank, inner=inner(model), local_steps=every,
        **settings,
    )  # fmt: skip


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def served(server: RunningServer, like: nn.Module | None = None) -> Tensor:
    """The parameters that the server holds."""
    model = server.server.data.model
    assert model is not None
    (chunk,) = model.chunks
    out = bytearray(chunk.nbytes)
    model.shard.pull(0, None, out)
    slots = zip((like or build()).named_parameters(), model.layout.offsets, strict=True)
    flats = [torch.frombuffer(out, dtype=torch.float32, count=p.numel(), offset=offset)
             for (_, p), offset in slots]  # fmt: skip
    return torch.cat(flats)


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    assert float((result - expected).abs().max() / expected.abs().max()) < tolerance


# Alone.


def test_one_step_a_round_is_plain_sgd_with_the_inner_rate() -> None:
    model, alone = build(), build()
    with serving(local_steps="8") as server, local(model, server, 1, plain_sgd) as optimizer:
        train(model, optimizer, 1, range(6))
        assert optimizer.version == 6
    train(alone, plain_sgd(alone), 1, range(6))
    assert_close(flat(model), flat(alone))


@pytest.mark.parametrize("inner", [sgd, adamw])
@pytest.mark.parametrize("policy", ["bsp", "ssp", "asp"])
def test_alone_a_workers_result_is_the_servers(policy: str, inner: Inner) -> None:
    """Its optimizer's state outlives the rounds: the last one of them is shorter."""
    model, alone = build(), build()
    with serving(policy=policy, local_steps="3") as server:
        with local(model, server, 3, inner) as optimizer:
            train(model, optimizer, 1, range(8))
            assert (optimizer.pending_steps, optimizer.version) == (2, 2)
        assert server.join() == 0
        assert_close(served(server), flat(model))
        assert server.server.metrics.steps == 3
        assert server.server.metrics.samples == 8 * BATCH_SIZES[0]
    train(alone, inner(alone), 1, range(8))
    assert_close(flat(model), flat(alone))


@pytest.mark.parametrize(
    ("transport", "codec", "tolerance"),
    [("tcp", "f32", 1e-6), ("shm", "f32", 1e-6), ("tcp", "bf16", 0.01), ("shm", "f16", 0.001),
     ("shm", "int8", 0.01)],
)  # fmt: skip
def test_every_transport_and_codec_carries_a_difference(
    transport: str, codec: str, tolerance: float
) -> None:
    model, alone = build(), build()
    with (
        serving(local_steps="4") as server,
        local(model, server, 4, transport=transport, encoding=Encoding(codec)) as optimizer,
    ):
        assert optimizer.client.transport.name == transport
        train(model, optimizer, 1, range(12))
    train(alone, sgd(alone), 1, range(12))
    assert_close(flat(model), flat(alone), tolerance)


def test_a_model_in_half_precision_has_its_master_copy_on_the_server() -> None:
    """In bf16, 256 changes of 2^-12 to a weight of 1 would each be rounded away. And the worker's
    rounding of the master copy is no change of its: a round without a step's effect leaves it."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    with serving(outer_lr=2.0**-12) as server:
        inner = torch.optim.SGD(model.parameters(), lr=1.0)
        with PSOptimizer(
            model.named_parameters(), server.address, rank=1, inner=inner, local_steps=1
        ) as optimizer:
            for change in [1.0] * 255 + [0.0] * 5 + [1.0]:
                model.weight.grad = torch.full_like(model.weight, change)
                optimizer.step()
        assert served(server, model).item() == 1 - 256 * 2.0**-12


# Together.


def train_together(
    inner: Inner, outer: dict[str, Any], dtype: torch.dtype, *, every: int, steps: int
) -> Tensor:
    models = {rank: build(dtype) for rank in (1, 2)}

    def work(rank: int) -> None:
        with local(models[rank], server, every, inner, rank=rank) as optimizer:
            train(models[rank], optimizer, rank, range(steps))

    settings = {"policy": "bsp", "workers": 2, "local_steps": str(every), **outer}
    with serving(**settings) as server, ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2)))
        assert server.join() == 0
    assert torch.equal(flat(models[1]), flat(models[2]))
    return flat(models[1])


def train_by_torch(
    inner: Inner, outer: dict[str, Any], dtype: torch.dtype, *, every: int, steps: int
) -> Tensor:
    """DiLoCo, algorithm 1, in one process; workers count by the samples of their round."""
    common = build(dtype)
    named = {name.removeprefix("outer_"): value for name, value in outer.items()}
    applied = torch.optim.SGD(common.parameters(), **{"lr": 1.0, **named})
    copies = [copy.deepcopy(common) for _ in BATCH_SIZES]
    inners = [inner(model) for model in copies]  # once: their state is kept
    for begin in range(0, steps, every):
        for worker, (model, optimizer) in enumerate(zip(copies, inners, strict=True), start=1):
            with torch.no_grad():
                for mine, start in zip(model.parameters(), common.parameters(), strict=True):
                    mine.copy_(start)
            train(model, optimizer, worker, range(begin, min(begin + every, steps)))
        weights = torch.tensor(BATCH_SIZES, dtype=dtype) / sum(BATCH_SIZES)
        for start, *results in zip(common.parameters(), *(m.parameters() for m in copies),
                                   strict=True):  # fmt: skip
            moved = (start.detach() - result.detach() for result in results)
            start.grad = torch.stack([w * d for w, d in zip(weights, moved, strict=True)]).sum(0)
        applied.step()
    return flat(common)


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        (sgd, {}),
        (sgd, {"outer_lr": 0.7, "outer_momentum": 0.9, "outer_nesterov": True}),
        (adamw, {"outer_lr": 0.7, "outer_momentum": 0.9, "outer_nesterov": True}),
    ],
    ids=["local-sgd", "outer-nesterov", "diloco"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-13)])
def test_two_workers_are_torchs_own_two(
    inner: Inner, outer: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    """Ten steps in rounds of four: the last round has two."""
    together = train_together(inner, outer, dtype, every=4, steps=10)
    assert_close(together, train_by_torch(inner, outer, dtype, every=4, steps=10), tolerance)


def test_the_oracle_would_notice_another_round_or_a_state_that_is_lost() -> None:
    outer = {"lr": 0.7, "momentum": 0.9, "nesterov": True}
    expected = train_by_torch(sgd, outer, torch.float64, every=4, steps=10)
    for inner, every, steps in ((sgd, 5, 10), (sgd, 4, 9), (plain_sgd, 4, 10)):
        other = train_by_torch(inner, outer, torch.float64, every=every, steps=steps)
        assert float((other - expected).abs().max() / expected.abs().max()) > 1e-3


def test_two_workers_whose_rounds_differ_push_as_often_under_bsp() -> None:
    """As with `--local-steps auto`: two steps of the one, six of the other."""
    models = {rank: build() for rank in (1, 2)}
    every = {1: 2, 2: 6}

    def work(rank: int) -> None:
        with local(models[rank], server, every[rank], rank=rank) as optimizer:
            train(models[rank], optimizer, rank, range(3 * every[rank]))

    with (
        serving(policy="bsp", workers=2, local_steps="auto") as server,
        ThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(work, (1, 2)))
        summary = server.settled().summary()
    assert summary["steps_by_worker"] == {"1": 3, "2": 3}
    assert summary["samples"] == 3 * (2 * BATCH_SIZES[0] + 6 * BATCH_SIZES[1])
    assert torch.equal(flat(models[1]), flat(models[2]))


# Rounds.


def test_how_many_steps_make_a_round_may_change() -> None:
    model, alone = build(), build()
    with serving(local_steps="auto") as server, local(model, server, 2) as optimizer:
        train(model, optimizer, 1, range(3))
        optimizer.local_steps = 5
        train(model, optimizer, 1, range(3, 6))
        assert (optimizer.version, optimizer.pending_steps) == (1, 4)
        optimizer.flush()
        assert (optimizer.version, optimizer.pending_steps) == (2, 0)
        optimizer.flush()  # nothing
        assert optimizer.version == 2
        assert optimizer.local_steps == 5
    train(alone, sgd(alone), 1, range(6))
    assert_close(flat(model), flat(alone))


def test_parameters_stay_where_they_are_and_gradients_are_left_to_zero_grad() -> None:
    model = build()
    with serving(local_steps="2") as server, local(model, server, 2) as optimizer:
        places = [p.data_ptr() for p in model.parameters()]
        train(model, optimizer, 1, range(4))
        assert [p.data_ptr() for p in model.parameters()] == places
        assert all(p.grad is not None for p in model.parameters())


def test_only_a_push_waits() -> None:
    model = build()
    with serving(local_steps="2") as server, local(model, server, 2) as optimizer:
        train(model, optimizer, 1, range(2))
        assert optimizer.wait_seconds > 0
        train(model, optimizer, 1, range(2, 3))
        assert optimizer.wait_seconds == 0


def test_a_parameter_that_the_inner_optimizer_leaves_alone_stays_as_it_is() -> None:
    model = build()
    first = model[0].weight.detach().clone()  # type: ignore[union-attr,operator]
    with serving(local_steps="2") as server:
        last = torch.optim.SGD(list(model.parameters())[2:], lr=0.2)
        with local(model, server, 2, lambda _: last) as optimizer:
            train(model, optimizer, 1, range(4))
    assert torch.equal(model[0].weight, first)  # type: ignore[arg-type]


def test_an_evicted_worker_loses_its_round_and_comes_back() -> None:
    """Silence is simulated: the server's clock is put forward in the middle of a round."""
    model = build()
    with (
        serving(has_lane=False, local_steps="100") as server,
        local(model, server, 100) as optimizer,
    ):
        train(model, optimizer, 1, range(3))
        optimizer.flush()
        common = served(server)
        train(model, optimizer, 1, range(3, 5))
        while server.server.metrics.evictions == 0:
            server.clock.skip(60.0)
            server.thread.join(0.05)  # a moment for its loop
        optimizer.flush()
        assert (optimizer.evictions, optimizer.pending_steps) == (1, 0)
        assert torch.equal(flat(model), common)
        train(model, optimizer, 1, range(5, 7))
        optimizer.flush()
        assert torch.equal(served(server), flat(model))
        assert not torch.equal(flat(model), common)


def break_step(model: nn.Module, optimizer: PSOptimizer) -> None:
    """A step whose gradient has a NaN in it."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.ones(1, 6)), torch.tensor([0])).backward()  # type: ignore[no-untyped-call]
    grad = model[2].bias.grad  # type: ignore[union-attr]
    assert isinstance(grad, Tensor)
    grad[1] = math.nan
    optimizer.step()


def test_a_nan_in_a_difference_ends_the_worker_with_step_and_slot() -> None:
    model = build()
    with serving(local_steps="2") as server:
        optimizer = local(model, server, 2)
        train(model, optimizer, 1, range(2))
        before = served(server)
        train(model, optimizer, 1, range(1))
        with torch.no_grad():
            model[2].bias[1] = math.nan  # type: ignore[union-attr]
        with pytest.raises(NonfiniteError, match=r"step 2 of worker 1: slot 2\.bias"):
            optimizer.flush()
        with pytest.raises(NonfiniteError):
            optimizer.step()
        assert torch.equal(served(server), before)
        optimizer.close()  # nothing is left to push


def test_a_nan_in_a_gradient_never_gets_into_the_inner_optimizer() -> None:
    model = build()
    with serving(local_steps="2") as server, local(model, server, 2) as optimizer:
        train(model, optimizer, 1, range(1))
        before = flat(model)
        with pytest.raises(NonfiniteError, match=r"step 1 of worker 1: slot 2\.bias"):
            break_step(model, optimizer)
        assert torch.equal(flat(model), before)
        train(model, optimizer, 1, range(1, 4))
        assert torch.isfinite(flat(model)).all()


@pytest.mark.parametrize("inner", [sgd, adamw])
def test_a_nan_that_is_skipped_does_not_stay_in_the_inner_optimizer(inner: Inner) -> None:
    model = build()
    with (
        serving(local_steps="2", nonfinite="skip") as server,
        local(model, server, 2, inner) as optimizer,
    ):
        train(model, optimizer, 1, range(2))
        before = served(server)
        break_step(model, optimizer)
        optimizer.flush()
        assert torch.equal(served(server), before)
        assert torch.equal(flat(model), before)
        train(model, optimizer, 1, range(4))
        assert server.settled().data.nonfinite_chunks == 1
        assert not torch.equal(served(server), before)
        assert torch.isfinite(flat(model)).all()


def test_who_fails_or_is_stopped_pushes_nothing_more() -> None:
    model = build()
    with serving(local_steps="4") as server:
        optimizer = local(model, server, 4)
        before = served(server)
        train(model, optimizer, 1, range(3))
        optimizer.close("failed")
        optimizer.close()  # twice does no harm, and pushes nothing either
        assert torch.equal(served(server), before)


def no_optimizer(model: nn.Module) -> dict[str, Any]:
    return {"inner": model.parameters()}


def of_another_model(_: nn.Module) -> dict[str, Any]:
    return {"inner": sgd(build())}


def with_overlap(model: nn.Module) -> dict[str, Any]:
    return {"inner": sgd(model), "overlap": True}


def without_inner(_: nn.Module) -> dict[str, Any]:
    return {"local_steps": 4}


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (no_optimizer, "expected an optimizer of torch, got generator"),
        (of_another_model, "not among params"),
        (with_overlap, "leave overlap out"),
        (without_inner, "make PSOptimizer with inner"),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_server_is_asked(
    misuse: Callable[[nn.Module], dict[str, Any]], says: str
) -> None:
    model = build()
    with pytest.raises(UsageError, match=says):
        PSOptimizer(model.named_parameters(), "tcp://127.0.0.1:1", rank=1, **misuse(model))


def test_what_a_server_would_take_for_something_else_is_refused_and_it_goes_on() -> None:
    model = build()
    with serving(workers=1) as server:
        with pytest.raises(UsageError, match=r"^inner: .* apply them by --lr; .*--local-steps N"):
            local(model, server, 2)
        with PSOptimizer(model.named_parameters(), server.address, rank=1) as optimizer:
            train(model, optimizer, 1, range(2))
    with serving(workers=1, outer_lr=1.0) as server:
        with pytest.raises(UsageError, match=r"takes what an inner .* PSOptimizer with inner="):
            PSOptimizer(model.named_parameters(), server.address, rank=1)
        with local(model, server, 1) as optimizer:
            train(model, optimizer, 1, range(2))


def test_its_groups_show_the_outer_rates_and_say_where_to_change_them() -> None:
    model = build()
    with (
        serving(local_steps="2", lr=0.3, outer_momentum=0.5) as server,
        local(model, server, 2) as optimizer,
    ):
        (group,) = optimizer.param_groups
        shown = {name: value for name, value in group.items() if name != "params"}
        assert shown == {"outer_lr": 1.0, "outer_momentum": 0.5, "outer_nesterov": False}
        group["outer_lr"] = 0.5
        with pytest.raises(UsageError, match=r"start it with --outer-lr 0\.5"):
            optimizer.step()
        group["outer_lr"] = 1.0


def test_a_round_has_a_step_at_least_and_needs_an_inner_optimizer() -> None:
    model = build()
    with serving() as server, PSOptimizer(model.named_parameters(), server.address, 1) as plain:
        plain.local_steps = 1
        with pytest.raises(UsageError, match="make PSOptimizer with inner"):
            plain.local_steps = 2
        assert plain.local_steps == 1
    with serving(local_steps="2") as server, local(model, server, 2) as optimizer:
        with pytest.raises(UsageError, match="local_steps=0: give a number from 1"):
            optimizer.local_steps = 0
        assert optimizer.local_steps == 2
