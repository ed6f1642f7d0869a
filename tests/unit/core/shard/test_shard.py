"""What a shard promises, one promise a test."""

import gc
import itertools
import threading
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from leash.ps._core import (
    AdagradOptions,
    AdamOptions,
    ChunkSpec,
    Nonfinite,
    Outcome,
    PushResult,
    Rule,
    SgdOptions,
    Shard,
)

F32 = NDArray[np.float32]

N = 5
ASP: dict[str, Any] = {"rule": Rule()}
SSP1: dict[str, Any] = {"rule": Rule(bound=1)}
BSP: dict[str, Any] = {"rule": Rule(bound=0, gather="step")}


def f32(*values: float) -> F32:
    """N float32 numbers, the last one repeated."""
    return np.array(values + values[-1:] * (N - len(values)), np.float32)


def parameters(values: int = N) -> ChunkSpec:
    return ChunkSpec(values=values, dtype="f32", kind="parameter")


def buffers() -> ChunkSpec:
    return ChunkSpec(values=N, dtype="f32", kind="buffer")


def make_shard(
    policy: dict[str, Any],
    workers: int = 2,
    chunks: tuple[ChunkSpec, ...] = (parameters(),),
    nonfinite: Nonfinite = Nonfinite.RAISE,
    scale_lr: bool = False,
    **sgd: Any,
) -> Shard:
    """Workers 1 to `workers` at clock 0, every value 0, learning rate 1."""
    options = SgdOptions(**{"lr": 1.0, **sgd})
    shard = Shard(list(chunks), options, **policy, nonfinite=nonfinite, scale_lr=scale_lr)
    for index, chunk in enumerate(chunks):
        shard.init(index, bytes(chunk.nbytes))
    for worker in range(1, workers + 1):
        shard.join(worker, 0)
    return shard


def push(
    shard: Shard,
    worker: int,
    step: int,
    payload: F32,
    *,
    chunk: int = 0,
    samples: int = 1,
    wants_payload: bool = True,
) -> PushResult:
    return shard.push(chunk, worker, step, samples, payload, wants_payload)


def values_of(shard: Shard, chunk: int = 0) -> list[float]:
    out = f32(0)
    shard.pull(chunk, None, out)
    return [float(value) for value in out]


def answered(result: PushResult) -> list[tuple[int, int]]:
    return [(reply.worker, reply.step) for reply in result.replies]


# First values, sizes, buffers


def test_first_values_are_taken_once() -> None:
    shard = Shard([parameters()], SgdOptions(lr=1.0), **ASP, nonfinite=Nonfinite.RAISE)
    assert (shard.chunks, shard.initialized_chunks, shard.initialized(0)) == (1, 0, False)
    assert shard.init(0, f32(1))
    assert not shard.init(0, f32(2))
    assert (shard.initialized_chunks, shard.initialized(0)) == (1, True)
    assert values_of(shard) == f32(1).tolist()


def test_a_pull_before_the_first_values_is_refused() -> None:
    shard = Shard([parameters()], SgdOptions(lr=1.0), **ASP, nonfinite=Nonfinite.RAISE)
    with pytest.raises(ValueError, match="chunk 0 has no values yet"):
        shard.pull(0, None, f32(0))


def test_a_chunk_that_is_not_there_is_an_index_error() -> None:
    shard = make_shard(ASP)
    with pytest.raises(IndexError, match="chunk 1: this shard has 1 chunks"):
        shard.init(1, f32(0))
    with pytest.raises(IndexError):
        push(shard, 1, 1, f32(0), chunk=1)
    with pytest.raises(IndexError):
        shard.version(1)


def test_a_payload_of_the_wrong_size_changes_nothing() -> None:
    shard = make_shard(ASP)
    for call in (
        lambda: shard.push(0, 1, 1, 1, bytearray(N * 4 - 1), True),
        lambda: shard.init(0, bytes(N * 4 + 1)),
        lambda: shard.pull(0, None, bytearray(0)),
    ):
        with pytest.raises(ValueError, match="chunk 0: expected 20 bytes, got"):
            call()
    assert (shard.clock(0, 1), shard.version(0), shard.stats().applied) == (0, 0, 0)


@pytest.mark.parametrize(
    "payload",
    [bytes(N * 4), memoryview(bytes(N * 4)), np.zeros(2 * N, np.float32)[::2]],
    ids=["bytes", "read-only view", "strided array"],
)
def test_a_read_only_or_strided_payload_changes_nothing(payload: Any) -> None:
    shard = make_shard(ASP)
    with pytest.raises(ValueError, match="chunk 0: expected a writable, contiguous buffer"):
        shard.push(0, 1, 1, 1, payload, True)
    with pytest.raises(TypeError):
        shard.push(0, 1, 1, 1, [0.0] * N, True)  # type: ignore[arg-type]
    assert (shard.clock(0, 1), shard.stats().applied) == (0, 0)


