"""What people do to parameters outside step(), and the ways to do it that a server allows."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, Run, Steps, backward, here, mlp

PUBLISH = "publish"  # the way out that the error names
SEEN_WITHIN = 64  # steps, for writes that bump no version


def changing(run: Run, change: Callable[[nn.Module, int], Any], count: int = 20) -> Steps:
    """A plain loop with this after every step."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches(count)):
        backward(optimizer, model, batch)
        optimizer.step()
        change(model, step)
        yield


@habit(refusal=PUBLISH)
def clamps_weights_after_each_step(run: Run) -> Steps:
    def clamp(model: nn.Module, _: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.clamp_(-0.05, 0.05)

    return changing(run, clamp)


@habit(refusal=PUBLISH)
def clamps_the_data_of_weights_after_each_step(run: Run) -> Steps:
    def clamp(model: nn.Module, _: int) -> None:
        for parameter in model.parameters():
            parameter.data.clamp_(-0.05, 0.05)

    return changing(run, clamp, SEEN_WITHIN + 1)


@habit(refusal=PUBLISH)
def clamps_one_bias_through_data(run: Run) -> Steps:
    """The smallest part of the model."""
    return changing(run, lambda model, _: model[4].bias.data.clamp_(-0.01, 0.01), SEEN_WITHIN + 1)


@habit(refusal=PUBLISH)
def assigns_the_data_of_weights(run: Run) -> Steps:
    def assign(model: nn.Module, _: int) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data * 0.99

    return changing(run, assign, SEEN_WITHIN + 1)


@habit(refusal=PUBLISH)
def assigns_new_data_once(run: Run) -> Steps:
    def assign(model: nn.Module, step: int) -> None:
        if step == 3:
            model[2].weight.data = torch.zeros_like(model[2].weight)

    return changing(run, assign, SEEN_WITHIN + 4)


@habit(refusal=PUBLISH)
def writes_a_vector_into_the_parameters(run: Run) -> Steps:
    def write(model: nn.Module, _: int) -> None:
        vector_to_parameters(0.9 * parameters_to_vector(model.parameters()), model.parameters())

    return changing(run, write, SEEN_WITHIN + 1)


@habit(refusal=PUBLISH)
def applies_a_pruning_mask_after_each_step(run: Run) -> Steps:
    def mask(model: nn.Module, _: int) -> None:
        with torch.no_grad():
            model[2].weight.mul_(model[2].weight.abs() > 0.01)

    return changing(run, mask)


@habit(refusal=PUBLISH)
def makes_a_pruning_permanent_while_training(run: Run) -> Steps:
    model = mlp()
    prune.l1_unstructured(model[2], "weight", amount=0.5)
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches(SEEN_WITHIN + 4)):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 3:
            prune.remove(model[2], "weight")
        yield


