"""A step's stream of gradients, against a server that answers every chunk at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from leash.ps.errors import EvictedError, NonfiniteError, UsageError
from leash.ps.wire.layout import Layout, Slot
from leash.worker.client.memory import Slab
from leash.worker.optim.sent_gradient import SentGradient
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.optim.streaming import Progress, StepStream
from support.exchanges import PromptExchange

LR = 0.5


class Tied(nn.Module):
    """Tied weights, a layer that is never used, a frozen one, and batch-norm's buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.frozen(self.norm(x)))
        out: Tensor = self.last(torch.tanh(self.again(x)))
        return out


def build() -> nn.Module:
    torch.manual_seed(5)
    return Tied()


def loss_of(model: nn.Module, step: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 6, generator=generator)
    return nn.functional.cross_entropy(model(inputs), torch.arange(8) % 3)


def stream_of(
    model: nn.Module, *, overlap: bool, early_nan: bool = False
) -> tuple[StepStream, PromptExchange]:
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers())
    exchange = PromptExchange(slabs.layout, lr=LR, early_nan=early_nan)
    exchange.start(slabs.parameters)
    return StepStream(slabs, exchange, overlap=overlap), exchange


def train(model: nn.Module, *, overlap: bool, early_nan: bool = False, steps: int = 4) -> int:
    """Returns how many chunks left before their step was finished."""
    stream, exchange = stream_of(model, overlap=overlap, early_nan=early_nan)
    for step in range(steps):
        model.zero_grad()
        stream.begin(8)
        loss_of(model, step).backward()  # type: ignore[no-untyped-call]
        stream.finish()
        assert exchange.sent == list(reversed(range(len(exchange.chunks))))
        assert exchange.samples == 8
    return exchange.sent_early


def values_of(model: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("early_nan", [False, True])
def test_answers_that_come_during_backward_disturb_no_gradient(early_nan: bool) -> None:
    overlapped, plain = build(), build()
    assert train(overlapped, overlap=True, early_nan=early_nan) > 0
    assert train(plain, overlap=False) == 0
    for mine, other in zip(values_of(overlapped), values_of(plain), strict=True):
        assert torch.equal(mine, other)


def test_the_gradients_that_leave_are_those_of_torch() -> None:
    model, alone = build(), build()
    stream, exchange = stream_of(model, overlap=True, early_nan=True)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()
    loss_of(alone).backward()  # type: ignore[no-untyped-call]
    for name, parameter in alone.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.equal(torch.from_numpy(exchange.gradients[name]), expected), name


def test_a_layer_without_a_gradient_holds_back_what_lies_before_it_until_the_step_ends() -> None:
    model = nn.ModuleDict({"used": nn.Linear(32, 32), "unused": nn.Linear(32, 32)})
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(1)
    model["used"](torch.ones(1, 32)).sum().backward()
    assert exchange.sent == []
    stream.finish()
    assert not exchange.gradients["unused.weight"].any()
    assert exchange.gradients["used.weight"].all()


def test_only_whole_chunks_leave_during_backward() -> None:
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(3)))
    stream, exchange = stream_of(model, overlap=True)
    left: list[int] = []
    model[0].register_full_backward_hook(lambda *_: left.append(len(exchange.sent)))
    stream.begin(1)
    model(torch.ones(2, 32, requires_grad=True)).sum().backward()
    # The first layer's gradient has just been computed; those of both others have left.
    assert left[0] >= 2 * 32 * 33 * 4 // exchange.chunk_nbytes
    assert exchange.sent_early == len(exchange.chunks)
    stream.finish()


# Misuse is one clear error, and never a wrong number.


def second_backward(stream: StepStream, model: nn.Module) -> None:
    loss_of(model).backward()  # type: ignore[no-untyped-call]


def second_begin(stream: StepStream, model: nn.Module) -> None:
    stream.begin(8)


def other_samples(stream: StepStream, model: nn.Module) -> None:
    stream.finish(samples=9)


