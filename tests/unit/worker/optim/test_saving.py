"""A loop of people's own saves a checkpoint of its run, against a live server."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from leash import PSOptimizer, UsageError
from leash.ps.errors import HeaderError
from leash.ps.runs.checkpoint import check_checkpoint
from leash.ps.runs.rundir import RunDir
from support.servers import serving


def build() -> nn.Module:
    """Of the same values each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Linear(4, 2)


def train(model: nn.Module, optimizer: PSOptimizer, steps: int) -> None:
    """Each step depends on all before it, by the momentum and by the values."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(3, 4)).square().mean().backward()
        optimizer.step()


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("policy", ["bsp", "asp"])
def test_a_run_goes_on_from_what_was_saved_as_if_it_had_never_ended(
    tmp_path: Path, policy: str
) -> None:
    path, options = tmp_path / "deep" / "m.safetensors", {"policy": policy, "momentum": 0.9}
    model = build()
    with serving(run_dir=RunDir(tmp_path / "first"), **options) as server:
        with PSOptimizer(model.named_parameters(), server.address, 1) as optimizer:
            train(model, optimizer, 3)
            optimizer.save(path)
            saved = values(model)
            train(model, optimizer, 3)
        assert server.join() == 0
    expected, tensors = values(model), load_file(path)
    assert all(torch.equal(tensors[name], value) for name, value in saved.items())
    assert check_checkpoint(path)["version"] == "3"

    model = build()
    with serving(resume=str(path), **options) as server:
        with PSOptimizer(model.named_parameters(), server.address, 1) as optimizer:
            assert optimizer.client.steps == 3
            assert all(torch.equal(value, saved[name]) for name, value in values(model).items())
            train(model, optimizer, 3)
        assert server.join() == 0
    assert all(torch.equal(value, expected[name]) for name, value in values(model).items())


def test_a_save_in_the_midst_of_a_step_is_refused_and_the_step_can_be_taken(tmp_path: Path) -> None:
    model, path = build(), tmp_path / "m.safetensors"
    with (
        serving(run_dir=RunDir(tmp_path / "run"), policy="bsp") as server,
        PSOptimizer(model.named_parameters(), server.address, 1, overlap=True) as optimizer,
    ):
        optimizer.begin_step(samples=3)
        model(torch.ones(3, 4)).square().mean().backward()
        with pytest.raises(UsageError, match=r"call it after step\(\)"):
            optimizer.save(path)
        assert not path.exists()
        optimizer.step()
        optimizer.save(path)
    assert check_checkpoint(path)["version"] == "1"


def test_a_place_that_cannot_be_a_file_and_a_server_that_writes_none_are_refused(
    tmp_path: Path,
) -> None:
    model = build()
    with (
        serving() as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as optimizer,
    ):
        with pytest.raises(UsageError, match="this is a folder"):
            optimizer.save(tmp_path)
        with pytest.raises(HeaderError, match="no run directory"):
            optimizer.save(tmp_path / "m.safetensors")
        train(model, optimizer, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_begin_with_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = build()
    with (
        serving(run_dir=RunDir(tmp_path / "run")) as server,
        PSOptimizer(model.named_parameters(), server.address, 1) as optimizer,
    ):
        optimizer.save("~/m.safetensors")
    assert (tmp_path / "m.safetensors").exists()