@habit
def prunes_with_a_mask_before_the_optimizer_is_made(run: Run) -> Steps:
    model = mlp()
    prune.l1_unstructured(model[2], "weight", amount=0.5)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def prunes_with_a_mask_while_training(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 3:
            prune.l1_unstructured(model[2], "weight", amount=0.5)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def loads_a_state_dict_after_the_optimizer_was_made(run: Run) -> Steps:
    model, pretrained = mlp(), mlp()
    optimizer = run.optimizer(model.named_parameters())
    model.load_state_dict(pretrained.state_dict())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def initializes_weights_after_the_optimizer_was_made(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    nn.init.orthogonal_(model[0].weight)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def resets_a_layer_while_training(run: Run) -> Steps:
    return changing(run, lambda model, step: step == 3 and model[4].reset_parameters())


@habit(refusal=PUBLISH)
def rolls_back_to_the_best_weights(run: Run) -> Steps:
    kept: dict[str, Tensor] = {}

    def roll_back(model: nn.Module, step: int) -> None:
        if step == 2:
            kept.update(copy.deepcopy(model.state_dict()))
        if step == 6:
            model.load_state_dict(kept)

    return changing(run, roll_back)


@habit(refusal=PUBLISH)
def copies_an_average_back(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    averaged = AveragedModel(model)
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        averaged.update_parameters(model)
        if step % 5 == 4:
            model.load_state_dict(averaged.module.state_dict())
        yield


@habit(refusal=PUBLISH)
def looks_ahead_by_hand(run: Run) -> Steps:
    slow: list[Tensor] = []

    def look_ahead(model: nn.Module, step: int) -> None:
        if not slow:
            slow.extend(p.detach().clone() for p in model.parameters())
        if step % 5 == 4:
            with torch.no_grad():
                for old, parameter in zip(slow, model.parameters(), strict=True):
                    old.lerp_(parameter, 0.5)
                    parameter.copy_(old)

    return changing(run, look_ahead)


@habit(refusal=PUBLISH)
def renormalizes_an_embedding_in_forward(run: Run) -> Steps:
    model = nn.Sequential(nn.Embedding(30, 8, max_norm=1.0), nn.Flatten(), nn.Linear(32, CLASSES))
    optimizer = run.optimizer(model.named_parameters())
    for _, targets in run.batches():
        backward(optimizer, model, (torch.randint(30, (5, 4)), targets))
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def decays_weights_by_hand(run: Run) -> Steps:
    def decay(model: nn.Module, _: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.999)

    return changing(run, decay)


@habit(refusal=PUBLISH, refusal_with_overlap="overlap=False")
def steps_by_hand_over_one_layer(run: Run) -> Steps:
    """As another optimizer over a parameter of this one would."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    other = torch.optim.SGD(model[4].parameters(), lr=0.1)
    for batch in run.batches():
        backward(optimizer, model, batch)
        other.step()
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def changes_weights_before_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        with torch.no_grad():
            model[0].weight += 0.01
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal=PUBLISH)
def pulls_an_image_into_its_range(run: Run) -> Steps:
    """The optimizer's only parameter is a picture, as in style transfer."""
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    optimizer = run.optimizer([("image", image)])
    for _ in range(SEEN_WITHIN + 1):
        optimizer.zero_grad()
        optimizer.begin_step()
        (image - 2).square().sum().backward()
        optimizer.step()
        image.data.clamp_(0, 1)
        yield


# What is no change in the end.


@habit
def swaps_averaged_weights_in_and_out_again(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    averages = [parameter.detach().clone() for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        for average, parameter in zip(averages, model.parameters(), strict=True):
            average.mul_(0.9).add_(parameter.detach(), alpha=0.1)
        kept = [parameter.data.clone() for parameter in model.parameters()]
        for average, parameter in zip(averages, model.parameters(), strict=True):
            parameter.data.copy_(average)
        with torch.no_grad():
            evaluated = model(batch[0])
        for old, parameter in zip(kept, model.parameters(), strict=True):
            parameter.data.copy_(old)
        yield evaluated


@habit(may_be_refused=True)
def writes_what_the_weights_are_already(run: Run) -> Steps:
    def rewrite(model: nn.Module, _: int) -> None:
        model.load_state_dict(copy.deepcopy(model.state_dict()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.clone())
                parameter.clamp_(-1e3, 1e3)

    return changing(run, rewrite)


@habit
def gives_weights_new_memory(run: Run) -> Steps:
    def move(model: nn.Module, _: int) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()

    return changing(run, move)


@habit
def calls_to_with_what_the_model_is_already(run: Run) -> Steps:
    return changing(run, lambda model, _: model.to(here(), torch.get_default_dtype()).to(here()))


@habit
def averages_with_swa_utils(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        averaged.update_parameters(model)
        yield list(averaged.parameters())


@habit
def follows_with_an_exponential_average(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    target = copy.deepcopy(model).requires_grad_(False)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        for slow, fast in zip(target.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)
        yield list(target.parameters())


@habit
def copies_weights_into_a_target_network(run: Run) -> Steps:
    policy, target = mlp(), mlp().requires_grad_(False)
    optimizer = run.optimizer(policy.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, policy, batch)
        optimizer.step()
        if step % 5 == 0:
            target.load_state_dict(policy.state_dict())
        yield list(target.parameters())


# The ways out.


@habit
def publishes_pretrained_weights(run: Run) -> Steps:
    model, pretrained = mlp(), mlp()
    optimizer = run.optimizer(model.named_parameters())
    model.load_state_dict(pretrained.state_dict())
    optimizer.publish()
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def publishes_what_was_clamped(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        for parameter in model.parameters():
            parameter.data.clamp_(-0.05, 0.05)
        optimizer.publish()
        yield


@habit
def publishes_the_best_weights_again(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    kept: dict[str, Tensor] = {}
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 2:
            kept = copy.deepcopy(model.state_dict())
        if step == 6:
            model.load_state_dict(kept)
            optimizer.publish()
        yield


@habit
def has_the_server_clamp_a_group(run: Run) -> Steps:
    model = mlp()
    groups = [
        {"params": list(model[0].named_parameters(prefix="0"))},
        {"params": list(model[2:].named_parameters(prefix="rest")), "clamp": (-0.05, 0.05)},
    ]
    optimizer = run.optimizer(groups)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        if run.is_torch:
            for parameter in model[2:].parameters():
                parameter.data.clamp_(-0.05, 0.05)
        yield


@habit
def has_the_server_limit_the_norm_of_rows(run: Run) -> Steps:
    model = nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(32, CLASSES))
    groups = [
        {"params": list(model[0].named_parameters(prefix="table")), "max_norm": 1.0},
        {"params": list(model[2].named_parameters(prefix="out"))},
    ]
    optimizer = run.optimizer(groups)
    for _, targets in run.batches():
        backward(optimizer, model, (torch.randint(30, (5, 4)), targets))
        optimizer.step()
        if run.is_torch:
            model[0].weight.data = torch.renorm(model[0].weight.data, p=2, dim=0, maxnorm=1.0)
        yield


class Clamping:
    """Makes an optimizer clamp what it has stepped over."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.register_step_post_hook(self)

    def __call__(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.data.clamp_(-0.05, 0.05)


@habit(refusal_with_overlap="leave overlap out")
def clamps_in_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True)
    Clamping(optimizer if run.is_torch else run.inners[0])
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def trains_only_the_rest_where_a_teacher_follows_by_data(run: Run) -> Steps:
    """Momentum contrast: the teacher is in the model, no gradient reaches it, and data moves it."""
    student, teacher = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)
    teacher.requires_grad_(False)
    both = nn.ModuleDict({"student": student, "teacher": teacher})
    trained = [(n, p) for n, p in both.named_parameters() if p.requires_grad]
    optimizer = run.optimizer(trained)
    run.watch(weight=teacher.weight, bias=teacher.bias)
    for batch in run.batches():
        backward(optimizer, student, batch)
        optimizer.step()
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
            slow.data = 0.9 * slow.data + 0.1 * fast.data
        yield


@habit(may_be_refused=True)
def moves_a_frozen_teacher_that_the_optimizer_was_given(run: Run) -> Steps:
    """As above, with all of model.named_parameters()."""
    student, teacher = nn.Linear(FEATURES, CLASSES), nn.Linear(FEATURES, CLASSES)
    teacher.requires_grad_(False)
    both = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = run.optimizer(both.named_parameters())
    for batch in run.batches():
        backward(optimizer, student, batch)
        optimizer.step()
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
            slow.data = 0.9 * slow.data + 0.1 * fast.data
        yield


@habit(may_be_refused=True)
def publishes_between_backward_and_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        with torch.no_grad():
            model[0].weight.mul_(0.9)
        optimizer.publish()
        optimizer.step()
        yield
