"""The optimizer's own state: saved, loaded, copied, reset; and the model's."""

import copy
import io
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from oracle.body import habit
from oracle.run import OPTIMIZERS, Run, Steps, backward, loss_of, mlp

WITH_STATE = ("momentum", "adamw", "adagrad")


@habit(optimizers=WITH_STATE, may_be_refused=True)
def loads_a_state_dict_of_torchs_optimizer(run: Run) -> Steps:
    """Its averages would be the server's: they are loaded there, or not without a word."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    before = copy.deepcopy(model)
    of_torch, options = OPTIMIZERS[run.setting.optimizer]
    theirs = of_torch(before.parameters(), **options)
    for parameter in before.parameters():
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    optimizer.load_state_dict(theirs.state_dict())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def loads_its_own_state_dict_at_once(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        yield


@habit(optimizers=WITH_STATE, refusal="momentum and averages")
def rolls_the_optimizers_state_back(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    kept: dict[str, Any] = {}
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 2:
            kept = copy.deepcopy(optimizer.state_dict())
        if step == 6:
            optimizer.load_state_dict(kept)
        yield


@habit(optimizers=WITH_STATE, refusal="momentum and averages")
def clears_the_optimizers_state(run: Run) -> Steps:
    """As for a warm restart: momentum and averages begin anew."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 6:
            optimizer.state.clear()
        yield


@habit(optimizers=WITH_STATE, refusal="momentum and averages")
def assigns_a_new_state(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 6:
            optimizer.state = defaultdict(dict)
        yield


@habit(optimizers=("adamw",), refusal="momentum and averages")
def reads_an_average_of_the_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        state = optimizer.state.get(model[0].weight, {})
        yield state.get("exp_avg", torch.zeros_like(model[0].weight))


@habit
def saves_and_loads_the_model(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        loaded = mlp()
        loaded.load_state_dict(torch.load(file, weights_only=True))  # noqa: TID251
        yield list(loaded.parameters())


@habit
def copies_the_model_and_goes_on_with_the_first(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    copied = model
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        if step == 4:
            copied = copy.deepcopy(model)  # between backward and step
        optimizer.step()
        yield loss_of(copied, batch)


@habit
def trains_a_copy_with_another_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        copied = copy.deepcopy(model)
        inner = torch.optim.SGD(copied.parameters(), lr=0.1)
        for _ in range(3):
            inner.zero_grad()
            loss_of(copied, batch).backward()
            inner.step()
        yield loss_of(copied, batch)


@habit(refusal="copied|pickle")
def copies_the_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        optimizer = copy.deepcopy(optimizer)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def shows_the_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        assert str(optimizer).count("Parameter Group") == 1
        yield


@habit
def meta_learns_on_a_copy(run: Run) -> Steps:
    """Reptile: a copy trains a few steps; the way back to it is the gradient."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        copied = copy.deepcopy(model)
        inner = torch.optim.SGD(copied.parameters(), lr=0.1)
        for _ in range(3):
            inner.zero_grad()
            loss_of(copied, batch).backward()
            inner.step()
        for parameter, moved in zip(model.parameters(), copied.parameters(), strict=True):
            parameter.grad = parameter.detach() - moved.detach()
        optimizer.step()
        yield


@habit
def meta_learns_through_its_steps(run: Run) -> Steps:
    """MAML: the outer gradient goes through a step of the inner one."""
    model = nn.Linear(12, 3)
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        params = dict(model.named_parameters())

        def loss(
            params: dict[str, Tensor], inputs: Tensor = inputs, targets: Tensor = targets
        ) -> Tensor:
            outputs = torch.func.functional_call(model, params, (inputs,))
            return nn.functional.cross_entropy(outputs, targets)

        slopes = torch.autograd.grad(loss(params), list(params.values()), create_graph=True)
        moved = {n: p - 0.1 * g for (n, p), g in zip(params.items(), slopes, strict=True)}
        loss(moved).backward()
        optimizer.step()
        yield


@habit
def makes_the_optimizer_anew_after_the_first_was_closed(run: Run) -> Steps:
    """As in a notebook whose cell is run again: averages and momentum begin anew."""
    model = mlp()
    for _ in range(2):
        optimizer = run.optimizer(model.named_parameters(), watches=False)
        for batch in run.batches(6):
            backward(optimizer, model, batch)
            optimizer.step()
            yield list(model.parameters())
        if not run.is_torch:
            optimizer.close("stopped")


@habit(refusal="closed")
def steps_after_it_was_closed(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    optimizer.close("stopped")
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(may_be_refused=True)
def makes_the_optimizer_anew_while_the_first_is_there(run: Run) -> Steps:
    """As in a notebook whose cell is run again, with the server started anew."""
    model = mlp()
    for _ in range(2):
        optimizer = run.optimizer(model.named_parameters(), watches=False)
        for batch in run.batches(6):
            backward(optimizer, model, batch)
            optimizer.step()
            yield list(model.parameters())
