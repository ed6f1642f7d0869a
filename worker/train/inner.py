"""The optimizer that takes a worker's own steps, of `--inner-optimizer` and its options."""

from collections.abc import Iterable

import torch
from torch import nn

from leash.ps.options.inner import InnerOptions
from leash.ps.options.plan import takes_local_steps


def inner_optimizer(
    options: InnerOptions, parameters: Iterable[nn.Parameter], local_steps: str
) -> torch.optim.Optimizer | None:
    """The one of a run with local steps; None for one without.

    Args:
        local_steps: of the run, as `--local-steps` takes it.
    """
    if not takes_local_steps(local_steps):
        return None
    lr, weight_decay = options.chosen_inner_lr, options.chosen_inner_weight_decay
    if options.inner_optimizer == "sgd":
        momentum = options.inner_momentum
        return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.AdamW if options.inner_optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=weight_decay)