def test_a_payload_may_be_unaligned_and_of_any_item_type() -> None:
    shard = make_shard(ASP, workers=1)
    memory = bytearray(1) + bytearray(f32(1).tobytes())
    view = memoryview(memory)[1:]
    shard.push(0, 1, 1, 1, view, True)
    assert bytes(view) == f32(-1).tobytes()
    shard.push(0, 1, 2, 1, f32(1).view(np.int16), True)
    assert values_of(shard) == f32(-2).tolist()


def test_chunks_do_not_touch_each_other() -> None:
    chunks = (parameters(), ChunkSpec(values=3, dtype="f64", kind="parameter"), parameters())
    shard = make_shard(ASP, workers=1, chunks=chunks)
    shard.push(1, 1, 1, 1, np.ones(3), True)
    out = np.zeros(3)
    assert shard.pull(1, None, out) == (1, [])
    assert (out.tolist(), values_of(shard, 0), values_of(shard, 2)) == (
        [-1.0] * 3,
        [0.0] * N,
        [0.0] * N,
    )
    assert [shard.clock(chunk, 1) for chunk in range(3)] == [0, 1, 0]


def test_a_chunk_may_be_empty() -> None:
    for policy in (ASP, BSP):
        shard = make_shard(policy, workers=1, chunks=(parameters(0),))
        assert answered(shard.push(0, 1, 1, 1, bytearray(), True)) == [(1, 1)]


# Waiting


def test_an_asp_push_is_applied_and_answered_at_once_in_its_own_memory() -> None:
    shard = make_shard(ASP)
    payload = f32(1, 2)
    result = push(shard, 1, 1, payload)
    assert (result.outcome, result.clock, result.nonfinite_index) == (Outcome.APPLIED, 1, None)
    assert payload.tolist() == values_of(shard) == f32(-1, -2).tolist()
    (reply,) = result.replies
    assert (reply.chunk, reply.worker, reply.step, reply.version) == (0, 1, 1, 1)
    assert (reply.lag, reply.staleness, reply.has_payload) == (1, 0, True)


def test_reply_waits_while_the_slowest_worker_is_beyond_the_bound() -> None:
    shard = make_shard(SSP1)
    assert answered(push(shard, 1, 1, f32(1))) == [(1, 1)]
    payload = f32(1)
    assert answered(push(shard, 1, 2, payload)) == []
    assert (shard.parked(), values_of(shard)) == (1, f32(-2).tolist())
    result = push(shard, 2, 1, f32(1))
    assert answered(result) == [(1, 2), (2, 1)]
    assert payload.tolist() == f32(-3).tolist()
    assert [(reply.lag, reply.version) for reply in result.replies] == [(1, 3), (0, 3)]
    assert (shard.parked(), shard.stats().max_lag) == (0, 1)


def test_an_answer_without_payload_leaves_the_memory_as_it_was() -> None:
    shard = make_shard(SSP1)
    first, second = f32(1), f32(1)
    assert not push(shard, 1, 1, first, wants_payload=False).replies[0].has_payload
    push(shard, 1, 2, second, wants_payload=False)
    assert answered(push(shard, 2, 1, f32(1))) == [(1, 2), (2, 1)]
    assert first.tolist() == second.tolist() == f32(1).tolist()


def test_a_leaver_lets_go_of_those_who_waited_for_it() -> None:
    shard = make_shard(SSP1)
    payload = f32(1)
    push(shard, 1, 1, f32(1))
    push(shard, 1, 2, payload)
    assert [(reply.worker, reply.lag) for reply in shard.leave(2)] == [(1, 0)]
    assert payload.tolist() == f32(-2).tolist()


def test_a_leaver_gets_no_answer() -> None:
    shard = make_shard(BSP)
    payload = f32(1)
    push(shard, 1, 1, payload)
    assert shard.leave(1) == []
    assert (shard.parked(), payload.tolist(), shard.workers()) == (0, f32(1).tolist(), [2])
    with pytest.raises(KeyError, match="worker 1 is not live"):
        shard.leave(1)


def test_an_unparked_answer_is_not_written() -> None:
    shard = make_shard(SSP1)
    payload = f32(1)
    push(shard, 1, 1, f32(1))
    push(shard, 1, 2, payload)
    shard.unpark(0, 1)
    assert shard.parked() == 0
    assert answered(push(shard, 2, 1, f32(1))) == [(2, 1)]
    assert payload.tolist() == f32(1).tolist()


