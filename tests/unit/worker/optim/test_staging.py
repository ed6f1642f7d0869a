"""The order of copies between a GPU and the slabs, with a GPU that copies as late as it may."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leash.ps.errors import UsageError
from leash.worker.client.memory import Slab
from leash.worker.optim.sent_gradient import SentGradient
from leash.worker.optim.slabs import ModelSlabs
from leash.worker.optim.staging import Staging, gpu_of
from leash.worker.optim.streaming import StepStream
from support.exchanges import PromptExchange
from support.gpus import LazyEvent, LazyGpu, needs_gpu


def staged(model: nn.Module, *, overlap: bool) -> tuple[StepStream, PromptExchange, LazyGpu]:
    gpu = LazyGpu()
    slabs = ModelSlabs(model.named_parameters(), model.named_buffers(), gpu=gpu)
    # On a GPU no tensor is a view of a slab.
    for place in slabs.places:
        place.is_view = False
        place.tensor.data = place.tensor.detach().clone()
    exchange = PromptExchange(slabs.layout)
    exchange.start(slabs.parameters)
    return StepStream(slabs, exchange, overlap=overlap), exchange, gpu


def build() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4))


def loss_of(model: nn.Module) -> Tensor:
    out: Tensor = model(torch.linspace(-1, 1, 128).view(8, 16)).square().mean()
    return out


def test_a_copy_follows_the_computing_and_is_marked_behind_it() -> None:
    gpu = LazyGpu()
    staging = Staging(gpu, [np.zeros(64, np.uint8)])
    staging.send(0, torch.ones(2), torch.zeros(2))
    assert gpu.log == ["follow", "copy", "mark"]


def test_slots_arrive_in_their_order_and_only_once_copied() -> None:
    gpu = LazyGpu()
    staging = Staging(gpu, [np.zeros(64, np.uint8)])
    places = [torch.zeros(2) for _ in range(3)]
    for slot, place in enumerate(places):
        staging.send(slot, torch.ones(2), place)
    assert list(staging.arrived()) == []
    gpu.run(2)
    assert list(staging.arrived()) == [0, 1]
    assert not places[2].any()
    assert list(staging.await_all()) == [2]
    assert places[2].all()
    assert list(staging.arrived()) == []


def test_parameters_come_after_the_computing_that_reads_them_and_before_the_next() -> None:
    gpu = LazyGpu()
    staging = Staging(gpu, [np.zeros(64, np.uint8)])
    staging.receive([(torch.ones(2), torch.zeros(2)), (torch.ones(3), torch.zeros(3))])
    assert gpu.log == ["follow", "copy", "copy", "hold", "mark"]


def test_closing_waits_for_the_copies_and_gives_the_pages_back() -> None:
    gpu = LazyGpu()
    staging = Staging(gpu, [np.zeros(64, np.uint8), np.zeros(64, np.uint8)])
    assert len(gpu.registered) == 2
    place = torch.zeros(2)
    staging.send(0, torch.ones(2), place)
    staging.close()
    assert place.all()
    assert gpu.registered == []


BEGIN: dict[str, Callable[[Staging, Tensor, Tensor], None]] = {
    "send": lambda staging, source, target: staging.send(0, source, target),
    "receive": lambda staging, source, target: staging.receive([(source, target)]),
}


@pytest.mark.parametrize("way", BEGIN)
def test_a_copy_that_was_broken_off_before_it_was_marked_is_waited_for_too(way: str) -> None:
    gpu = LazyGpu()
    staging = Staging(gpu, [np.zeros(64, np.uint8)])
    mark, target = gpu.mark, torch.zeros(2)

    def break_off(*_: object) -> LazyEvent:
        raise KeyboardInterrupt

    gpu.mark = break_off  # type: ignore[method-assign]
    gpu.hold_compute = break_off  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        BEGIN[way](staging, torch.ones(2), target)
    assert not target.any()
    gpu.mark = mark  # type: ignore[method-assign]
    staging.drop()
    assert target.all()


def test_pages_that_were_locked_are_unlocked_if_others_cannot_be() -> None:
    gpu = LazyGpu()

    def lock_one(slab: Slab) -> None:
        if gpu.registered:
            raise UsageError("no more")
        gpu.registered.append(slab.ctypes.data)

    gpu.register = lock_one  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="no more"):
        Staging(gpu, [np.zeros(64, np.uint8), np.zeros(64, np.uint8)])
    assert gpu.registered == []


def test_no_chunk_leaves_before_its_copy_is_done() -> None:
    model = build()
    stream, exchange, _ = staged(model, overlap=True)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert exchange.sent == []  # nothing has been copied yet
    assert all(isinstance(p.grad, SentGradient) for p in model.parameters())
    stream.finish()
    assert exchange.sent_early == len(exchange.chunks)  # each as soon as it was copied


def test_later_hooks_send_what_was_copied_meanwhile() -> None:
    model = build()
    stream, exchange, gpu = staged(model, overlap=True)
    seen: list[int] = []

    def copy_all(*_: object) -> None:
        gpu.run(len(gpu.waiting))
        seen.append(len(exchange.sent))

    model[1].register_full_backward_hook(copy_all)
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert seen == [0]
    assert 0 < len(exchange.sent) < len(exchange.chunks)
    stream.finish()


def test_what_hooks_have_taken_leaves_before_step_looks_at_the_parameters() -> None:
    """The look waits for all that the GPU computes, and a gradient for nothing but itself."""
    model = build()
    stream, exchange, _ = staged(model, overlap=True)
    sent: list[int] = []
    stream._outside.check_part = lambda: sent.append(len(exchange.sent))  # type: ignore[method-assign]
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert exchange.sent == []
    stream.finish()
    assert sent == [len(exchange.chunks)]


@pytest.mark.parametrize("overlap", [False, True])
def test_computing_is_no_waiting(overlap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes a second, and the GPU computes until it has made some of them."""
    model = build()
    stream, _, gpu = staged(model, overlap=overlap)
    copies = len(list(model.parameters())) + 2  # batch-norm's shared buffers
    monkeypatch.setattr("leash.worker.optim.streaming.time.perf_counter", lambda: float(gpu.done))
    gpu.mark_compute = lambda: LazyEvent(gpu, 3)  # type: ignore[method-assign]
    stream.begin(8)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert stream.finish().wait_s == copies - 2  # the third is seen when it has arrived


