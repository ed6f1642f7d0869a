"""Kinds of models and layers, as people write them."""

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, Run, Steps, backward, mlp


def training(run: Run, model: nn.Module, *, shares_buffers: bool = False, **options: Any) -> Steps:
    """A plain loop over a classifier of 12 features."""
    leash = {"buffers": model.named_buffers()} if shares_buffers else {}
    optimizer = run.optimizer(model.named_parameters(), leash=leash, **options)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(model.buffers())


class Tied(nn.Module):
    """A network with the same weight at its beginning and its end."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(FEATURES, 16)
        self.decode = nn.Linear(16, 16)
        self.out = nn.Linear(16, CLASSES)
        self.decode.weight = nn.Parameter(torch.randn(16, 16) / 4)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.decode.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.decode(torch.tanh(self.encode(x))))
        return self.out(torch.tanh(self.again(hidden)))


@habit
def ties_weights(run: Run) -> Steps:
    return training(run, Tied())


@habit
def uses_one_layer_several_times(run: Run) -> Steps:
    layer = nn.Linear(FEATURES, FEATURES)
    return training(run, nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), layer))


@habit
def ties_weights_after_the_optimizer_was_made(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
    optimizer = run.optimizer(model.named_parameters())
    model[2].weight = model[0].weight
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal="share memory")
def ties_the_data_of_weights(run: Run) -> Steps:
    """Both parameters step over the same numbers in torch; a server keeps each apart."""
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
    model[2].weight.data = model[0].weight.data.t()
    return training(run, model)


@habit
def keeps_parameters_in_one_flat_tensor(run: Run) -> Steps:
    """They are views of it that do not overlap."""
    model = nn.Linear(FEATURES, CLASSES)
    flat = torch.randn(FEATURES * CLASSES + CLASSES)
    model.weight.data = flat[: FEATURES * CLASSES].view(CLASSES, FEATURES)
    model.bias.data = flat[FEATURES * CLASSES :]
    return training(run, model)


class Bag(nn.Module):
    """A table of vectors, and a layer over the mean of some."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8, **options)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        words = (x.abs() * 10).long().clamp(0, 49)
        return self.out(self.table(words).mean(1))


@habit(optimizers=("sgd", "momentum", "adagrad"))
def embeds_with_sparse_gradients(run: Run) -> Steps:
    """torch's AdamW takes none, and none of its optimizers with a decay."""
    with warnings.catch_warnings(action="ignore"):  # torch's own, when it first does this
        yield from training(run, Bag(sparse=True), weight_decay=0.0)


@habit
def embeds_with_a_padding_index(run: Run) -> Steps:
    return training(run, Bag(padding_idx=0))


@habit
def convolves_in_channels_last(run: Run) -> Steps:
    model = nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(),
        nn.Conv2d(40, 8, 3, padding=1), nn.Flatten(), nn.Linear(32, CLASSES),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    return training(run, model)


@habit
def turns_to_channels_last_after_the_optimizer_was_made(run: Run) -> Steps:
    model = nn.Sequential(
        nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(),
        nn.Linear(32, CLASSES),
    )  # fmt: skip
    optimizer = run.optimizer(model.named_parameters())
    model.to(memory_format=torch.channels_last)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


class Scaled(nn.Module):
    """Parameters without dimensions, and without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.nothing = nn.Parameter(torch.empty(0, 4))
        self.power = nn.Parameter(torch.tensor([0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(x + self.power * x.sin()) + self.nothing.sum()


@habit
def has_parameters_without_dimensions_and_without_numbers(run: Run) -> Steps:
    return training(run, Scaled())


@habit
def runs_an_lstm(run: Run) -> Steps:
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 24, num_layers=2), "out": nn.Linear(24, CLASSES)})
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        hidden, _ = model["lstm"](inputs.view(len(inputs), 3, 4).transpose(0, 1))
        nn.functional.cross_entropy(model["out"](hidden[-1]), targets).backward()
        optimizer.step()
        yield


@habit
def attends_with_a_transformer(run: Run) -> Steps:
    # Without biases: those of the keys have gradients that are zero but for rounding.
    layer = nn.TransformerEncoderLayer(4, 2, 32, dropout=0.1, batch_first=True, bias=False)
    layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(nn.Unflatten(1, (3, 4)), layers, nn.Flatten(), nn.Linear(12, CLASSES))
    return training(run, model)


class Masked(nn.Module):
    """Attention with a causal mask, which is a buffer that holds -inf."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, bias=False)
        self.out = nn.Linear(12, CLASSES)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 3, 4)
        attended, _ = self.attention(x, x, x, attn_mask=self.mask, need_weights=False)
        return self.out(attended.flatten(1))


