from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.options import MEASURED_CODECS
from leash.bench.show.pictures import draw
from leash.bench.show.throughput_picture import spread


def row(bench: str, system: str, seconds: float = 0.5, **conditions: object) -> Row:
    trial = Trial(bench=bench, system=system, **conditions)  # type: ignore[arg-type]
    return make_row(trial, Times(1, ([seconds] * 3,) * trial.workers))


def push_pull() -> list[Row]:
    sizes = (87_000, 4_000_000)
    systems = (
        "leash", "leash_keys", "gloo", "ddp", "rpc", "ray", "lane_echo", "zmq_echo", "memcpy",
        "fused_sgd", "tcp_one_way",
    )  # fmt: skip
    rows = [row("push_pull", s, transport="tcp", nbytes=n) for s in systems for n in sizes]
    rows += [row("push_pull", "leash", transport="shm", nbytes=n) for n in sizes]
    rows += [row("push_pull", "leash", transport="tcp", codec=codec, nbytes=sizes[0])
             for codec in MEASURED_CODECS if codec != "f32"]  # fmt: skip
    return [*rows, row("push_pull", "leash", transport="tcp", nbytes=sizes[1], workers=2, shards=2)]


def kernels() -> list[Row]:
    made = [row("kernels", s, case="sgd", nbytes=4000) for s in ("leash", "torch", "numpy")]
    return [
        replace(row("kernels", "torch_mm", case="peak", nbytes=4), flops=10**9),
        *(replace(r, traffic_nbytes=16_000, flops=2000, bandwidth_share=0.9) for r in made),
        replace(row("kernels", "memory", case="sgd", nbytes=4000), traffic_nbytes=16_000),
        replace(row("kernels", "memcpy", case="sgd", nbytes=4000), traffic_nbytes=8000),
    ]


def scaling() -> list[Row]:
    served = [
        replace(row("scaling", "leash", case=policy, nbytes=65_536, workers=workers),
                server_cpu_s=1e-4, server_loop_s=6e-5, server_core_s=1e-5)
        for policy in ("bsp", "ssp", "asp") for workers in (1, 4)
    ]  # fmt: skip
    clock = [row("scaling", s, 1e-7, case="clock", workers=10) for s in ("leash", "numpy_min")]
    return served + clock


def training() -> list[Row]:
    return [
        row("training", "bare", case="mnist_cnn"),
        row("training", "compute", case="mnist_cnn"),
        row("training", "leash", case="mnist_cnn", transport="tcp", workers=2),
        row("training", "leash_overlap", case="mnist_cnn", transport="tcp"),
    ]


def compensation() -> list[Row]:
    curves: list[list[float | None]] = [[2.0, 1.0, 0.5], [2.0, None, 20.0]]
    return [
        replace(row("compensation", system, case=f"lr {lr}"), lr=lr, losses=curves, repeats=4)
        for lr in (0.1, 0.2) for system in ("asp", "lr/τ")
    ]  # fmt: skip


def em() -> list[Row]:
    return [
        *(row("em", system, case="k=10") for system in ("numpy", "sklearn", "leash")),
        row("em", "leash", case="k=10", transport="tcp", workers=2),
    ]


def unequal() -> list[Row]:
    ways = (("ddp", ""), ("leash", "bsp"), ("leash", "ssp"), ("leash", "asp"))
    return [
        replace(row("unequal", system, case=f"linear on digits, one {times} times slower",
                    policy=policy), target=0.9, to_target_s=None if policy == "ssp" else 3.0)
        for times in (8, 4) for system, policy in ways
    ]  # fmt: skip


def strangers() -> list[Row]:
    return [
        replace(row("strangers", system, case="unfinished", transport="tcp"), kept=kept)
        for system, kept in (("sink", 1.0), ("control", 0.9), ("data", 0.8))
    ]


@pytest.mark.parametrize("ending", [".svg", ".png"])
@pytest.mark.parametrize(
    "rows", [push_pull, kernels, scaling, training, compensation, em, strangers, unequal]
)
def test_every_benchmark_has_a_picture(rows, ending: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "pictures" / f"one{ending}"
    draw(rows(), path)
    assert path.read_bytes()[:5] in (b"<?xml", b"\x89PNG\r")


def test_the_same_rows_give_the_same_picture(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    draw(training(), first)
    draw(training(), second)
    assert first.read_bytes() == second.read_bytes()


def test_the_names_of_lines_stay_in_order_and_are_apart() -> None:
    heights = [0.1, 0.11, 0.12, 0.5, 0.53, 0.9]
    placed = spread(heights, 0.04)
    assert all(b - a > 0.04 - 1e-9 for a, b in pairwise(placed))
    assert placed[:3] == pytest.approx([0.07, 0.11, 0.15])  # around where they were
    assert placed[5] == 0.9  # and whoever has room stays
    assert spread([], 0.04) == []


def test_no_line_of_push_pull_is_without_its_name_and_no_two_lie_on_one_another(
    tmp_path: Path,
) -> None:
    draw(push_pull(), tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text("utf-8")
    for name in ("Leash, TCP", "Leash, shared memory", "Leash, keys, TCP", "gloo, all-reduce",
                 "torch RPC", "Ray", "memcpy", "the update alone", "TCP, one way", "int8",
                 "topk, answer bf16"):  # fmt: skip
        assert f">{name}<" in text
    assert "echo" not in text
