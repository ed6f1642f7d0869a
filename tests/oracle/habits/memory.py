"""Where numbers lie: aliases of parameters, shared memory, other dtypes, other processes."""

import copy
import threading
import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from oracle.body import habit
from oracle.run import Run, Steps, backward, loss_of, mlp


@habit
def keeps_detached_parameters_over_steps(run: Run) -> Steps:
    """In torch they follow the parameters, whose memory they share."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    detached = [parameter.detach() for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield detached


@habit
def keeps_the_data_of_parameters_over_steps(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    kept = [parameter.data for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield kept


@habit
def keeps_a_state_dict_over_steps(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    state = model.state_dict()
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(state.values())


@habit(on_gpu=False)
def looks_at_parameters_through_numpy(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    arrays = [parameter.detach().numpy() for parameter in model.parameters()]
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield [torch.from_numpy(array) for array in arrays]


@habit
def keeps_a_view_of_a_weight_over_steps(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    with torch.no_grad():
        rows = model[0].weight[:5]
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield rows


@habit
def takes_gradients_of_detached_parameters(run: Run) -> Steps:
    """As the tutorial on gradients of single samples does, once, before the loop."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    params = {name: p.detach() for name, p in model.named_parameters()}

    def loss(params: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, params, (inputs,)), targets)

    for inputs, targets in run.batches():
        gradients = grad(loss)(params, inputs, targets)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name]
        optimizer.step()
        yield


@habit
def builds_a_second_model_on_the_same_memory(run: Run) -> Steps:
    """An actor beside the learner, whose parameters share the learner's memory."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    actor = copy.deepcopy(model).requires_grad_(False)
    for mine, theirs in zip(actor.parameters(), model.parameters(), strict=True):
        mine.data = theirs.data
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(actor.parameters())


@habit
def assigns_a_state_dict_to_a_second_model(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    other = mlp()
    other.load_state_dict(model.state_dict(), assign=True)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(other.parameters())


@habit
def assigns_a_state_dict_to_the_trained_model(run: Run) -> Steps:
    """The module has new parameters then, which no optimizer has, in torch as here."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 5:
            model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        backward(optimizer, model, batch)
        optimizer.step()
        yield list(model.parameters())


@habit
def moves_the_model_to_shared_memory(run: Run) -> Steps:
    """For processes that look on, such as evaluators or actors."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        if step == 3:
            model.share_memory()
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit
def moves_the_model_to_shared_memory_beforehand(run: Run) -> Steps:
    model = mlp().share_memory()
    optimizer = run.optimizer(model.named_parameters())
    shared = list(model.state_dict().values())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield shared


@habit(on_gpu=False)
def sends_parameters_to_another_process(run: Run) -> Steps:
    """torch moves what it sends to shared memory, where it stays."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 3:
            for value in model.state_dict().values():
                value.untyped_storage()._share_fd_cpu_()
        yield


@habit
def shrinks_and_grows_the_storage_of_a_parameter(run: Run) -> Steps:
    """Memory is set free while it is not needed, and values are copied back afterwards."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches()):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 3:
            weight = model[2].weight
            kept, storage = weight.detach().clone(), weight.untyped_storage()
            size = storage.nbytes()
            try:
                storage.resize_(0)
            except RuntimeError:
                yield  # memory that cannot be resized stays, with a clear error of torch's
                continue
            storage.resize_(size)
            weight.data.copy_(kept)
        yield


@habit(refusal="publish|precision|dtype|float")
def goes_to_half_precision_and_back(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, batch in enumerate(run.batches(70)):
        backward(optimizer, model, batch)
        optimizer.step()
        if step == 3:
            model.half().to(torch.get_default_dtype())
        yield


@habit(refusal="precision|dtype|float")
def goes_to_single_precision_while_training(run: Run) -> Steps:
    """The server keeps the precision that the run began with."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        if step == 3:
            model.float()
        dtype = next(model.parameters()).dtype
        backward(optimizer, model, (inputs.to(dtype), targets))
        optimizer.step()
        yield


@habit(refusal="precision|dtype|float")
def goes_to_double_precision_while_training(run: Run) -> Steps:
    """The server keeps the precision that the run began with."""
    model = mlp().float()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        if step == 3:
            model.double()
        dtype = next(model.parameters()).dtype
        backward(optimizer, model, (inputs.to(dtype), targets))
        optimizer.step()
        yield


@habit
def trains_in_another_thread(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    losses: list[Tensor] = []
    dtype = torch.get_default_dtype()

    def train(batch: tuple[Tensor, Tensor]) -> None:
        torch.set_default_dtype(dtype)
        losses.append(backward(optimizer, model, batch).detach())
        optimizer.step()

    for batch in run.batches():
        thread = threading.Thread(target=train, args=(batch,))
        thread.start()
        thread.join()
        yield losses[-1]


@habit
def makes_the_weights_require_no_grad_around_an_evaluation(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        model.requires_grad_(False)
        evaluated = loss_of(model, batch)
        model.requires_grad_(True)
        yield evaluated


@habit
def swaps_tensors_when_it_converts_the_model(run: Run) -> Steps:
    """torch.__future__ has modules exchange their parameters' contents instead of their data."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    before = torch.__future__.get_swap_module_params_on_conversion()
    with warnings.catch_warnings(action="ignore"):
        for step, batch in enumerate(run.batches()):
            backward(optimizer, model, batch)
            optimizer.step()
            optimizer.zero_grad()
            if step == 3:
                torch.__future__.set_swap_module_params_on_conversion(True)
                try:
                    model.to(memory_format=torch.preserve_format, dtype=torch.get_default_dtype())
                finally:
                    torch.__future__.set_swap_module_params_on_conversion(before)
            yield