@habit
def shares_a_mask_that_holds_infinities(run: Run) -> Steps:
    return training(run, Masked(), shares_buffers=True)


@habit
def keeps_a_mask_that_holds_infinities(run: Run) -> Steps:
    return training(run, Masked())


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 40, bias=False), nn.BatchNorm1d(40), nn.ReLU(),
                         nn.Linear(40, CLASSES))  # fmt: skip


@habit
def normalizes_batches_with_statistics_of_its_own(run: Run) -> Steps:
    return training(run, normalized())


@habit
def normalizes_batches_with_shared_statistics(run: Run) -> Steps:
    return training(run, normalized(), shares_buffers=True)


@habit
def averages_batch_statistics_over_all_steps(run: Run) -> Steps:
    model = normalized()
    model[1].momentum = None
    return training(run, model, shares_buffers=True)


@habit(refusal_with_overlap="overlap=False")
def looks_at_another_batch_between_backward_and_step(run: Run) -> Steps:
    """Its statistics change after gradients were computed."""
    model = normalized()
    optimizer = run.optimizer(model.named_parameters(), leash={"buffers": model.named_buffers()})
    for inputs, targets in run.batches():
        backward(optimizer, model, (inputs, targets))
        with torch.no_grad():
            model(inputs.flip(0) + 1)
        optimizer.step()
        yield list(model.buffers())


@habit
def loads_buffers_while_training(run: Run) -> Steps:
    model = normalized()
    optimizer = run.optimizer(model.named_parameters(), leash={"buffers": model.named_buffers()})
    kept = copy.deepcopy(dict(model.named_buffers()))
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 6:
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])
        yield list(model.buffers())


@habit
def replaces_a_buffer_while_training(run: Run) -> Steps:
    """The module has another tensor from then on, which nobody was told of."""
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Identity())
    model.register_buffer("count", torch.zeros(1))
    optimizer = run.optimizer(model.named_parameters(), leash={"buffers": model.named_buffers()})
    for batch in run.batches():
        model.count = model.count + 1
        backward(optimizer, model, batch)
        optimizer.step()
        yield model.count


@habit(refusal_with_overlap="overlap=False")
def counts_in_a_buffer_after_backward(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Identity())
    model.register_buffer("count", torch.zeros(1))
    optimizer = run.optimizer(model.named_parameters(), leash={"buffers": model.named_buffers()})
    for batch in run.batches():
        backward(optimizer, model, batch)
        model.count += 1
        optimizer.step()
        yield model.count


@habit
def resets_statistics_after_the_step(run: Run) -> Steps:
    model = normalized()
    optimizer = run.optimizer(model.named_parameters(), leash={"buffers": model.named_buffers()})
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 6:
            model[1].reset_running_stats()
        yield list(model.buffers())


class Checkpointed(nn.Module):
    """Computes a part again in backward, instead of keeping its activations."""

    def __init__(self, part: nn.Module, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.part = nn.Linear(FEATURES, FEATURES, bias=False), part
        self.out = nn.Linear(FEATURES, CLASSES)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.out(checkpoint(self.part, self.first(x), use_reentrant=self.reentrant))


def part() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Dropout(0.2), nn.Tanh())


@habit
def checkpoints_activations(run: Run) -> Steps:
    return training(run, Checkpointed(part(), reentrant=False))