class Crowded(PromptExchange):
    """Notes whether two threads were in `advance` at once, which it gives them time for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inside = threading.Semaphore(1)
        self.second = threading.Event()

    def advance(self, first_ready: int) -> None:
        if not self.inside.acquire(blocking=False):
            self.second.set()
            return
        self.second.wait(0.1)
        super().advance(first_ready)
        self.inside.release()


def test_hooks_of_two_threads_take_turns() -> None:
    """Each GPU has a thread of torch's that runs its hooks, and the processor has the caller's."""
    model = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
    slabs = ModelSlabs(model.named_parameters())
    exchange = Crowded(slabs.layout)
    exchange.start(slabs.parameters)
    stream = StepStream(slabs, exchange, overlap=True)
    stream.begin(8)
    losses = [layer(torch.ones(2, 16)).square().mean() for layer in model]
    threads = [threading.Thread(target=loss.backward) for loss in losses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stream.finish()
    assert not exchange.second.is_set()
    assert all(isinstance(p.grad, SentGradient) for p in model.parameters())


def test_hooks_take_no_part_in_a_cuda_graph() -> None:
    model = build()
    stream, exchange, gpu = staged(model, overlap=True)
    gpu.captures = True
    stream.begin(8)
    with pytest.raises(UsageError, match=r"CUDA graph.*overlap=False"):
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    assert exchange.sent == []


@pytest.mark.parametrize("overlap", [False, True])
def test_a_staged_model_trains_as_one_on_the_processor(overlap: bool) -> None:
    model, plain = build(), build()
    stream, _, _ = staged(model, overlap=overlap)
    slabs = ModelSlabs(plain.named_parameters(), plain.named_buffers())
    exchange = PromptExchange(slabs.layout)
    exchange.start(slabs.parameters)
    reference = StepStream(slabs, exchange, overlap=False)
    for _ in range(3):
        for each, trained in ((stream, model), (reference, plain)):
            trained.zero_grad()
            each.begin(8)
            loss_of(trained).backward()  # type: ignore[no-untyped-call]
            each.finish()
    for mine, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_a_missing_gradient_is_zeroed_only_when_the_slab_is_read_no_more() -> None:
    gpu = LazyGpu()
    model = nn.Linear(2, 2, bias=False)
    slabs = ModelSlabs(model.named_parameters(), gpu=gpu)
    assert slabs.staging is not None
    late = torch.zeros(2, 2)
    gpu.hold_compute = lambda: None  # type: ignore[method-assign]
    slabs.places[0].gradient.fill_(5.0)
    slabs.staging.receive([(slabs.places[0].gradient, late)])
    assert slabs.take(0)
    assert (late == 5.0).all()
    assert not slabs.places[0].gradient.any()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("overlap", [False, True])
def test_a_real_gpu_sends_its_gradients_and_takes_the_parameters(
    overlap: bool, dtype: torch.dtype
) -> None:
    model = build().to("cuda", dtype)
    slabs = ModelSlabs(
        model.named_parameters(), model.named_buffers(), gpu=gpu_of(model.parameters())
    )
    exchange = PromptExchange(slabs.layout, early_nan=True)
    exchange.start(slabs.parameters)
    stream = StepStream(slabs, exchange, overlap=overlap)
    inputs = torch.linspace(-1, 1, 128, device="cuda", dtype=dtype).view(8, 16)
    for _ in range(3):
        model.zero_grad()
        stream.begin(8)
        loss = model(inputs).square().mean()
        expected = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        loss.backward()
        stream.finish()
        for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
            sent = torch.from_numpy(exchange.gradients[name])
            torch.testing.assert_close(sent, gradient.float().cpu())
            place = next(place for place in slabs.places if place.slot.name == name)
            assert torch.equal(parameter.detach().cpu(), place.values.to(dtype))
    slabs.close()
