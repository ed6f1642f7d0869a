"""Settings are checked where they are made."""

from typing import Any

import pytest
import torch

from ps._core import ChunkSpec, SgdOptions


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


@pytest.mark.parametrize("name", ["lr", "momentum", "dampening", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sgd_options_must_be_finite(name: str, value: float) -> None:
    options: dict[str, Any] = {"lr": 0.1, name: value}
    with pytest.raises(ValueError, match=f"{name}: expected a finite number"):
        SgdOptions(**options)


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