@habit
def checkpoints_activations_with_a_backward_inside_backward(run: Run) -> Steps:
    return training(run, Checkpointed(part(), reentrant=True))


@habit(refusal_with_overlap="overlap=False")
def checkpoints_a_layer_with_shared_statistics(run: Run) -> Steps:
    """Backward runs the layer once more, and its statistics move on then too."""
    inside = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Tanh())
    return training(run, Checkpointed(inside, reentrant=False), shares_buffers=True)


@habit
def normalizes_weights(run: Run) -> Steps:
    model = mlp()
    parametrizations.weight_norm(model[2])
    return training(run, model)


@habit
def normalizes_weights_in_the_old_way(run: Run) -> Steps:
    with warnings.catch_warnings(action="ignore"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(FEATURES, 16)), nn.Tanh(),
                              nn.Linear(16, CLASSES))  # fmt: skip
    return training(run, model)


@habit
def normalizes_spectra(run: Run) -> Steps:
    model = mlp()
    parametrizations.spectral_norm(model[2])
    return training(run, model)


@habit
def normalizes_spectra_with_shared_vectors(run: Run) -> Steps:
    model = mlp()
    parametrizations.spectral_norm(model[2])
    return training(run, model, shares_buffers=True)


class Symmetric(nn.Module):
    """Makes a matrix symmetric."""

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.triu() + matrix.triu(1).transpose(-1, -2)


@habit
def parametrizes_a_weight(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    return training(run, model)


@habit
def keeps_a_weight_orthogonal(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, CLASSES))
    parametrizations.orthogonal(model[0])
    return training(run, model)


@habit
def wraps_the_model_before_the_optimizer_is_made(run: Run) -> Steps:
    return training(run, nn.DataParallel(mlp()))


