"""What people do to gradients between backward and step(), and in hooks."""

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from oracle.body import habit
from oracle.run import FEATURES, STEPS, Run, Steps, backward, loss_of, mlp

EARLY = "overlap"  # with it, gradients have left before anybody can look at them


@habit(refusal_with_overlap=EARLY)
def clips_the_norm_of_the_gradient(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        yield norm


@habit(refusal_with_overlap=EARLY)
def clips_the_values_of_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        nn.utils.clip_grad_value_(model.parameters(), 0.001)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def adds_noise_to_gradients_by_hand(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad += 0.01 * torch.randn_like(parameter.grad)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def replaces_gradients_by_hand(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.01)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def replaces_the_data_of_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.data = parameter.grad.data / 2
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def takes_some_gradients_away_before_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        model[0].weight.grad = None
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def zeroes_the_model_between_backward_and_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        if step % 3 == 1:
            model.zero_grad()
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def logs_the_norm_of_the_gradient_before_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        yield [*norms, len(norms)]


@habit(refusal_with_overlap=EARLY)
def logs_the_norm_of_the_gradient_after_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        yield [*norms, len(norms)]


@habit(refusal_with_overlap=EARLY, may_be_refused=True)
def keeps_the_gradients_of_an_earlier_backward(run: Run) -> Steps:
    """As for two tasks whose gradients are compared: each backward makes new ones."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.begin_step()
        optimizer.zero_grad()
        loss_of(model, (inputs, targets)).backward()
        first = [parameter.grad for parameter in model.parameters()]
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        second = [parameter.grad for parameter in model.parameters()]
        for parameter, one, other in zip(model.parameters(), first, second, strict=True):
            parameter.grad = 0.7 * one + 0.3 * other
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY, may_be_refused=True)
def keeps_the_gradients_of_the_step_before(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    before = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        now = [parameter.grad for parameter in model.parameters()]
        agreement = sum((a * b).sum() for a, b in zip(before, now, strict=True))
        optimizer.step()
        before = now
        yield agreement


@habit(refusal_with_overlap=EARLY)
def keeps_clones_of_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    before = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        now = [parameter.grad.clone() for parameter in model.parameters()]
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.grad.add_(old, alpha=0.5)
        optimizer.step()
        before = now
        yield


@habit(refusal_with_overlap=EARLY)
def mends_gradients_that_are_not_finite(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        optimizer.zero_grad()
        optimizer.begin_step()
        loss = loss_of(model, (inputs, targets))
        (loss * (torch.nan if step % 4 == 1 else 1.0)).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.nan_to_num_(0.0)
        optimizer.step()
        yield


@habit(refusal="step 1 of worker 1")
def lets_a_gradient_be_nan(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        backward(optimizer, model, (inputs * torch.nan, targets))
        optimizer.step()
        yield


@habit
def hooks_into_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.001, 0.001))
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def hooks_in_behind_accumulation_before_the_optimizer_is_made(run: Run) -> Steps:
    model = mlp()

    def halve(parameter: Tensor) -> None:
        parameter.grad.mul_(0.5)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(halve)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def hooks_in_behind_accumulation_after_the_optimizer_is_made(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())

    def halve(parameter: Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.mul_(0.5)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(halve)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def hooks_into_the_backward_of_modules(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    model[2].register_full_backward_hook(lambda _, inputs, __: tuple(g * 0.5 for g in inputs))
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def assigns_gradients_from_autograd_grad(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        gradients = torch.autograd.grad(loss_of(model, batch), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        yield


@habit
def assigns_a_regularizers_gradient_before_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        for parameter in model.parameters():
            parameter.grad = 0.01 * parameter.detach().sign()
        optimizer.begin_step()
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def assigns_a_multiple_of_a_parameter_as_its_gradient(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for _ in range(STEPS):
        for parameter in model.parameters():
            parameter.grad = 0.1 * parameter.data
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def shares_one_gradient_between_two_parameters(run: Run) -> Steps:
    model = nn.ModuleList([nn.Linear(FEATURES, 3), nn.Linear(FEATURES, 3)])
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        loss_of(model[0], (inputs, targets)).backward()
        for one, other in zip(model[0].parameters(), model[1].parameters(), strict=True):
            other.grad = one.grad
        optimizer.step()
        yield


@habit
def averages_gradients_of_single_samples(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())

    def loss_of_one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(model, params, (x[None],))
        return nn.functional.cross_entropy(outputs, y[None])

    for inputs, targets in run.batches():
        params = {name: p.detach() for name, p in model.named_parameters()}
        each = vmap(grad(loss_of_one), in_dims=(None, 0, 0))(params, inputs, targets)
        for name, parameter in model.named_parameters():
            parameter.grad = each[name].clamp(-0.01, 0.01).mean(0)
        optimizer.step()
        yield


@habit(steps=10)
def follows_forward_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        params = {name: p.detach() for name, p in model.named_parameters()}
        tangents = {name: torch.randn_like(p) for name, p in params.items()}

        def loss(
            params: dict[str, Tensor], inputs: Tensor = inputs, targets: Tensor = targets
        ) -> Tensor:
            return nn.functional.cross_entropy(functional_call(model, params, (inputs,)), targets)

        with warnings.catch_warnings(action="ignore"):  # torch's own, when it first does this
            _, slope = jvp(loss, (params,), (tangents,))
        for name, parameter in model.named_parameters():
            parameter.grad = slope * tangents[name]
        optimizer.step()
        yield


@habit
def penalizes_the_gradient_of_the_inputs(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        asked = inputs.clone().requires_grad_()
        loss = loss_of(model, (asked, targets))
        (slope,) = torch.autograd.grad(loss, asked, create_graph=True)
        (loss + 10 * slope.square().sum()).backward()
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def keeps_a_graph_in_its_gradients(run: Run) -> Steps:
    """With create_graph, a gradient can be differentiated again."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        loss = loss_of(model, batch)
        first = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        (loss + 0.1 * sum(g.square().sum() for g in first)).backward(retain_graph=True)
        (0.1 * sum(g.abs().sum() for g in first)).backward()
        optimizer.step()
        yield


@habit(may_be_refused=True, refusal_with_overlap=EARLY)
def sharpens_with_sam(run: Run) -> Steps:
    """Sharpness-aware minimization: up the slope, a second backward, and exactly back again."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=0.05 / float(norm))
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.copy_(old)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def sharpens_with_sam_and_goes_back_by_data(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        before = [parameter.data.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.data = parameter.data + 0.05 * parameter.grad
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.data = old
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def centralizes_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.dim() > 1:
                parameter.grad.sub_(parameter.grad.mean(dim=1, keepdim=True))
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def freezes_rows_by_zeroing_their_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        if model[0].weight.grad is not None:
            model[0].weight.grad[:100] = 0
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY, may_be_refused=True)
def zeroes_gradients_that_it_has_kept(run: Run) -> Steps:
    """One list of gradients, made once and zeroed before each backward."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    kept: list[Tensor] = []
    for batch in run.batches():
        for gradient in kept:
            gradient.zero_()
        optimizer.begin_step()
        loss_of(model, batch).backward()
        kept = [p.grad for p in model.parameters() if p.grad is not None]
        if not kept:
            raise AssertionError("no gradient is here to be kept")
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY, may_be_refused=True)
def exchanges_the_gradients_of_two_parameters(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.Tanh(), nn.Linear(FEATURES, FEATURES))
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        one, other = model[0].weight, model[2].weight
        one.grad, other.grad = other.grad, one.grad
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def scales_gradients_that_a_hook_has_collected(run: Run) -> Steps:
    """The hook was there before the optimizer."""
    model = mlp()
    collected: list[Tensor] = []

    def collect(parameter: Tensor) -> None:
        collected.append(parameter.grad)

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(collect)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        for gradient in collected:
            gradient.mul_(0.5)
        collected.clear()
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def assigns_a_gradient_to_a_frozen_parameter(run: Run) -> Steps:
    model = mlp()
    model[2].bias.requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        model[2].bias.grad = torch.full_like(model[2].bias, 0.1)
        optimizer.step()
        yield


@habit(refusal=r"of worker 1")
def has_gradients_that_overflow_the_parameters(run: Run) -> Steps:
    """Finite gradients, but no finite result: of the parameters, or of their squares."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), lr=10.0)
    for _ in range(STEPS):
        optimizer.begin_step()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e308)
        optimizer.step()
        yield


@habit(refusal_with_overlap=EARLY)
def transposes_a_gradient(run: Run) -> Steps:
    """Its new gradient lies in the memory of the old one, in another order."""
    model = nn.Sequential(nn.Linear(FEATURES, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(),
                          nn.Linear(100, 3))  # fmt: skip
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        if model[2].weight.grad is not None:
            model[2].weight.grad = model[2].weight.grad.t()
        optimizer.step()
        yield


@habit
def goes_backward_through_earlier_steps(run: Run) -> Steps:
    """Only a bias is trained: the graph over the frozen weight outlives the steps."""
    model = nn.Linear(FEATURES, FEATURES)
    model.weight.requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    state = torch.zeros(1, FEATURES)
    for inputs, _ in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        state = model(0.5 * state + inputs[:1])
        (state - 1).square().mean().backward(retain_graph=True)
        optimizer.step()
        yield