def test_an_unparked_bsp_gradient_stays_in_the_mean() -> None:
    shard = make_shard(BSP)
    push(shard, 1, 1, f32(2))
    shard.unpark(0, 1)
    assert answered(push(shard, 2, 1, f32(4))) == [(2, 1)]
    assert values_of(shard) == f32(-3).tolist()


# Exactly once


def test_a_repeated_push_is_answered_and_not_applied() -> None:
    shard = make_shard(ASP)
    push(shard, 1, 1, f32(1))
    again = f32(1)
    result = push(shard, 1, 1, again)
    assert (result.outcome, result.clock, answered(result)) == (Outcome.DUPLICATE, 1, [(1, 1)])
    assert again.tolist() == values_of(shard) == f32(-1).tolist()
    assert (shard.stats().duplicates, shard.stats().applied, shard.version(0)) == (1, 1, 1)


@pytest.mark.parametrize("policy", [SSP1, BSP], ids=["ssp", "bsp"])
def test_a_repeated_push_takes_over_the_place_of_the_answer(policy: dict[str, Any]) -> None:
    shard = make_shard(policy)
    bound = policy["rule"].bound
    for step in range(1, bound + 1):
        push(shard, 1, step, f32(0))
    first, again = f32(2), f32(99)
    push(shard, 1, bound + 1, first)
    result = push(shard, 1, bound + 1, again)
    assert (result.outcome, answered(result), shard.parked()) == (Outcome.DUPLICATE, [], 1)
    assert answered(push(shard, 2, 1, f32(2))) == [(1, bound + 1), (2, 1)]
    assert again.tolist() == values_of(shard) != first.tolist()
    assert values_of(shard) == f32(-2 if policy is BSP else -4).tolist()


def test_a_repeated_push_does_not_pass_the_bound_after_its_answer_was_unparked() -> None:
    shard = make_shard(SSP1)
    push(shard, 1, 1, f32(1))
    push(shard, 1, 2, f32(1))
    shard.unpark(0, 1)
    again = f32(1)
    assert answered(push(shard, 1, 2, again)) == []
    assert answered(push(shard, 2, 1, f32(1))) == [(1, 2), (2, 1)]
    assert again.tolist() == values_of(shard)


def test_a_late_copy_of_an_older_step_is_answered_at_once() -> None:
    shard = make_shard(SSP1)
    push(shard, 1, 1, f32(1))
    push(shard, 1, 2, f32(1))
    late = f32(1)
    assert answered(push(shard, 1, 1, late)) == [(1, 1)]
    assert late.tolist() == f32(-2).tolist()
    assert (shard.parked(), shard.stats().max_lag) == (1, 1)


def test_a_gap_changes_nothing() -> None:
    shard = make_shard(ASP)
    payload = f32(1)
    result = push(shard, 1, 2, payload)
    assert (result.outcome, result.replies, result.clock) == (Outcome.GAP, [], 0)
    assert (payload.tolist(), values_of(shard)) == (f32(1).tolist(), f32(0).tolist())
    assert (shard.stats().gaps, shard.stats().applied) == (1, 0)


def test_a_stranger_and_an_empty_chunk_are_told_apart() -> None:
    shard = Shard([parameters()], SgdOptions(lr=1.0), **ASP, nonfinite=Nonfinite.RAISE)
    assert push(shard, 1, 1, f32(1)).outcome is Outcome.NOT_LIVE
    shard.join(1, 3)
    result = push(shard, 1, 4, f32(1))
    assert (result.outcome, result.clock, result.replies) == (Outcome.UNINITIALIZED, 3, [])


# Means


def joint_batch_sgd(gradients: list[list[F32]], samples: list[int], options: dict[str, Any]) -> F32:
    """torch.optim.SGD along the weighted mean of each step's gradients."""
    parameter = torch.zeros(len(gradients[0][0]), requires_grad=True)
    optimizer = torch.optim.SGD([parameter], **options)
    for step in gradients:
        mean = sum(n * g.astype(np.float64) for n, g in zip(samples, step, strict=True))
        parameter.grad = torch.tensor(mean / sum(samples), dtype=torch.float32)
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("n", [1, 1023, 1024, 1025, 5000])
def test_bsp_equals_one_process_on_the_joint_batch(n: int) -> None:
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
    samples = [32, 7, 64]
    random = np.random.default_rng(0)
    gradients = [[random.standard_normal(n).astype(np.float32) for _ in samples] for _ in range(3)]
    shard = make_shard(BSP, workers=3, chunks=(parameters(n),), **options)
    expected = joint_batch_sgd(gradients, samples, options)
    for step, of_step in enumerate(gradients, start=1):
        payloads = [gradient.copy() for gradient in of_step]
        for worker, payload in enumerate(payloads, start=1):
            push(shard, worker, step, payload, samples=samples[worker - 1])
    for payload in payloads:
        np.testing.assert_allclose(payload, expected, rtol=1e-5, atol=1e-6)


