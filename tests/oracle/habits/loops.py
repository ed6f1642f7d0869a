"""The training loop itself: its order, closures, several backward passes, steps left out."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, STEPS, Run, Steps, backward, here, loss_of, mlp

TWO_PASSES = "overlap=False"


@habit
def trains_in_a_plain_loop(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        loss = backward(optimizer, model, batch)
        optimizer.step()
        yield loss


@habit
def zeroes_gradients_after_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.begin_step()
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@habit
def zeroes_gradients_through_the_model(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        model.zero_grad()
        optimizer.begin_step()
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def zeroes_gradients_without_setting_them_to_none(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad(set_to_none=False)
        optimizer.begin_step()
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def passes_a_closure(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():

        def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        yield optimizer.step(closure)


@habit(refusal_with_overlap="overlap")
def clips_inside_a_closure(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():

        def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            return loss

        yield optimizer.step(closure)


@habit
def returns_from_a_closure_without_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):

        def closure(step: int = step, batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            if step % 3:
                loss.backward()
            return loss

        yield optimizer.step(closure)


@habit(refusal_with_overlap=TWO_PASSES)
def accumulates_gradients_over_micro_batches(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for first, second in pairwise(run.batches(STEPS + 1)):
        optimizer.zero_grad()
        optimizer.begin_step()
        for batch in (first, second):
            (loss_of(model, batch) / 2).backward()
        optimizer.step()
        yield


@habit(refusal_with_overlap=TWO_PASSES)
def accumulates_and_steps_every_third_batch(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for number, batch in enumerate(run.batches(3 * STEPS), 1):
        optimizer.begin_step()
        (loss_of(model, batch) / 3).backward()
        if number % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
            yield


@habit(refusal_with_overlap=TWO_PASSES)
def goes_backward_twice_with_retain_graph(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        loss = loss_of(model, batch)
        loss.backward(retain_graph=True)
        (0.3 * loss).backward()
        optimizer.step()
        yield


@habit
def goes_backward_from_two_losses_at_once(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        outputs = model(inputs)
        losses = [nn.functional.cross_entropy(outputs, targets), outputs.square().mean()]
        torch.autograd.backward(losses)
        optimizer.step()
        yield


@habit
def goes_backward_once_for_each_of_two_parts(run: Run) -> Steps:
    first, second = mlp(), mlp()
    both = nn.ModuleList([first, second])
    optimizer = run.optimizer(both.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        loss_of(first, batch).backward()
        loss_of(second, batch).backward()
        optimizer.step()
        yield


@habit
def goes_backward_for_some_parameters_only(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        loss_of(model, batch).backward(inputs=list(model[4].parameters()))
        optimizer.step()
        yield


@habit
def steps_before_any_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    optimizer.step()
    yield
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal_with_overlap="overlap")
def steps_twice_after_one_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield
        optimizer.step()
        yield


@habit(refusal_with_overlap="overlap")
def never_zeroes_gradients(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.begin_step()
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def leaves_out_a_batch_whose_loss_is_not_finite(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        optimizer.zero_grad()
        optimizer.begin_step()
        loss = loss_of(model, (inputs * (torch.inf if step % 4 == 1 else 1.0), targets))
        if torch.isfinite(loss):
            loss.backward()
            optimizer.step()
        yield


@habit(refusal_with_overlap="overlap")
def leaves_out_a_step_after_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        if step % 4 == 1:
            optimizer.zero_grad()
        else:
            optimizer.step()
        yield


@habit(told_with_overlap="broken off")
def goes_on_after_an_error_in_backward(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    fails = [False]

    def fail(gradient: Tensor) -> None:
        if fails[0]:
            raise MemoryError("as a GPU would")

    model[0].weight.register_hook(fail)
    for step, batch in enumerate(run.batches()):
        fails[0] = step % 4 == 1
        try:
            backward(optimizer, model, batch)
        except MemoryError:
            continue
        optimizer.step()
        yield


@habit
def goes_on_after_an_error_in_a_closure(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):

        def closure(step: int = step, batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            if step % 4 == 1:
                raise MemoryError("as a GPU would")
            loss.backward()
            return loss

        try:
            optimizer.step(closure)
        except MemoryError:
            continue
        yield


@habit
def evaluates_between_steps(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, 40), nn.Dropout(0.3), nn.ReLU(),
                          nn.Linear(40, CLASSES))  # fmt: skip
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        model.eval()
        with torch.no_grad():
            evaluated = loss_of(model, batch)
        model.train()
        yield evaluated


@habit
def evaluates_in_inference_mode(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        with torch.inference_mode():
            evaluated = loss_of(model, batch).item()
        yield evaluated


@habit
def evaluates_with_gradients_and_forgets_them(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield [gradient.norm() for gradient in
               torch.autograd.grad(loss_of(model, batch), list(model.parameters()))]  # fmt: skip


@habit
def detects_anomalies(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    with warnings.catch_warnings(action="ignore"):
        for batch in run.batches():
            with torch.autograd.detect_anomaly():
                backward(optimizer, model, batch)
            optimizer.step()
            yield


@habit
def steps_under_no_grad(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        with torch.no_grad():
            optimizer.step()
        yield


@habit
def drops_units_with_a_seed(run: Run) -> Steps:
    """PSOptimizer draws no random numbers of torch's."""
    model = nn.Sequential(nn.Linear(FEATURES, 200), nn.Dropout(0.5), nn.ReLU(),
                          nn.Linear(200, CLASSES))  # fmt: skip
    optimizer = run.optimizer(model.named_parameters())
    torch.manual_seed(5)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield torch.rand(1)