@habit
def wraps_the_model_after_the_optimizer_was_made(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    wrapped = nn.DataParallel(model)
    for batch in run.batches():
        backward(optimizer, wrapped, batch)
        optimizer.step()
        yield


@habit
def calls_the_model_as_a_function(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    params = dict(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        outputs = functional_call(model, params, (inputs,))
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit
def traces_the_model(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    with warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(model, torch.zeros(2, FEATURES))
    for batch in run.batches():
        backward(optimizer, traced, batch)
        optimizer.step()
        yield


@habit
def traces_the_model_symbolically(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    traced = torch.fx.symbolic_trace(model)
    for batch in run.batches():
        backward(optimizer, traced, batch)
        optimizer.step()
        yield


@habit(daily=False)
def compiles_the_model(run: Run) -> Steps:
    """With the backend that needs no compiler of C++."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    with warnings.catch_warnings(action="ignore"):
        try:
            compiled = torch.compile(model, backend="aot_eager")
        except RuntimeError as error:
            pytest.skip(f"torch compiles nothing here: {error}")
        for batch in run.batches():
            backward(optimizer, compiled, batch)
            optimizer.step()
            yield


@habit
def mixes_precisions_in_one_model(run: Run) -> Steps:
    """The parts do not depend on each other, so that each has the exactness of its own."""
    model = nn.ModuleDict({
        "wide": nn.Linear(FEATURES, CLASSES, dtype=torch.float64),
        "narrow": nn.Linear(FEATURES, CLASSES, dtype=torch.float64),
    })  # fmt: skip
    model["narrow"].half().float()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches(3):
        optimizer.zero_grad()
        optimizer.begin_step()
        for name, dtype in (("wide", torch.float64), ("narrow", torch.float32)):
            nn.functional.cross_entropy(model[name](inputs.to(dtype)), targets).backward()
        optimizer.step()
        yield


@habit(refusal="complex")
def has_complex_parameters(run: Run) -> Steps:
    weight = nn.Parameter(torch.randn(4, dtype=torch.complex64))
    optimizer = run.optimizer([("weight", weight)])
    weight.abs().sum().backward()
    optimizer.step()
    yield


@habit(refusal="float8|16, 32 or 64 bits")
def has_parameters_of_eight_bits(run: Run) -> Steps:
    weight = nn.Parameter(torch.ones(4).to(torch.float8_e4m3fn))
    run.optimizer([("weight", weight)])
    yield


@habit
def optimizes_its_inputs(run: Run) -> Steps:
    """The parameter is a plain tensor."""
    image = torch.rand(1, FEATURES, requires_grad=True)
    optimizer = run.optimizer([("image", image)])
    model = mlp().requires_grad_(False)
    for _, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        nn.functional.cross_entropy(model(image), targets[:1]).backward()
        optimizer.step()
        yield


class Twice(torch.autograd.Function):
    """x ▸ 2x, by hand."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


@habit
def writes_its_own_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        outputs = Twice.apply(model(inputs)) + Twice.apply(model[4].bias)
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit(refusal="share memory")
def shares_a_buffer_that_is_a_parameters_memory(run: Run) -> Steps:
    model = nn.Linear(FEATURES, CLASSES)
    model.register_buffer("shown", model.weight.detach())
    return training(run, model, shares_buffers=True)


@habit(refusal="expanded")
def shares_a_buffer_that_is_expanded(run: Run) -> Steps:
    """All of its numbers lie in one place, where nothing can be written."""
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Identity())
    model.register_buffer("scale", torch.ones(1).expand(CLASSES))
    return training(run, model, shares_buffers=True)


@habit
def shares_buffers_in_half_precision(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.Identity())
    model.register_buffer("mean", torch.linspace(0, 1, 7).bfloat16())
    return training(run, model, shares_buffers=True)


class Fused(nn.Module):
    """Keeps views of one weight, made once, as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2 * CLASSES, FEATURES) / 4)

    def keep_views(self) -> None:
        self.halves = self.weight.detach().chunk(2)

    def forward(self, x: Tensor) -> Tensor:
        scale = nn.functional.linear(x, self.halves[1]).sigmoid()
        return nn.functional.linear(x, self.weight[:CLASSES]) * scale


@habit
def keeps_views_of_a_weight_in_the_module(run: Run) -> Steps:
    model = Fused()
    optimizer = run.optimizer(model.named_parameters())
    model.keep_views()
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(optimizers=("adamw",), refusal="infinit|finite")
def has_a_parameter_that_holds_infinities(run: Run) -> Steps:
    """As a mask of forbidden classes may."""
    model = nn.Linear(FEATURES, CLASSES)
    with torch.no_grad():
        model.bias[1] = -torch.inf
    optimizer = run.optimizer(model.named_parameters())
    for inputs, _ in run.batches():
        backward(optimizer, model, (inputs, torch.zeros(len(inputs), dtype=torch.long)))
        optimizer.step()
        yield


@habit(refusal_with_overlap="overlap")
def checkpoints_one_layer_twice_with_a_backward_inside_backward(run: Run) -> Steps:
    """Each inner backward adds a gradient of the same parameters."""
    once = Checkpointed(nn.Linear(FEATURES, FEATURES), reentrant=True)
    model = nn.Sequential(once, nn.Linear(CLASSES, FEATURES), once)
    return training(run, model)


class Described(nn.Parameter):
    """A parameter of a class of one's own."""


@habit
def has_parameters_of_a_class_of_its_own(run: Run) -> Steps:
    model = nn.Linear(FEATURES, CLASSES)
    model.weight = Described(model.weight.detach().clone())
    return training(run, model)


@habit(may_be_refused=True)
def names_tied_weights_twice(run: Run) -> Steps:
    """torch warns of it, and steps twice over them."""
    model = Tied()
    with warnings.catch_warnings(action="ignore"):
        optimizer = run.optimizer(model.named_parameters(remove_duplicate=False))
        for batch in run.batches():
            backward(optimizer, model, batch)
            optimizer.step()
            yield


@habit
def saves_the_whole_model(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        torch.save(model, io.BytesIO())
        yield