def test_bsp_gives_the_same_bits_in_whatever_order_the_pushes_come() -> None:
    random = np.random.default_rng(0)
    n = 3000
    gradients = {w: random.standard_normal(n).astype(np.float32) * 10.0**w for w in (1, 2, 3, 4)}
    results = set()
    for order in itertools.permutations(gradients):
        shard = make_shard(BSP, workers=4, chunks=(parameters(n),))
        for worker in order:
            push(shard, worker, 1, gradients[worker].astype(np.float32), samples=worker)
        out = np.zeros(n, np.float32)
        shard.pull(0, None, out)
        results.add(out.tobytes())
    total = np.zeros(n, np.float32)
    for worker, gradient in gradients.items():
        total += np.float32(worker / 10) * gradient.astype(np.float32)
    assert results == {(np.float32(0) - total).tobytes()}


def test_one_bsp_step_is_one_update() -> None:
    shard = make_shard(BSP, workers=3)
    for worker in (1, 2):
        assert push(shard, worker, 1, f32(1)).replies == []
        assert shard.version(0) == 0
    result = push(shard, 3, 1, f32(1))
    assert answered(result) == [(1, 1), (2, 1), (3, 1)]
    assert {reply.version for reply in result.replies} == {1}
    assert shard.stats().updates == 1


def test_a_leaver_is_left_out_of_the_mean() -> None:
    shard = make_shard(BSP, workers=3)
    payload = f32(2)
    push(shard, 1, 1, payload)
    push(shard, 2, 1, f32(100))
    assert shard.leave(2) == []
    assert answered(push(shard, 3, 1, f32(4))) == [(1, 1), (3, 1)]
    assert payload.tolist() == f32(-3).tolist()


def test_a_leaver_completes_the_step_that_waited_only_for_it() -> None:
    shard = make_shard(BSP, workers=3)
    payload = f32(2)
    push(shard, 1, 1, payload)
    push(shard, 2, 1, f32(4))
    assert [reply.worker for reply in shard.leave(3)] == [1, 2]
    assert payload.tolist() == f32(-3).tolist()


def test_a_push_without_samples_has_no_weight() -> None:
    shard = make_shard(BSP)
    push(shard, 1, 1, f32(100), samples=0)
    push(shard, 2, 1, f32(3), samples=7)
    assert values_of(shard) == f32(-3).tolist()


def test_a_step_without_samples_is_no_update() -> None:
    shard = make_shard(BSP)
    payload = f32(100)
    push(shard, 1, 1, payload, samples=0)
    assert answered(push(shard, 2, 1, f32(3), samples=0)) == [(1, 1), (2, 1)]
    assert (payload.tolist(), shard.version(0), shard.clock(0, 1)) == (f32(0).tolist(), 0, 1)


@pytest.mark.parametrize(("scale_lr", "expected"), [(False, -3.0), (True, -6.0)])
def test_scale_lr_multiplies_by_the_gradients_in_the_mean(scale_lr: bool, expected: float) -> None:
    shard = make_shard(BSP, workers=3, scale_lr=scale_lr)
    push(shard, 1, 1, f32(100), samples=0)
    push(shard, 2, 1, f32(2))
    push(shard, 3, 1, f32(4))
    assert values_of(shard) == f32(expected).tolist()


def test_a_mean_needs_bound_zero() -> None:
    with pytest.raises(ValueError, match="gather 'step': expected bound 0"):
        Rule(bound=1, gather="step")


# Other rules


def test_rounds_without_a_spare_worker_are_bsp_to_the_bit() -> None:
    shards = [make_shard(policy, workers=3) for policy in (BSP, {"rule": Rule(gather="round")})]
    generator = np.random.default_rng(1)
    for step in range(1, 6):
        for worker in generator.permutation([1, 2, 3]):
            gradient = generator.standard_normal(N).astype(np.float32)
            released = [
                [
                    (r.worker, r.step, r.version, r.lag, r.staleness)
                    for r in push(shard, int(worker), step, gradient.copy()).replies
                ]
                for shard in shards
            ]
            assert released[0] == released[1]
    assert values_of(shards[0]) == values_of(shards[1])


