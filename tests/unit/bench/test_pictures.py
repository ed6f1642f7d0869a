from dataclasses import replace
from pathlib import Path

import pytest

from leash.bench.harness.rows import Row, make_row
from leash.bench.harness.trial import Times, Trial
from leash.bench.show.pictures import draw
from leash.ps.options.bench import MEASURED_CODECS


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


def strangers() -> list[Row]:
    return [
        replace(row("strangers", system, case="unfinished", transport="tcp"), kept=kept)
        for system, kept in (("sink", 1.0), ("control", 0.9), ("data", 0.8))
    ]


@pytest.mark.parametrize("ending", [".svg", ".png"])
@pytest.mark.parametrize(
    "rows", [push_pull, kernels, scaling, training, compensation, em, strangers]
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
