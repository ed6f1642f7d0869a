"""Groups of parameters, schedulers, rates set by hand, and clipping by the optimizer."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from oracle.body import habit
from oracle.run import Run, Steps, backward, mlp

ADAPTIVE = ("adamw",)
WITH_MOMENTUM = ("momentum", "adamw")


def grouped(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """Weights in one group, biases in another, with these options."""
    named = list(model.named_parameters())
    weights = [pair for pair in named if pair[1].dim() > 1]
    return [{"params": weights}, {"params": [p for p in named if p[1].dim() <= 1], **options}]


def training_in_groups(run: Run, **options: Any) -> Steps:
    model = mlp()
    optimizer = run.optimizer(grouped(model, **options))
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def splits_parameters_into_groups(run: Run) -> Steps:
    return training_in_groups(run)


@habit
def decays_no_biases(run: Run) -> Steps:
    return training_in_groups(run, weight_decay=0.0)


@habit
def gives_a_group_its_own_rate(run: Run) -> Steps:
    return training_in_groups(run, lr=0.003)


@habit(optimizers=("momentum",))
def gives_a_group_its_own_momentum(run: Run) -> Steps:
    return training_in_groups(run, momentum=0.5, dampening=0.0)


@habit(optimizers=("momentum",))
def gives_a_group_nesterovs_momentum(run: Run) -> Steps:
    return training_in_groups(run, nesterov=True, dampening=0.0)


@habit(optimizers=ADAPTIVE)
def gives_a_group_its_own_betas(run: Run) -> Steps:
    return training_in_groups(run, betas=(0.5, 0.9), eps=1e-6)


@habit(optimizers=ADAPTIVE)
def gives_a_group_amsgrad(run: Run) -> Steps:
    return training_in_groups(run, amsgrad=True)


@habit
def lets_a_group_ascend(run: Run) -> Steps:
    return training_in_groups(run, maximize=True)


@habit
def gives_a_group_a_name(run: Run) -> Steps:
    """torch keeps keys that it does not know."""
    return training_in_groups(run, name="biases")


@habit
def freezes_a_group_with_a_rate_of_zero(run: Run) -> Steps:
    return training_in_groups(run, lr=0.0)


@habit(refusal="once the run has begun")
def adds_a_group_while_training(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model[:2].named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        optimizer.add_param_group({"params": list(model[2].named_parameters(prefix="2"))})
        yield


@habit(may_be_refused=True)
def takes_a_parameter_out_of_its_group(run: Run) -> Steps:
    """torch steps over it no longer."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 5:
            optimizer.param_groups[0]["params"].pop()
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(may_be_refused=True)
def puts_a_new_parameter_in_a_group(run: Run) -> Steps:
    """As those do who prune or split what they train: the optimizer's tensor is exchanged."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 5:
            model[4].bias = nn.Parameter(model[4].bias.detach().clone())
            optimizer.param_groups[0]["params"][-1] = model[4].bias
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(model.parameters())


# Rates that change.


def scheduled(
    run: Run, make: Callable[[Any], Any], *, metric: bool = False, **options: Any
) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), **options)
    with warnings.catch_warnings(action="ignore"):
        scheduler = make(optimizer)
        for batch in run.batches():
            loss = backward(optimizer, model, batch)
            optimizer.step()
            scheduler.step(*([loss.item()] if metric else []))
            yield optimizer.param_groups[0]["lr"]


@habit
def decays_the_rate_in_steps(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.StepLR(o, step_size=4, gamma=0.5))


@habit
def decays_the_rate_at_milestones(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.MultiStepLR(o, milestones=[3, 9], gamma=0.3))


@habit
def decays_the_rate_exponentially(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.ExponentialLR(o, gamma=0.9))


@habit
def anneals_the_rate_by_a_cosine(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.CosineAnnealingLR(o, T_max=15))


@habit
def anneals_the_rate_and_restarts(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=6))


@habit
def warms_the_rate_up(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.LinearLR(o, start_factor=0.1, total_iters=8))


@habit
def chains_a_warm_up_and_a_cosine(run: Run) -> Steps:
    def chained(optimizer: Any) -> Any:
        warm_up = schedulers.LinearLR(optimizer, start_factor=0.1, total_iters=5)
        cosine = schedulers.CosineAnnealingLR(optimizer, T_max=15)
        return schedulers.SequentialLR(optimizer, [warm_up, cosine], milestones=[5])

    return scheduled(run, chained)


@habit
def follows_a_rate_of_its_own(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.LambdaLR(o, lambda epoch: 1 / math.sqrt(1 + epoch)))


@habit
def lowers_the_rate_on_a_plateau(run: Run) -> Steps:
    return scheduled(
        run, lambda o: schedulers.ReduceLROnPlateau(o, patience=1, factor=0.5), metric=True
    )


@habit(optimizers=WITH_MOMENTUM)
def follows_one_cycle_with_its_momentum(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.OneCycleLR(o, max_lr=0.05, total_steps=21))


@habit(optimizers=("sgd", "adagrad"))
def follows_one_cycle_without_momentum(run: Run) -> Steps:
    return scheduled(
        run,
        lambda o: schedulers.OneCycleLR(o, max_lr=0.05, total_steps=21, cycle_momentum=False),
    )


@habit(optimizers=("momentum",))
def cycles_the_rate_and_the_momentum(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.CyclicLR(o, 0.001, 0.05, step_size_up=5))


@habit
def ends_with_a_rate_for_averaging(run: Run) -> Steps:
    return scheduled(run, lambda o: SWALR(o, swa_lr=0.001, anneal_epochs=5))


@habit
def schedules_groups_apart(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(grouped(model, lr=0.001))
    scheduler = schedulers.LambdaLR(optimizer, [lambda e: 0.9**e, lambda e: 1 + e])
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        scheduler.step()
        yield


@habit
def sets_the_rate_by_hand(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(may_be_refused=True)
def sets_the_rate_between_backward_and_step(run: Run) -> Steps:
    """With overlap, some gradients have left by then."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        optimizer.step()
        yield


@habit
def sets_the_weight_decay_by_hand(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        optimizer.param_groups[0]["weight_decay"] = 0.01 * step
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def sets_the_rate_as_a_tensor(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.param_groups[0]["lr"] = torch.tensor(0.05 / (1 + step), dtype=torch.float64)
        optimizer.step()
        yield


@habit(refusal="lr-schedule|lr_schedule")
def schedules_on_both_sides(run: Run) -> Steps:
    return scheduled(
        run, lambda o: schedulers.StepLR(o, step_size=4),
        server={"lr_schedule": "step", "lr_step_size": 2},
    )  # fmt: skip


@habit
def leaves_a_scheduler_at_its_first_rate(run: Run) -> Steps:
    return scheduled(run, lambda o: schedulers.ConstantLR(o, factor=1.0))


# Clipping by the optimizer.


@habit(refusal_with_overlap="clip_norm|overlap")
def has_the_optimizer_clip_the_norm(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), leash={"clip_norm": 0.1})
    for batch in run.batches():
        backward(optimizer, model, batch)
        if run.is_torch:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        yield


@habit(refusal_with_overlap="clip_norm|overlap")
def has_the_optimizer_clip_accumulated_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), leash={"clip_norm": 0.1})
    model[2].requires_grad_(False)
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        for part in range(2):
            inputs, targets = batch
            nn.functional.cross_entropy(model(inputs * (1 + part)), targets).backward()
        if run.is_torch:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        yield