def test_a_gradient_that_is_too_stale_is_answered_and_not_applied() -> None:
    shard = make_shard({"rule": Rule(staleness_limit=1)})
    for step in (1, 2):
        push(shard, 1, step, f32(1))
    late = f32(100)
    result = push(shard, 2, 1, late)
    (reply,) = result.replies
    assert result.outcome is Outcome.DROPPED
    assert (reply.dropped, reply.staleness, reply.version) == (True, 2, 2)
    assert late.tolist() == values_of(shard)
    again = push(shard, 2, 1, f32(100))
    assert (again.outcome, again.replies[0].dropped) == (Outcome.DUPLICATE, True)
    stats = shard.stats()
    assert (stats.dropped, stats.max_staleness, stats.mean_staleness) == (1, 0, 0.0)


def test_from_bsp_to_asp_what_waits_is_applied_and_answered() -> None:
    shard = make_shard(BSP, workers=3)
    memory = {worker: f32(10**worker) for worker in (2, 1)}
    for worker, gradient in memory.items():
        assert push(shard, worker, 1, gradient).replies == []
    replies = shard.set_rule(Rule())
    assert [(r.worker, r.step, r.version) for r in replies] == [(2, 1, 2), (1, 1, 2)]
    assert memory[1].tolist() == memory[2].tolist() == values_of(shard)
    assert values_of(shard) == f32(-110).tolist()
    assert [r.worker for r in push(shard, 3, 1, f32(0)).replies] == [3]


def test_from_asp_to_bsp_steps_complete_when_all_have_reached_them() -> None:
    shard = make_shard(ASP)
    for step in (1, 2):
        push(shard, 1, step, f32(0))
    assert shard.set_rule(Rule(bound=0, gather="step")) == []
    assert push(shard, 1, 3, f32(4)).replies == []
    for step in (1, 2):  # nobody else has a gradient for them: a mean of one
        assert [r.worker for r in push(shard, 2, step, f32(0)).replies] == [2]
    assert sorted(r.worker for r in push(shard, 2, 3, f32(2)).replies) == [1, 2]
    assert values_of(shard) == f32(-3).tolist()


def test_from_bsp_to_backup_who_waits_takes_part_in_the_round() -> None:
    shard = make_shard(BSP, workers=4)
    push(shard, 1, 1, f32(2))
    push(shard, 2, 1, f32(4))
    assert shard.set_rule(Rule(gather="round", backup_workers=1)) == []
    assert [r.worker for r in push(shard, 4, 1, f32(6)).replies] == [1, 2, 4]
    assert values_of(shard) == f32(-4).tolist()
    assert push(shard, 3, 1, f32(8)).outcome is Outcome.DROPPED


def test_from_backup_to_bsp_what_was_gathered_waits_for_its_step() -> None:
    shard = make_shard({"rule": Rule(gather="round", backup_workers=1)}, workers=3)
    push(shard, 1, 1, f32(2))
    assert shard.set_rule(Rule(bound=0, gather="step")) == []
    assert push(shard, 2, 1, f32(4)).replies == []
    assert [r.worker for r in push(shard, 3, 1, f32(6)).replies] == [1, 2, 3]
    assert values_of(shard) == f32(-4).tolist()


def test_workers_that_wait_in_rounds_of_different_chunks_begin_their_next_step_together() -> None:
    """Each may have one request on its way, as with a window that is smaller than a step."""
    chunks = (parameters(), parameters(), parameters())
    shard = make_shard({"rule": Rule(gather="round", backup_workers=1)}, workers=2, chunks=chunks)
    for worker, chunk in ((2, 2), (2, 1), (1, 2)):  # with one backup worker of two, nobody waits
        assert answered(push(shard, worker, 1, f32(1), chunk=chunk)) == [(worker, 1)]
    shard.pull(1, 1, f32(0))  # so that its gradient of this chunk is not stale
    shard.join(3, 1)  # from now on rounds take two
    step = {1: 1, 2: 1, 3: 2}
    for worker, chunk in ((1, 1), (2, 0), (3, 2)):
        result = push(shard, worker, step[worker], f32(1), chunk=chunk)
        assert (result.outcome, result.replies) == (Outcome.APPLIED, [])
    before = [values_of(shard, chunk) for chunk in range(3)]
    replies = shard.give_up_rounds()
    assert sorted((r.worker, r.chunk, r.dropped) for r in replies) == [
        (1, 1, True), (2, 0, True), (3, 2, True),
    ]  # fmt: skip
    for worker, chunk in ((1, 0), (3, 1), (3, 0)):  # the rest of their steps
        result = push(shard, worker, step[worker], f32(1), chunk=chunk)
        assert (result.outcome, answered(result)) == (
            Outcome.DROPPED, [(worker, step[worker])],
        )  # fmt: skip
    assert [values_of(shard, chunk) for chunk in range(3)] == before
    for chunk in (2, 1, 0):  # now they meet in each
        replies = [
            reply for worker in (1, 2, 3)
            for reply in push(shard, worker, step[worker] + 1, f32(1), chunk=chunk).replies
        ]  # fmt: skip
        assert {reply.worker for reply in replies} == {1, 2, 3}
    assert shard.parked() == 0