@pytest.mark.parametrize(
    ("misuse", "says"),
    [
        (second_backward, "overlap=False"),
        (second_begin, "overlap=False"),
        (other_samples, "begin_step was told 8"),
    ],
)
def test_misuse_after_backward_is_an_error(
    misuse: Callable[[StepStream, nn.Module], None], says: str
) -> None:
    model = build()
    stream, _ = stream_of(model, overlap=True)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match=says):
        misuse(stream, model)


def test_a_step_that_was_sent_twice_can_never_be_finished() -> None:
    model = build()
    stream, _ = stream_of(model, overlap=True)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match="twice"):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    for again in (stream.finish, lambda: stream.begin(8)):
        with pytest.raises(UsageError, match="twice"):
            again()


def test_backward_before_begin_step_is_an_error_that_leaves_no_gradient_behind() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    with pytest.raises(UsageError, match="begin_step"):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in model.parameters())
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()
    assert exchange.samples == 8


def test_a_forward_that_is_given_up_costs_nothing() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(8)
    loss_of(model)
    stream.begin(4)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()
    assert exchange.samples == 4


def zeroed_by_the_model(model: nn.Module, stream: StepStream) -> None:
    model.zero_grad()
    stream.begin(8)


def zeroed_after_begin(model: nn.Module, stream: StepStream) -> None:
    stream.begin(8)
    stream.clear_sent(zeros=False)  # as the optimizer's zero_grad() does


def zeros_after_begin(model: nn.Module, stream: StepStream) -> None:
    stream.begin(8)
    stream.clear_sent(zeros=True)


@pytest.mark.parametrize("zero", [zeroed_by_the_model, zeroed_after_begin, zeros_after_begin])
@pytest.mark.parametrize("make", [build, lambda: nn.Linear(6, 3, bias=False)], ids=["many", "one"])
def test_gradients_may_be_zeroed_in_any_way_before_the_next_backward(
    make: Callable[[], nn.Module], zero: Callable[[nn.Module, StepStream], None]
) -> None:
    model = make()
    stream, exchange = stream_of(model, overlap=True)
    for step in range(3):
        zero(model, stream)
        loss_of(model, step).backward()  # type: ignore[no-untyped-call]
        stream.finish()
        assert exchange.samples == 8


def not_at_all(model: nn.Module, stream: StepStream) -> None:
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]


def without_a_backward(model: nn.Module, stream: StepStream) -> None:
    stream.finish()


def only_the_first(model: nn.Module, stream: StepStream) -> None:
    next(model.parameters()).grad = None
    stream.begin(8)
    stream.finish()


@pytest.mark.parametrize("use", [not_at_all, without_a_backward])
@pytest.mark.parametrize("make", [build, lambda: nn.Linear(6, 3, bias=False)], ids=["many", "one"])
def test_gradients_that_were_used_up_and_not_zeroed_are_an_error_that_costs_nothing(
    make: Callable[[], nn.Module], use: Callable[[nn.Module, StepStream], None]
) -> None:
    model = make()
    stream, exchange = stream_of(model, overlap=True)
    not_at_all(model, stream)
    stream.finish()
    sent, before = list(exchange.sent), values_of(model)
    with pytest.raises(UsageError, match=r"call optimizer\.zero_grad\(\) before begin_step\(\)"):
        use(model, stream)
    assert exchange.sent == sent
    model.zero_grad()
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()
    assert any(not torch.equal(now, was) for now, was in zip(values_of(model), before, strict=True))


def test_a_gradient_that_was_used_up_counts_beside_others_that_were_zeroed() -> None:
    model = build()
    stream, _ = stream_of(model, overlap=True)
    not_at_all(model, stream)
    stream.finish()
    with pytest.raises(UsageError, match="zero_grad"):
        only_the_first(model, stream)


