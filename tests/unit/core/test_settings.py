"""Settings are checked where they are made."""

from typing import Any

import pytest
import torch

from leash.ps._core import AdagradOptions, AdamOptions, ChunkSpec, SgdOptions


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -0.1},
        {"lr": 0.1, "momentum": -0.9},
        {"lr": 0.1, "weight_decay": -1.0},
        {"lr": 0.1, "nesterov": True},
        {"lr": 0.1, "nesterov": True, "momentum": 0.9, "dampening": 0.1},
    ],
    ids=str,
)
def test_sgd_options_refuse_what_torch_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        torch.optim.SGD([torch.zeros(1)], **options)
    with pytest.raises(ValueError, match=r"expected .* got"):
        SgdOptions(**options)


@pytest.mark.parametrize(
    ("options", "of_torch"),
    [(AdamOptions, torch.optim.Adam), (AdagradOptions, torch.optim.Adagrad)],
)
@pytest.mark.parametrize(
    "values",
    [
        {"lr": -0.1},
        {"weight_decay": -1.0},
        {"eps": -1e-8},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"lr_decay": -1.0},
        {"initial_accumulator_value": -1.0},
    ],
    ids=str,
)
def test_the_others_refuse_what_torch_refuses(
    options: Any, of_torch: Any, values: dict[str, Any]
) -> None:
    if next(iter(values)) not in dir(options):
        return
    with pytest.raises(ValueError):
        of_torch([torch.zeros(1)], **values)
    with pytest.raises(ValueError, match=r"expected .* got"):
        options(**values)


@pytest.mark.parametrize(
    ("options", "of_torch"),
    [
        (SgdOptions(), torch.optim.SGD),
        (AdamOptions(), torch.optim.Adam),
        (AdagradOptions(), torch.optim.Adagrad),
    ],
)
def test_the_defaults_are_those_of_torch(options: Any, of_torch: Any) -> None:
    defaults = of_torch([torch.zeros(1)]).defaults
    names = [name for name in dir(options) if name in defaults]
    assert len(names) >= 6
    assert {name: getattr(options, name) for name in names} == {n: defaults[n] for n in names}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (SgdOptions, ["lr", "momentum", "dampening", "weight_decay"]),
        (AdamOptions, ["lr", "eps", "weight_decay"]),
        (AdagradOptions, ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"]),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_options_must_be_finite(options: Any, names: list[str], value: float) -> None:
    for name in names:
        with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
            options(**{name: value})
    with pytest.raises(ValueError, match="beta2: expected a number from 0 to below 1"):
        AdamOptions(betas=(0.9, value))


def test_sgd_options_can_be_read_and_not_changed() -> None:
    options = SgdOptions(lr=0.1, momentum=0.9, nesterov=True)
    assert (options.lr, options.momentum, options.dampening) == (0.1, 0.9, 0.0)
    assert (options.weight_decay, options.nesterov) == (0.0, True)
    with pytest.raises(AttributeError):
        options.lr = 1.0  # type: ignore[misc]


def test_a_chunk_spec_knows_its_size_in_bytes() -> None:
    assert ChunkSpec(values=3, dtype="f32", kind="parameter").nbytes == 12
    spec = ChunkSpec(values=3, dtype="f64", kind="buffer")
    assert (spec.values, spec.dtype, spec.kind, spec.nbytes) == (3, "f64", "buffer", 24)


def test_a_chunk_spec_names_the_choices() -> None:
    with pytest.raises(ValueError, match="dtype: expected 'f32' 'f64', got 'f16'"):
        ChunkSpec(values=3, dtype="f16", kind="parameter")
    with pytest.raises(ValueError, match="kind: expected 'parameter' 'buffer', got 'gradient'"):
        ChunkSpec(values=3, dtype="f32", kind="gradient")


def test_a_chunk_spec_refuses_a_size_that_no_chunk_has() -> None:
    with pytest.raises(ValueError, match="values: expected at most 4294967296"):
        ChunkSpec(values=2**40, dtype="f32", kind="parameter")
