"""Several optimizers, and an optimizer of torch's inside PSOptimizer."""

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

from oracle.body import habit
from oracle.run import CLASSES, FEATURES, Run, Steps, backward, here, loss_of, mlp

INSIDE = "leave overlap out"


def discriminator() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


def generator() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, FEATURES))


@habit(refusal_with_overlap="overlap")
def trains_two_networks_against_each_other(run: Run) -> Steps:
    """Two servers. The generator's loss leaves gradients in the discriminator too."""
    makes, judges = generator(), discriminator()
    of_generator = run.optimizer(makes.named_parameters())
    of_discriminator = run.optimizer(judges.named_parameters())
    for real, _ in run.batches():
        fake = makes(torch.randn(len(real), 4))
        of_discriminator.zero_grad()
        of_discriminator.begin_step()
        (judges(fake.detach()).mean() - judges(real).mean()).backward()
        of_discriminator.step()
        of_generator.zero_grad()
        of_generator.begin_step()
        (-judges(fake).mean()).backward()
        of_generator.step()
        yield


@habit
def freezes_the_judge_while_the_generator_learns(run: Run) -> Steps:
    makes, judges = generator(), discriminator()
    of_generator = run.optimizer(makes.named_parameters())
    of_discriminator = run.optimizer(judges.named_parameters())
    for real, _ in run.batches():
        judges.requires_grad_(True)
        fake = makes(torch.randn(len(real), 4))
        of_discriminator.zero_grad()
        of_discriminator.begin_step()
        (judges(fake.detach()).mean() - judges(real).mean()).backward()
        of_discriminator.step()
        judges.requires_grad_(False)
        of_generator.zero_grad()
        of_generator.begin_step()
        (-judges(fake).mean()).backward()
        of_generator.step()
        yield


@habit(refusal="publish")
def clips_the_weights_of_a_critic(run: Run) -> Steps:
    """Wasserstein's: after each of its steps the critic's weights are clamped."""
    makes, judges = generator(), discriminator()
    of_generator = run.optimizer(makes.named_parameters())
    of_discriminator = run.optimizer(judges.named_parameters())
    for real, _ in run.batches(65):
        for _ in range(2):
            fake = makes(torch.randn(len(real), 4)).detach()
            of_discriminator.zero_grad()
            of_discriminator.begin_step()
            (judges(fake).mean() - judges(real).mean()).backward()
            of_discriminator.step()
            for parameter in judges.parameters():
                parameter.data.clamp_(-0.01, 0.01)
        judges.requires_grad_(False)
        of_generator.zero_grad()
        of_generator.begin_step()
        (-judges(makes(torch.randn(len(real), 4))).mean()).backward()
        of_generator.step()
        judges.requires_grad_(True)
        yield


@habit
def steps_over_the_rest_with_torchs_own_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model[:2].named_parameters())
    own = torch.optim.Adam(model[2:].parameters(), lr=0.01)
    for batch in run.batches():
        own.zero_grad()
        backward(optimizer, model, batch)
        optimizer.step()
        own.step()
        yield list(model.parameters())


@habit
def trains_a_part_with_each_of_two_optimizers(run: Run) -> Steps:
    model = mlp()
    first = run.optimizer(model[:2].named_parameters())
    second = run.optimizer(model[2:].named_parameters())
    for batch in run.batches():
        first.zero_grad()
        first.begin_step()
        backward(second, model, batch)
        first.step()
        second.step()
        yield


# An optimizer inside.


@habit(refusal_with_overlap=INSIDE)
def steps_with_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def pushes_every_fourth_inner_step(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 4})
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def accumulates_for_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 2})
    for number, batch in enumerate(run.batches(), 1):
        loss_of(model, batch).backward()
        if number % 2 == 0:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            yield


@habit(refusal_with_overlap=INSIDE)
def never_zeroes_gradients_of_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True)
    for batch in run.batches():
        loss_of(model, batch).backward()
        optimizer.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def schedules_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 3})
    scheduler = StepLR(optimizer if run.is_torch else run.inners[0], step_size=4, gamma=0.5)
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        scheduler.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def freezes_under_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 2})
    for step, batch in enumerate(run.batches()):
        model[0].requires_grad_(step % 5 < 3)
        backward(optimizer, model, batch)
        optimizer.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def passes_a_closure_over_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True)
    for batch in run.batches():

        def closure(batch: tuple[Tensor, Tensor] = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        yield optimizer.step(closure)


@habit(refusal_with_overlap=INSIDE)
def scales_the_loss_of_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 2})
    scaler = torch.amp.GradScaler(here().type, init_scale=2.0**10)
    for batch in run.batches():
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        yield


@habit(refusal_with_overlap=INSIDE)
def changes_weights_between_the_steps_of_an_inner_optimizer(run: Run) -> Steps:
    """The difference that is pushed carries it."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 2})
    for batch in run.batches():
        backward(optimizer, model, batch)
        optimizer.step()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.clamp_(-0.05, 0.05)
        yield


@habit(refusal_with_overlap=INSIDE)
def looks_ahead_with_an_inner_optimizer(run: Run) -> Steps:
    """Lookahead: every fourth inner step, the server goes half of the way."""
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, leash={"local_steps": 4},
                              outer_lr=0.5)  # fmt: skip
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    for number, batch in enumerate(run.batches(), 1):
        backward(optimizer, model, batch)
        optimizer.step()
        if run.is_torch and number % 4 == 0:
            with torch.no_grad():
                for old, parameter in zip(slow, model.parameters(), strict=True):
                    old.lerp_(parameter, 0.5)
                    parameter.copy_(old)
        yield


@habit(refusal_with_overlap=INSIDE)
def has_embeddings_renormalized_under_an_inner_optimizer(run: Run) -> Steps:
    model = nn.Sequential(nn.Embedding(30, 8, max_norm=1.0), nn.Flatten(), nn.Linear(32, CLASSES))
    optimizer = run.optimizer(model.named_parameters(), inner=True)
    for _, targets in run.batches():
        backward(optimizer, model, (torch.randint(30, (5, 4)), targets))
        optimizer.step()
        yield


@habit(refusal_with_overlap=INSIDE)
def moves_the_model_to_shared_memory_under_an_inner_optimizer(run: Run) -> Steps:
    model = mlp()
    optimizer = run.optimizer(model.named_parameters(), inner=True, outer_lr=0.5)
    slow = [parameter.detach().clone() for parameter in model.parameters()]
    for step, batch in enumerate(run.batches()):
        if step == 3:
            model.share_memory()
        backward(optimizer, model, batch)
        optimizer.step()
        if run.is_torch:
            with torch.no_grad():
                for old, parameter in zip(slow, model.parameters(), strict=True):
                    old.lerp_(parameter, 0.5)
                    parameter.copy_(old)
        yield


@habit(refusal="publish")
def gives_one_parameter_to_two_optimizers(run: Run) -> Steps:
    """A body with two heads, each trained together with the body."""
    body, heads = nn.Linear(FEATURES, 16), [nn.Linear(16, CLASSES), nn.Linear(16, CLASSES)]
    optimizers = [run.optimizer(nn.ModuleList([body, head]).named_parameters()) for head in heads]
    for inputs, targets in run.batches():
        for optimizer, head in zip(optimizers, heads, strict=True):
            body.requires_grad_(True)
            for each in optimizers:
                each.zero_grad()
                each.begin_step()
            nn.functional.cross_entropy(head(body(inputs).tanh()), targets).backward()
            optimizer.step()
        yield
