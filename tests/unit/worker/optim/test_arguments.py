"""What PSOptimizer refuses before it asks any server: the address here is nobody's."""

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from leash import PSOptimizer, UsageError
from leash.worker.models import build_model
from leash.worker.optim.arguments import require_step_without_closure
from leash.worker.optim.optimizer import HYPERPARAMETERS

NOBODY = "tcp://127.0.0.1:1"


def refusal(params: Any, **options: Any) -> str:
    """The one line with which PSOptimizer refuses these arguments."""
    with pytest.raises(UsageError) as caught:
        PSOptimizer(params, NOBODY, 1, wait_s=0.1, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def named() -> Any:
    return nn.Linear(2, 1).named_parameters()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.1}, "--lr 0.1"),
        ({"momentum": 0.9, "lr": 0.1}, "--momentum 0.9"),
        ({"betas": (0.9, 0.95)}, "--betas 0.9,0.95"),
        ({"nesterov": True}, "--nesterov"),
        ({"amsgrad": False}, "--amsgrad left out"),
    ],
)
def test_options_of_the_servers_optimizer_are_named_as_the_servers(
    options: dict[str, Any], words: str
) -> None:
    line = refusal(named(), **options)
    assert line.endswith(f"leave it out here and start leash server with {words}")


@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_each_hyperparameter_is_one_of_these(name: str) -> None:
    assert "leash server with --" in refusal(named(), **{name: 1})


@pytest.mark.parametrize("name", ["foreach", "fused", "capturable", "differentiable"])
def test_options_of_how_torch_computes_are_refused(name: str) -> None:
    assert "which has no such option; leave it out" in refusal(named(), **{name: True})


def test_a_name_that_is_spelled_wrongly_is_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'transprot'"):
        PSOptimizer(named(), NOBODY, 1, transprot="tcp")


@pytest.mark.parametrize("params", [nn.Linear(2, 1), torch.zeros(3), 7, None])
def test_what_is_no_collection_of_parameters_names_the_call(params: Any) -> None:
    assert "pass model.named_parameters()" in refusal(params)


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(1))


def lazy_buffers() -> nn.Module:
    """Its parameters have values; its statistics have not."""
    return nn.Sequential(nn.Linear(2, 3), nn.LazyBatchNorm1d(affine=False))


def on_meta() -> nn.Module:
    return nn.Linear(2, 1, device="meta")


def sparse() -> nn.Module:
    model = nn.Linear(2, 1)
    model.extra = nn.Parameter(torch.zeros(3, 3).to_sparse())
    return model


WITHOUT_VALUES = [
    (lazy, "1.weight is lazy", "run one batch through the model first"),
    (lazy_buffers, "1.running_mean is lazy", "run one batch through the model first"),
    (on_meta, "weight is on the meta device", "model.to_empty"),
    (sparse, "extra is torch.sparse_coo", "to_dense()"),
]


@pytest.mark.parametrize(("build", "says", "mend"), WITHOUT_VALUES)
def test_tensors_without_values_are_named_with_the_mend(
    build: Callable[[], nn.Module], says: str, mend: str
) -> None:
    model = build()
    line = refusal(model.named_parameters(), buffers=model.named_buffers())
    assert says in line
    assert mend in line


@pytest.mark.parametrize(("build", "says", "mend"), WITHOUT_VALUES)
def test_a_users_model_without_values_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], says: str, mend: str
) -> None:
    module = types.ModuleType("leash_test_nets")
    module.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "leash_test_nets", module)
    with pytest.raises(UsageError) as caught:
        build_model("leash_test_nets:build", (2,), 1)
    assert str(caught.value).startswith(f"model leash_test_nets:build: {says}")
    assert mend in str(caught.value)


def test_a_lazy_model_that_has_seen_a_batch_is_taken() -> None:
    model = lazy()
    model(torch.zeros(1, 2))
    with pytest.raises(Exception, match="no server answers"):
        PSOptimizer(model.named_parameters(), NOBODY, 1, wait_s=0.1)


def test_an_inner_optimizer_that_needs_a_closure_is_refused() -> None:
    model = nn.Linear(2, 1)
    line = refusal(model.named_parameters(), inner=torch.optim.LBFGS(model.parameters()))
    assert line.startswith("inner: LBFGS computes the loss several times a step, by a closure")


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
        and kind not in (torch.optim.Optimizer, torch.optim.LBFGS)
    ],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_every_other_optimizer_of_torch_may_be_inside(kind: type[torch.optim.Optimizer]) -> None:
    layer = nn.Linear(2, 2)
    # Muon takes matrices alone.
    require_step_without_closure(kind([layer.weight], lr=0.1))  # type: ignore[call-arg]