@habit
def draws_shuffled_batches_from_a_loader(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    data = TensorDataset(torch.randn(40, FEATURES), torch.randint(CLASSES, (40,)))
    generator = torch.Generator(here()).manual_seed(3)
    for _ in range(4):
        for batch in DataLoader(data, batch_size=8, shuffle=True, generator=generator):
            backward(optimizer, model, batch)
            optimizer.step()
            yield


@habit
def hooks_into_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    seen: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(1))
    optimizer.register_step_post_hook(lambda *_: seen.append(2))
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield len(seen)


@habit(refusal_with_overlap="overlap")
def clips_in_a_hook_before_the_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    optimizer.register_step_pre_hook(
        lambda *_: nn.utils.clip_grad_value_(model.parameters(), 0.001) or None
    )
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def carries_a_hidden_state_over_steps(run: Run) -> Steps:
    model = nn.ModuleDict({"cell": nn.GRUCell(FEATURES, 16), "out": nn.Linear(16, CLASSES)})
    optimizer = run.optimizer(model.named_parameters())
    hidden = torch.zeros(5, 16)
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        hidden = model["cell"](inputs, hidden.detach())
        nn.functional.cross_entropy(model["out"](hidden), targets).backward()
        optimizer.step()
        yield hidden


@habit(refusal_with_overlap=TWO_PASSES)
def attacks_its_inputs_before_each_step(run: Run) -> Steps:
    """The fast gradient sign method: a backward pass for the inputs fills the parameters' grads."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        asked = inputs.clone().requires_grad_()
        optimizer.begin_step()
        loss_of(model, (asked, targets)).backward()
        assert asked.grad is not None
        attacked = inputs + 0.1 * asked.grad.sign()
        optimizer.zero_grad()
        loss_of(model, (attacked, targets)).backward()
        optimizer.step()
        yield


@habit
def is_told_how_many_samples_are_behind_a_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for number, batch in enumerate(run.batches(), 1):
        optimizer.zero_grad()
        optimizer.begin_step(samples=number)
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def copies_the_model_at_every_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    copies = []
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        copies.append(copy.deepcopy(model))
        yield [loss_of(copied, batch) for copied in copies[-3:]]


@habit
def is_told_the_samples_by_numpy(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step(samples=np.int64(5))
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit
def is_told_the_samples_by_a_tensor(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step(samples=torch.tensor(len(targets)))
        loss_of(model, (inputs, targets)).backward()
        optimizer.step()
        yield


@habit
def unfreezes_after_it_has_begun_a_step(run: Run) -> Steps:
    model = mlp()
    model[2].requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.begin_step()
        model[2].requires_grad_(True)
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@habit
def freezes_between_forward_and_backward(run: Run) -> Steps:
    """Its gradient is computed all the same: the graph was there."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer.zero_grad()
        model[0].requires_grad_(True)
        optimizer.begin_step()
        loss = loss_of(model, batch)
        model[0].requires_grad_(False)
        loss.backward()
        optimizer.step()
        yield


@habit
def draws_batches_from_processes_of_a_loader(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    inputs, targets = torch.randn(20, FEATURES), torch.randint(CLASSES, (20,))
    data = TensorDataset(inputs.cpu(), targets.cpu())
    for _ in range(2):
        for inputs, targets in DataLoader(data, batch_size=10, num_workers=1):
            backward(optimizer, model, (inputs.to(here()), targets.to(here())))
            optimizer.step()
            yield
