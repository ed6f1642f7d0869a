"""The model's tensors as views of a slab, where torch allows it, and as copies elsewhere."""

import copy
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from leash.worker.optim import slabs as module
from leash.worker.optim.slabs import ModelSlabs


def slabs_of(model: nn.Module) -> ModelSlabs:
    return ModelSlabs(model.named_parameters(), model.named_buffers())


def lies_in(tensor: Tensor, slab: np.ndarray) -> bool:  # type: ignore[type-arg]
    start = slab.ctypes.data
    return start <= tensor.data_ptr() < start + slab.nbytes


def answer(slabs: ModelSlabs, value: float) -> None:
    """As a server would: writes parameters where the gradients are."""
    slabs.gradients.view(np.float32)[:] = value
    slabs.flip()


def test_parameters_and_buffers_move_into_the_slab_and_keep_their_values() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    before = copy.deepcopy(model)
    slabs = slabs_of(model)
    for mine, other in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(mine, other)
        assert lies_in(mine, slabs.parameters) == mine.is_floating_point()


def test_the_two_slabs_change_places_and_nothing_is_allocated() -> None:
    model = nn.Linear(64, 64)
    slabs = slabs_of(model)
    seen = []
    tracemalloc.start()
    try:
        for step in range(6):
            model(torch.ones(1, 64)).sum().backward()
            assert all(slabs.take(slot) for slot in range(len(slabs.places)))
            seen.append(model.weight.data_ptr())
            if step == 1:
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
            answer(slabs, step)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seen == [seen[0], seen[1]] * 3
    assert peak - before < 64 * 64 * 4