def test_no_round_is_given_up_where_there_is_none() -> None:
    shard = make_shard(BSP)
    push(shard, 1, 1, f32(2))
    assert shard.give_up_rounds() == []
    assert answered(push(shard, 2, 1, f32(4))) == [(1, 1), (2, 1)]
    assert values_of(shard) == f32(-3).tolist()


# Values that are not finite


def test_raise_ticks_and_leaves_the_answer_to_the_caller() -> None:
    shard = make_shard(ASP, momentum=0.9)
    payload = f32(1, 1, np.nan, np.inf)
    result = push(shard, 1, 1, payload)
    assert (result.outcome, result.nonfinite_index, result.replies) == (Outcome.NONFINITE, 2, [])
    assert (result.clock, shard.version(0), shard.has_state(0)) == (1, 1, True)
    assert (values_of(shard), shard.parked()) == (f32(0).tolist(), 0)
    momentum = np.full(N, np.nan, np.float32)
    shard.state(0, "momentum", momentum)
    assert not momentum.any()
    assert (shard.stats().nonfinite, shard.stats().applied) == (1, 1)


def test_skip_answers_as_usual() -> None:
    shard = make_shard(ASP, nonfinite=Nonfinite.SKIP)
    payload = f32(np.inf)
    result = push(shard, 1, 1, payload)
    assert (result.outcome, result.nonfinite_index) == (Outcome.NONFINITE, 0)
    assert (answered(result), payload.tolist()) == ([(1, 1)], f32(0).tolist())


def test_apply_does_not_look() -> None:
    shard = make_shard(ASP, nonfinite=Nonfinite.APPLY)
    result = push(shard, 1, 1, f32(1, np.inf))
    assert (result.outcome, result.nonfinite_index) == (Outcome.APPLIED, None)
    assert values_of(shard) == f32(-1, -np.inf).tolist()


def test_extra_steps_granted_at_a_nonfinite_gradient_let_earlier_answers_go() -> None:
    """A worker that waits under a dynamic bound may push on; the pace of that push counts too."""
    rule = Rule(bound=1, bound_max=4)
    shard = make_shard({"rule": rule}, nonfinite=Nonfinite.RAISE)
    steps = {1: 0, 2: 0}
    for now_s, (worker, value) in enumerate(
        [(1, 1), (1, 1), (1, 1), (2, 1), (1, np.nan), (1, np.nan), (2, np.nan), (1, np.nan)]
    ):
        steps[worker] += 1
        result = shard.push(0, worker, steps[worker], 1, f32(value), True, now_s=float(now_s))
    assert result.outcome == Outcome.NONFINITE
    assert answered(result) == [(1, 2), (1, 3)]


@pytest.mark.parametrize("nonfinite", [Nonfinite.RAISE, Nonfinite.SKIP])
def test_a_nonfinite_gradient_is_left_out_of_the_mean(nonfinite: Nonfinite) -> None:
    shard = make_shard(BSP, nonfinite=nonfinite)
    push(shard, 1, 1, f32(np.nan))
    answers = answered(push(shard, 2, 1, f32(3)))
    assert answers == ([(2, 1)] if nonfinite is Nonfinite.RAISE else [(1, 1), (2, 1)])
    assert values_of(shard) == f32(-3).tolist()


def test_a_nonfinite_push_lets_others_go() -> None:
    shard = make_shard(BSP)
    push(shard, 1, 1, f32(3))
    result = push(shard, 2, 1, f32(np.nan))
    assert (result.outcome, answered(result)) == (Outcome.NONFINITE, [(1, 1)])


# Buffers


def test_of_buffers_the_newest_wins() -> None:
    shard = make_shard(ASP, chunks=(buffers(),))
    push(shard, 1, 1, f32(7))
    payload = f32(8)
    assert push(shard, 2, 1, payload).replies[0].version == 2
    assert payload.tolist() == values_of(shard) == f32(8).tolist()


def test_of_a_bsp_step_the_buffer_of_the_highest_worker_wins() -> None:
    shard = make_shard(BSP, workers=3, chunks=(buffers(),))
    low = f32(7)
    push(shard, 3, 1, f32(9), samples=0)  # saw no samples, so it has no new values
    push(shard, 2, 1, f32(8))
    push(shard, 1, 1, low)
    assert low.tolist() == values_of(shard) == f32(8).tolist()
    assert shard.version(0) == 1


# Joining, staleness, statistics


