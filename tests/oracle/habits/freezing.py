"""Parameters that have a gradient in some steps and none in others."""

import torch
from torch import Tensor, nn

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, Run, Steps, backward, here, mlp


class Branches(nn.Module):
    """A common layer, and branches of which some are used at a time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.common = nn.Linear(FEATURES, 600)
        self.branches = nn.ModuleList(nn.Linear(600, CLASSES) for _ in range(count))
        self.used = [0]

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.common(x))
        return torch.stack([self.branches[i](hidden) for i in self.used]).sum(0)


def using(run: Run, count: int, used: list[list[int]]) -> Steps:
    model = Branches(count)
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        model.used = used[step % len(used)]
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def freezes_a_layer_from_the_beginning(run: Run) -> Steps:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def freezes_a_layer_after_the_optimizer_was_made(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    model[0].requires_grad_(False)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def freezes_a_layer_in_the_middle(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 8:
            model[2].requires_grad_(False)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def unfreezes_a_layer_in_the_middle(run: Run) -> Steps:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 8:
            model[0].requires_grad_(True)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def freezes_and_unfreezes_in_turn(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        model[0].requires_grad_(step % 3 != 1)
        model[4].requires_grad_(step % 4 != 2)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def unfreezes_layer_after_layer(run: Run) -> Steps:
    model = mlp().requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        model[max(0, 4 - 2 * (step // 5))].requires_grad_(True)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def freezes_everything_for_a_few_steps(run: Run) -> Steps:
    """Nothing has a gradient then: torch's step does nothing."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if 5 <= step < 8:
            optimizer.zero_grad()
        else:
            backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def lets_biases_alone(run: Run) -> Steps:
    """The gradient of one parameter of a layer is taken, that of its neighbour is not."""
    model = mlp()
    for layer in (model[0], model[2], model[4]):
        layer.bias.requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def alternates_between_two_heads(run: Run) -> Steps:
    return using(run, 2, [[0], [1]])


@habit
def uses_a_head_rarely(run: Run) -> Steps:
    return using(run, 2, [[0], [0], [0], [0], [0], [0], [1]])


@habit
def uses_a_head_for_the_first_time_late(run: Run) -> Steps:
    return using(run, 3, [[0]] * 12 + [[0, 2]] * 8)


@habit
def has_a_layer_that_is_never_used(run: Run) -> Steps:
    return using(run, 4, [[0, 2]])


@habit
def drops_layers_at_random(run: Run) -> Steps:
    generator = torch.Generator(here()).manual_seed(3)
    drawn = torch.rand(20, 5, generator=generator) < 0.6
    return using(run, 5, [row.nonzero().flatten().tolist() or [0] for row in drawn])


@habit
def mixes_experts(run: Run) -> Steps:
    """Every sample goes to one expert; an expert without a sample has no gradient."""
    gate = nn.Linear(FEATURES, 6)
    experts = nn.ModuleList(nn.Linear(FEATURES, CLASSES) for _ in range(6))
    both = nn.ModuleDict({"gate": gate, "experts": experts})
    optimizer = run.optimizer(both.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        weights = gate(inputs).softmax(-1)
        weight, chosen = weights.max(-1)
        outputs = torch.zeros(len(inputs), CLASSES)
        for index in chosen.unique().tolist():
            rows = chosen == index
            outputs[rows] = weight[rows, None] * experts[index](inputs[rows])
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit
def cuts_a_branch_with_detach(run: Run) -> Steps:
    model = nn.ModuleList([nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, CLASSES)])
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        optimizer.zero_grad()
        optimizer.begin_step()
        hidden = model[0](inputs)
        outputs = model[1](hidden.detach() if step % 2 else hidden)
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit(may_be_refused=True)
def sets_gradients_of_unused_heads_to_zero(run: Run) -> Steps:
    """With set_to_none=False, a head that rests has a gradient of zeros, and torch steps on."""
    model = Branches(2)
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        model.used = [step % 2]
        optimizer.zero_grad(set_to_none=False)
        optimizer.begin_step()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        yield


@habit(may_be_refused=True)
def freezes_with_zeroed_gradients(run: Run) -> Steps:
    """Frozen, but with a gradient of zeros left from before: torch goes on decaying it."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        model[0].requires_grad_(step < 8)
        optimizer.zero_grad(set_to_none=False)
        optimizer.begin_step()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        yield


@habit
def multiplies_a_gradient_by_zero(run: Run) -> Steps:
    """A gradient of zeros is a gradient: torch decays the parameter and moves it on."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    model[2].weight.register_hook(torch.zeros_like)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def takes_a_layer_out_while_training(run: Run) -> Steps:
    model = nn.ModuleList([nn.Linear(FEATURES, FEATURES) for _ in range(4)])
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        if step == 8:
            del model[2]
        optimizer.zero_grad()
        optimizer.begin_step()
        outputs = inputs
        for layer in model:
            outputs = torch.tanh(layer(outputs))
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit
def replaces_a_head_that_the_optimizer_has(run: Run) -> Steps:
    """The new one is no optimizer's, in torch as here; the old one has no gradient any more."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 8:
            model[4] = nn.Linear(12, CLASSES)
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(model[4].parameters())


@habit
def adds_a_layer_that_no_optimizer_has(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 8:
            model.append(nn.Linear(CLASSES, CLASSES))
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(model[-1].parameters())