def test_what_moves_or_converts_a_model_leaves_what_stands_for_its_gradients() -> None:
    model = build()
    stream, _ = stream_of(model, overlap=True)
    not_at_all(model, stream)
    stream.finish()
    for move in (
        lambda: model.to(torch.float32), lambda: model.type(torch.float32), model.share_memory,
        model.cpu, model.half, model.float, model.requires_grad_,
    ):  # fmt: skip
        move()
        assert isinstance(model.get_parameter("last.bias").grad, SentGradient)
    with pytest.raises(UsageError, match="overlap=False"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


Keep = Callable[[Tensor], Tensor]
KEEPS: list[Keep] = [lambda g: g, lambda g: g.detach(), lambda g: g.view(-1)[:1]]


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("changes", [True, False])
def test_a_gradient_that_another_hook_keeps_may_be_read_and_not_changed(
    keep: Keep, changes: bool
) -> None:
    model, kept = build(), []
    model.get_parameter("last.bias").register_post_accumulate_grad_hook(
        lambda parameter: kept.append(keep(parameter.grad))  # type: ignore[arg-type]
    )
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    if changes:
        kept.pop().mul_(0.5)
        with pytest.raises(UsageError, match=r"gradient of last\.bias was changed"):
            stream.finish()
    else:
        stream.finish()
        sent = torch.from_numpy(exchange.gradients["last.bias"])
        assert torch.equal(kept[0], sent[: len(kept[0])])


def test_a_gradient_that_another_stream_has_sent_is_an_error_that_says_so() -> None:
    """The other's hook comes first, and leaves what stands for the gradient."""
    model = nn.Linear(6, 3)
    streams = [stream_of(model, overlap=True)[0] for _ in range(2)]
    streams[0]._outside.mark()  # the second one has taken the parameters over
    for stream in streams:
        stream.begin(8)
    with pytest.raises(UsageError, match="was sent by another PSOptimizer"):
        loss_of(model).backward()  # type: ignore[no-untyped-call]


def forward_again(model: nn.Module) -> None:
    with torch.no_grad():
        loss_of(model, 1)


def scaled(model: nn.Module) -> None:
    model.get_buffer("norm.running_var").mul_(2)


def moved(model: nn.Module) -> None:
    model.get_buffer("norm.running_mean").data = torch.ones(6)


@pytest.mark.parametrize("change", [forward_again, scaled, moved])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_buffer_that_changes_after_it_was_sent_is_an_error_with_overlap(
    change: Callable[[nn.Module], None], overlap: bool
) -> None:
    model = build()
    stream, _ = stream_of(model, overlap=overlap)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    change(model)
    if overlap:
        with pytest.raises(UsageError, match=r"buffer norm\.running_.* after it had been sent"):
            stream.finish()
        assert stream.is_broken_off  # so that the next call joins again
    else:
        expected = model.get_buffer("norm.running_mean").clone()
        stream.finish()
        assert torch.equal(model.get_buffer("norm.running_mean"), expected)


def test_a_buffer_that_holds_nan_has_not_changed() -> None:
    model = build()
    model.get_buffer("norm.running_mean").fill_(torch.nan)
    stream, _ = stream_of(model, overlap=True)
    stream.begin(8)
    loss_of(model.eval()).backward()  # type: ignore[no-untyped-call]
    stream.finish()


# What the server says during backward comes out of step().


def test_an_error_during_backward_comes_out_of_the_step_and_of_all_that_follow() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(8)
    exchange.fails_with = NonfiniteError("step 1 of worker 1: slot last.bias")
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    for call in (stream.finish, stream.finish, lambda: stream.begin(8)):
        with pytest.raises(NonfiniteError, match=r"last\.bias"):
            call()


def test_after_an_eviction_during_backward_the_common_parameters_are_taken_over() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(8)
    exchange.fails_with = EvictedError("worker 1")
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(EvictedError):
        stream.finish()

    def pull(slab: Slab) -> int:
        slab[:] = 0
        return 7

    assert stream.recover(pull) == 7
    assert not any(parameter.any() for parameter in model.parameters())
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()


def test_joining_again_makes_good_what_an_error_has_ended() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    stream.begin(8)
    exchange.fails_with = NonfiniteError("step 1 of worker 1: slot last.bias")
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    with pytest.raises(NonfiniteError):
        stream.finish()
    assert not stream.is_broken_off
    stream.recover(lambda _: 7)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    stream.finish()
    assert exchange.samples == 8


# What torch can do with parameters goes on working.


def test_without_overlap_several_backward_passes_add_up() -> None:
    model, alone = build(), build()
    stream, exchange = stream_of(model, overlap=False)
    for step in range(3):
        loss_of(model, step).backward()  # type: ignore[no-untyped-call]
        loss_of(alone, step).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    nn.utils.clip_grad_norm_(alone.parameters(), 0.1)
    stream.finish()
    for name, parameter in alone.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(torch.from_numpy(exchange.gradients[name]), parameter.grad), name


def own_tensor(parameter: Tensor) -> None:
    parameter.grad = torch.full_like(parameter, 3.0)


def own_data(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.data = torch.full_like(parameter, 3.0)


def own_sparse(parameter: Tensor) -> None:
    parameter.grad = torch.full_like(parameter, 3.0).to_sparse()


@pytest.mark.parametrize("change", [own_tensor, own_data, own_sparse])
def test_a_gradient_that_somebody_replaced_is_the_one_that_is_sent(
    change: Callable[[Tensor], None],
) -> None:
    model = nn.Linear(5, 4)
    stream, exchange = stream_of(model, overlap=False)
    for _ in range(2):
        model.zero_grad()
        model(torch.ones(1, 5)).sum().backward()
        change(model.weight)
        stream.finish()
        assert (exchange.gradients["weight"] == 3.0).all()
        assert (exchange.gradients["bias"] == 1.0).all()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_sends_the_same_gradients(reentrant: bool) -> None:
    sent = []
    for checkpointed in (False, True):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        stream, exchange = stream_of(model, overlap=True)
        stream.begin(1)
        inputs = torch.ones(1, 8, requires_grad=True)
        if checkpointed:
            outputs = checkpoint(model, inputs, use_reentrant=reentrant)
        else:
            outputs = model(inputs)
        outputs.sum().backward()
        stream.finish()
        sent.append(exchange.gradients["0.weight"].copy())
    assert (sent[0] == sent[1]).all()


def test_a_parameter_may_be_frozen_and_thawed_between_steps() -> None:
    model = build()
    stream, exchange = stream_of(model, overlap=True)
    for needs in (True, False, True):
        for part in (model.frozen, model.first):
            assert isinstance(part, nn.Linear)
            part.requires_grad_(needs)
        model.zero_grad()
        stream.begin(8)
        loss_of(model).backward()  # type: ignore[no-untyped-call]
        stream.finish()
        assert exchange.gradients["frozen.weight"].any() == needs
        assert exchange.gradients["first.bias"].any() == needs


def test_a_closed_stream_leaves_the_model_to_torch() -> None:
    model = build()
    stream, _ = stream_of(model, overlap=True)
    stream.close()
    stream.close()
    for _ in range(2):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert model.get_parameter("last.bias").grad is not None


@pytest.mark.parametrize("chunk_nbytes", [64, 128, 4096])
def test_a_chunk_is_ready_when_all_slots_in_it_are_complete(chunk_nbytes: int) -> None:
    """Against a count by hand, for slots that share chunks, span several, or hold nothing."""
    sizes = [40, 3, 0, 100, 7, 1, 64]
    slots = [Slot(f"p{i}", "f32", (n,)) for i, n in enumerate(sizes)]
    slots.append(Slot("b", "f64", (20,), "buffer"))
    layout = Layout(slots)
    chunks = layout.cut(chunk_nbytes)
    progress = Progress(layout, chunks)
    for _ in range(2):
        done: set[int] = set()
        for slot in (7, 6, 3, 5, 2, 4, 0, 1):
            progress.complete(slot)
            done.add(slot)
            assert progress.first_ready == first_ready_by_hand(layout, chunk_nbytes, done)
        assert progress.first_ready == 0
        progress.restart()


def first_ready_by_hand(layout: Layout, chunk_nbytes: int, done: set[int]) -> int:
    chunks = layout.cut(chunk_nbytes)
    for chunk in reversed(chunks):
        for index, (offset, slot) in enumerate(zip(layout.offsets, layout.slots, strict=True)):
            bytes_of_both = set(range(offset, offset + slot.nbytes)) & set(
                range(chunk.start, chunk.stop)
            )
            if bytes_of_both and index not in done:
                return chunk.index + 1
    return 0