def test_the_first_step_of_a_joiner_is_new_on_every_chunk() -> None:
    shard = make_shard(ASP, chunks=(parameters(), parameters()))
    assert shard.first_step() == 1
    for worker in (1, 2):
        push(shard, worker, 1, f32(0), chunk=1)
    assert (shard.minimum(0), shard.minimum(1), shard.first_step()) == (0, 1, 2)


def test_joining_is_all_or_nothing() -> None:
    shard = make_shard(ASP, workers=1, chunks=(parameters(), parameters()))
    push(shard, 1, 1, f32(0), chunk=1)
    with pytest.raises(ValueError, match="worker 2: expected a clock of at least 1"):
        shard.join(2, 0)
    with pytest.raises(ValueError, match="worker 1: is live already"):
        shard.join(1, 5)
    assert shard.workers() == [1]
    shard.join(2, 1)
    assert (shard.clock(0, 2), shard.clock(1, 2)) == (1, 1)
    with pytest.raises(KeyError):
        shard.clock(0, 3)


def test_a_shard_without_chunks_still_has_members() -> None:
    shard = Shard([], SgdOptions(lr=1.0), **SSP1, nonfinite=Nonfinite.RAISE)
    shard.join(1, 0)
    with pytest.raises(ValueError, match="worker 1: is live already"):
        shard.join(1, 0)
    with pytest.raises(ValueError, match="worker 0: expected an id of at least 1"):
        shard.join(0, 0)
    assert (shard.workers(), shard.first_step(), shard.leave(1)) == ([1], 1, [])


def test_staleness_counts_the_updates_since_the_last_parameters() -> None:
    shard = make_shard(ASP, workers=3)
    for step in (1, 2):
        push(shard, 1, step, f32(0))
    assert push(shard, 2, 1, f32(0)).replies[0].staleness == 2
    assert push(shard, 1, 3, f32(0)).replies[0].staleness == 1
    shard.pull(0, 3, f32(0))
    assert push(shard, 3, 1, f32(0)).replies[0].staleness == 0
    stats = shard.stats()
    assert (stats.max_staleness, stats.staleness_sum, stats.staleness_count) == (2, 3, 5)
    assert (stats.mean_staleness, stats.updates) == (0.6, 5)


def test_an_answer_without_payload_is_no_pull() -> None:
    shard = make_shard(ASP)
    push(shard, 1, 1, f32(0), wants_payload=False)
    assert push(shard, 1, 2, f32(0)).replies[0].staleness == 1
    assert push(shard, 1, 3, f32(0)).replies[0].staleness == 0


def test_the_learning_rate_can_change() -> None:
    shard = make_shard(ASP)
    shard.set_lr(0.5)
    push(shard, 1, 1, f32(2))
    assert values_of(shard) == f32(-1).tolist()
    with pytest.raises(ValueError, match="lr: expected a finite number"):
        shard.set_lr(-1.0)


# The optimizer's buffers


def test_momentum_survives_a_checkpoint() -> None:
    shard, restored = (make_shard(ASP, momentum=0.5) for _ in range(2))
    assert (shard.state_names(), shard.has_state(0)) == (["momentum"], False)
    buffer = f32(7)
    shard.state(0, "momentum", buffer)
    assert buffer.tolist() == f32(0).tolist()  # what it begins with
    push(shard, 1, 1, f32(2))
    shard.state(0, "momentum", buffer)
    restored.load_state(0, "momentum", buffer.tobytes())
    assert (buffer.tolist(), restored.has_state(0)) == (f32(2).tolist(), True)
    push(restored, 1, 1, f32(2))
    assert values_of(restored) == f32(-3).tolist()


def test_without_momentum_there_is_no_buffer_to_load() -> None:
    shard = make_shard(ASP)
    assert shard.state_names() == []
    with pytest.raises(ValueError, match="chunk 0 has no momentum"):
        shard.load_state(0, "momentum", f32(0))
    shard = make_shard(ASP, chunks=(buffers(),), momentum=0.5)
    with pytest.raises(ValueError, match="chunk 0 has no momentum"):
        shard.load_state(0, "momentum", f32(0))


