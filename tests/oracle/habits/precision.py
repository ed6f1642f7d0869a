"""Mixed precision: autocast, gradient scalers, models in half precision."""

import torch
from torch import Tensor, nn

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, Run, Steps, backward, here, loss_of, mlp

SCALED = "overlap"


@habit
def computes_under_autocast_in_bf16(run: Run) -> Steps:
    model = mlp().float()
    optimizer = run.optimizer(model.named_parameters(), weight_decay=0.0)
    for inputs, targets in run.batches(1):
        optimizer.zero_grad()
        optimizer.begin_step()
        with torch.autocast(here().type, torch.bfloat16):
            outputs = model(inputs.float())
        nn.functional.cross_entropy(outputs.float(), targets).backward()
        optimizer.step()
        yield


@habit(refusal_with_overlap=SCALED)
def scales_the_loss(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    scaler = torch.amp.GradScaler(here().type, init_scale=2.0**10)
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        yield


@habit(refusal_with_overlap=SCALED)
def scales_the_loss_and_leaves_out_what_overflows(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    scaler = torch.amp.GradScaler(here().type, init_scale=2.0**10, growth_interval=3)
    for step, (inputs, targets) in enumerate(run.batches()):
        optimizer.zero_grad()
        optimizer.begin_step()
        loss = loss_of(model, (inputs, targets)) * (torch.inf if step % 5 == 2 else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        yield scaler.get_scale()


@habit(refusal_with_overlap=SCALED)
def scales_the_loss_and_clips(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    scaler = torch.amp.GradScaler(here().type, init_scale=2.0**10)
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        yield norm


@habit(refusal_with_overlap=SCALED)
def scales_the_loss_of_a_model_with_a_frozen_layer(run: Run) -> Steps:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = run.optimizer(model.named_parameters())
    scaler = torch.amp.GradScaler(here().type, init_scale=2.0**10)
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        yield


@habit
def has_a_scaler_that_is_switched_off(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    scaler = torch.amp.GradScaler(here().type, enabled=False)
    for batch in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        yield


class Master(nn.Module):
    """A linear layer in half precision, whose parameters are rounded from those of a master."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.linear = nn.Linear(FEATURES, CLASSES, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.linear.weight.to(self.dtype), self.linear.bias.to(self.dtype)
        return nn.functional.linear(x, weight, bias)


@habit
def trains_a_model_in_bf16(run: Run) -> Steps:
    """The server keeps the parameters in f32: as torch with a master copy that is rounded."""
    master = Master(torch.bfloat16)
    model = nn.Linear(FEATURES, CLASSES, dtype=torch.bfloat16)
    model.load_state_dict(master.linear.state_dict())
    for parameter, rounded in zip(master.parameters(), model.parameters(), strict=True):
        parameter.data.copy_(rounded)
    trained = master if run.is_torch else model
    optimizer = run.optimizer(
        (master.linear if run.is_torch else model).named_parameters(), watches=False
    )
    for inputs, targets in run.batches(3):
        optimizer.zero_grad()
        optimizer.begin_step()
        outputs = trained(inputs.bfloat16())
        nn.functional.cross_entropy(outputs.float(), targets).backward()
        optimizer.step()
        yield [parameter.bfloat16() for parameter in trained.parameters()]


@habit
def keeps_master_weights_by_hand(run: Run) -> Steps:
    """The optimizer steps over copies in single precision; the model is rounded from them."""
    model = mlp().bfloat16()
    masters = [(name, p.detach().float().requires_grad_()) for name, p in model.named_parameters()]
    optimizer = run.optimizer(masters)
    for inputs, targets in run.batches(1):
        outputs = model(inputs.bfloat16())
        nn.functional.cross_entropy(outputs.float(), targets).backward()
        for (_, master), parameter in zip(masters, model.parameters(), strict=True):
            master.grad = parameter.grad.float()
        optimizer.step()
        with torch.no_grad():
            for (_, master), parameter in zip(masters, model.parameters(), strict=True):
                parameter.copy_(master)
        yield list(model.parameters())


@habit
def computes_half_of_the_model_in_double_precision(run: Run) -> Steps:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES))
    optimizer = run.optimizer(model.named_parameters())
    for inputs, targets in run.batches():
        optimizer.zero_grad()
        optimizer.begin_step()
        hidden = model[0](inputs).double()
        outputs = nn.functional.linear(hidden, model[1].weight.double(), model[1].bias.double())
        nn.functional.cross_entropy(outputs, targets).backward()
        optimizer.step()
        yield


@habit
def trains_with_an_awkward_batch(run: Run) -> Steps:
    """Gradients that are exactly zero, and some that are tiny."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters())
    for step, (inputs, targets) in enumerate(run.batches()):
        scale = (0.0, 1e-30, 1.0)[step % 3]
        backward(optimizer, model, (inputs * scale, targets))
        optimizer.step()
        yield