def test_after_an_answer_the_parameters_have_its_values_and_gradients_stay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slabs = slabs_of(model)
    model(torch.ones(2, 3)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    answer(slabs, 2.5)
    for tensor in (*model.parameters(), model[1].running_mean):
        assert isinstance(tensor, Tensor)
        assert (tensor == 2.5).all()
    assert all(p.grad is kept for p, kept in zip(model.parameters(), gradients, strict=True))


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    slabs = slabs_of(model)
    answer(slabs, 1.5)
    assert model[1].weight is model[0].weight
    assert model[1].weight.data_ptr() == model[0].weight.data_ptr()


def test_a_channels_last_weight_keeps_its_strides_and_is_copied() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strides, address = model.weight.stride(), model.weight.data_ptr()
    slabs = slabs_of(model)
    answer(slabs, 0.25)
    assert (model.weight.stride(), model.weight.data_ptr()) == (strides, address)
    assert (model.weight == 0.25).all()
    assert lies_in(model.bias, slabs.parameters)  # type: ignore[arg-type]


def test_parameters_that_share_memory_are_copied_and_go_on_sharing_it() -> None:
    whole = torch.zeros(10)
    model = nn.Module()
    model.register_parameter("head", nn.Parameter(whole[:4]))
    model.register_parameter("tail", nn.Parameter(whole[4:]))
    model.register_parameter("same", nn.Parameter(whole))
    slabs = slabs_of(model)
    answer(slabs, 3.0)
    assert (whole == 3.0).all()


def test_half_precision_is_copied_and_pushed_as_f32() -> None:
    model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    slabs = slabs_of(model)
    model.weight.grad = torch.full_like(model.weight, 0.5)
    assert slabs.take(0)
    assert (slabs.gradients.view(np.float32) == 0.5).all()
    answer(slabs, 0.25)
    assert model.weight.dtype == torch.bfloat16
    assert (model.weight == 0.25).all()


def elsewhere(model: nn.Linear) -> None:
    model.weight.data = model.weight.data.clone()


def transposed(model: nn.Linear) -> None:
    model.weight.data = model.weight.data.t().clone().t()


def shared(model: nn.Linear) -> None:
    model.share_memory()


def sent(model: nn.Linear) -> None:
    model.weight.untyped_storage()._share_fd_cpu_()


@pytest.mark.parametrize("move", [elsewhere, transposed, shared, sent])
def test_a_parameter_that_was_moved_since_stays_there_and_is_copied(
    move: Callable[[nn.Linear], None],
) -> None:
    model = nn.Linear(2, 2)
    slabs = slabs_of(model)
    answer(slabs, 0.25)
    move(model)
    at = model.weight.data_ptr()
    for value in (0.5, 1.0, 1.5):
        answer(slabs, value)
        assert (model.weight == value).all()
        assert (slabs.parameters.view(np.float32) == value).all()
        assert model.weight.data_ptr() == at
        assert not lies_in(model.weight, slabs.parameters)
        assert not lies_in(model.weight, slabs.gradients)


ALIASES: dict[str, Callable[[nn.Linear], Callable[[], Tensor]]] = {
    "detach": lambda model: model.weight.detach,
    "data": lambda model: lambda: model.weight.data,
    "view": lambda model: lambda: model.weight.detach()[:1],
    "numpy": lambda model: lambda: torch.from_numpy(model.weight.detach().numpy()),
    "array": lambda model: lambda: torch.from_numpy(np.asarray(model.weight.detach())),
    "dlpack": lambda model: lambda: torch.from_dlpack(model.weight.detach()),
    "storage": lambda model: lambda: torch.empty(0).set_(model.weight.untyped_storage()),  # type: ignore[call-overload]
    "parameter": lambda model: lambda: nn.Parameter(model.weight.detach()),
}


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_of_a_parameter_follows_it_as_long_as_it_is_there(alias: str) -> None:
    model = nn.Linear(2, 2)
    slabs = slabs_of(model)
    answer(slabs, 0.25)
    kept, at = ALIASES[alias](model)(), model.weight.data_ptr()
    for value in (0.5, 1.0, 1.5):
        slabs.gradients[:] = 0  # of the next step, which must not show
        assert (kept == model.weight.flatten()[0]).all()
        answer(slabs, value)
        assert (kept == value).all()
        assert (model.weight == value).all()
        assert (model.bias == value).all()
        assert model.weight.data_ptr() == at
    del kept
    answer(slabs, 2.0)
    assert (model.weight == 2.0).all()
    assert model.weight.data_ptr() != at  # the slabs change places again


def test_an_alias_that_was_there_before_follows_too() -> None:
    model = nn.Linear(2, 2)
    kept = model.weight.detach()
    slabs = slabs_of(model)
    for value in (0.5, 1.0):
        answer(slabs, value)
        assert (kept == value).all()
        assert (model.weight == value).all()


def test_a_storage_that_somebody_holds_stays_where_it_is() -> None:
    model = nn.Linear(2, 2)
    slabs = slabs_of(model)
    kept = model.weight.untyped_storage()
    answer(slabs, 0.5)
    assert kept.data_ptr() == model.weight.data_ptr()


def test_where_torch_does_not_tell_who_uses_memory_everything_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_users", None)
    model = nn.Linear(2, 2)
    slabs = slabs_of(model)
    at = model.weight.data_ptr()
    for value in (0.5, 1.0):
        answer(slabs, value)
        assert (model.weight == value).all()
        assert model.weight.data_ptr() == at


def test_what_has_no_gradient_and_did_not_change_is_left_alone() -> None:
    model = nn.Linear(2, 2, dtype=torch.bfloat16)  # which is copied
    views = nn.Linear(2, 2)
    for each in (model, views):
        slabs = slabs_of(each)
        answer(slabs, 0.5)
        before = [parameter._version for parameter in each.parameters()]
        slabs.gradients[:] = slabs.parameters
        slabs.flip(absent=[1])
        assert [p._version for p in each.parameters()] == [before[0] + 1, before[1]]
        slabs.gradients.view(np.float32)[:] = 0.75  # another worker's step
        slabs.flip(absent=[0, 1])
        assert all((parameter == 0.75).all() for parameter in each.parameters())


def test_a_copy_of_the_model_is_independent_and_no_larger() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slabs = slabs_of(model)
    kept = copy.deepcopy(model)
    answer(slabs, 9.0)
    for tensor in kept.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert not (tensor == 9.0).all()


def test_the_model_can_be_saved_and_loaded_between_steps(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    slabs = slabs_of(model)
    save_model(model, str(tmp_path / "m.safetensors"))
    answer(slabs, 9.0)
    model.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert lies_in(model[0].weight, slabs.parameters)
    assert not (model[0].weight == 9.0).any()


def test_a_graph_of_the_step_before_is_refused_as_with_torchs_own_optimizers() -> None:
    model = nn.Linear(3, 3)
    slabs = slabs_of(model)
    inputs = torch.ones(1, 3, requires_grad=True)
    loss = model(inputs).square().sum()
    loss.backward(retain_graph=True)
    answer(slabs, 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_numbers_of_both_widths_share_a_slab() -> None:
    model = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1, dtype=torch.float64)])
    slabs = slabs_of(model)
    for place in slabs.places:
        place.gradient.fill_(4.0)
    slabs.flip()
    assert all((parameter == 4.0).all() for parameter in model.parameters())
    assert model[1].weight.dtype == torch.float64