OPTIMIZERS: list[tuple[Any, type[torch.optim.Optimizer], dict[str, Any], list[str]]] = [
    (SgdOptions(lr=0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, ["momentum"]),
    (AdamOptions(), torch.optim.Adam, {}, ["exp_avg", "exp_avg_sq"]),
    (
        AdamOptions(amsgrad=True, decoupled=True, weight_decay=0.01),
        torch.optim.AdamW,
        {"amsgrad": True},
        ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
    ),
    (
        AdagradOptions(initial_accumulator_value=0.1),
        torch.optim.Adagrad,
        {"initial_accumulator_value": 0.1},
        ["sum"],
    ),
]
every_optimizer = pytest.mark.parametrize(
    ("options", "of_torch", "settings", "states"), OPTIMIZERS, ids=lambda value: str(value)[:30]
)


def random_gradient(step: int, n: int = N) -> F32:
    return np.random.default_rng(step).standard_normal(n).astype(np.float32)


@every_optimizer
@pytest.mark.parametrize("policy", [ASP, BSP], ids=["asp", "bsp"])
@pytest.mark.parametrize("stop", [None, 1, 12], ids=["whole", "after 1", "after 12"])
def test_a_run_of_two_parts_matches_torch(
    options: Any,
    of_torch: type[torch.optim.Optimizer],
    settings: dict[str, Any],
    states: list[str],
    policy: dict[str, Any],
    stop: int | None,
) -> None:
    n = 5000
    parameter = torch.ones(n, requires_grad=True)
    optimizer = of_torch([parameter], **settings)
    shard = optimized_shard(options, policy, n, np.ones(n, np.float32))
    assert shard.state_names() == states
    payload = np.zeros(n, np.float32)
    first_step = 0
    for step in range(1, 25):
        parameter.grad = torch.tensor(random_gradient(step, n))
        optimizer.step()
        payload[:] = random_gradient(step, n)
        shard.push(0, 1, step - first_step, 1, payload, True)
        np.testing.assert_allclose(payload, parameter.detach().numpy(), rtol=2e-6, atol=2e-6)
        if step == stop:
            shard, first_step = moved(shard, options, policy, n), step
    assert (shard.version(0), shard.stats().updates) == (24, 24 - first_step)


def optimized_shard(options: Any, policy: dict[str, Any], n: int, values: F32) -> Shard:
    shard = Shard([parameters(n)], options, **policy, nonfinite=Nonfinite.RAISE)
    shard.init(0, values)
    shard.join(1, 0)
    return shard


def moved(shard: Shard, options: Any, policy: dict[str, Any], n: int) -> Shard:
    """Another shard with the same values, buffers and version."""
    values = np.zeros(n, np.float32)
    again = Shard([parameters(n)], options, **policy, nonfinite=Nonfinite.RAISE)
    again.set_version(0, shard.pull(0, None, values)[0])
    again.init(0, values)
    for name in shard.state_names():
        shard.state(0, name, values)
        again.load_state(0, name, values)
    again.join(1, 0)
    return again


def test_a_version_cannot_be_set_once_somebody_counts_on_it() -> None:
    shard = make_shard(ASP)
    with pytest.raises(ValueError, match="chunk 0: a version is set before any worker joins"):
        shard.set_version(0, 5)


# Memory and threads


def test_parked_memory_lives_as_long_as_it_is_needed_and_no_longer() -> None:
    shard = make_shard(BSP)
    payload = f32(2)
    parked = weakref.ref(payload)
    push(shard, 1, 1, payload)
    del payload
    gc.collect()
    assert parked() is not None
    push(shard, 2, 1, f32(4))
    assert values_of(shard) == f32(-3).tolist()
    assert parked() is None


def test_a_parked_bytearray_cannot_be_resized() -> None:
    shard = make_shard(BSP)
    payload = bytearray(N * 4)
    shard.push(0, 1, 1, 1, payload, True)
    with pytest.raises(BufferError):
        payload.clear()
    shard.unpark(0, 1)
    with pytest.raises(BufferError):  # the gradient is still part of the sum
        payload.clear()
    shard.leave(1)
    payload.clear()


def test_an_answer_that_was_taken_over_lets_its_memory_go() -> None:
    shard = make_shard(SSP1)
    push(shard, 1, 1, f32(0))
    payload = f32(0)
    parked = weakref.ref(payload)
    push(shard, 1, 2, payload)
    del payload
    push(shard, 1, 2, f32(0))
    assert parked() is None


def test_a_shard_lets_go_of_parked_memory_when_it_ends() -> None:
    shard = make_shard(BSP)
    payload, again = f32(0), f32(0)
    parked = [weakref.ref(payload), weakref.ref(again)]
    push(shard, 1, 1, payload)
    push(shard, 1, 1, again)
    del payload, again, shard
    gc.collect()
    assert [reference() for reference in parked] == [None, None]


def test_pushes_from_several_threads_are_all_applied() -> None:
    shard = make_shard(ASP, workers=4)
    outcomes: list[Outcome] = []

    def work(worker: int) -> None:
        outcomes.extend(push(shard, worker, step, f32(1)).outcome for step in range(1, 201))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {Outcome.APPLIED}
    assert (values_of(shard), shard.version(0)) == (f32(-800).tolist(), 800)
