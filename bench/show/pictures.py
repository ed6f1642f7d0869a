"""Draws rows, without a display. The colours suit all eyes (Okabe and Ito 2008).

A colour stands for a system; limits are grey.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

from leash.bench.harness.rows import Row
from leash.bench.show import loss_pictures, throughput_picture, unequal_picture
from leash.bench.show.row_table import size_of
from leash.ps.report.pictures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, STYLE

COLORS: Final = {
    "leash": BLUE, "leash_overlap": SKY, "leash_keys": RED, "gloo": ORANGE, "ddp": BLACK,
    "rpc": GREEN, "ray": PURPLE,
    "lane_echo": GREY, "zmq_echo": GREY, "memcpy": GREY, "fused_sgd": GREY, "tcp_one_way": GREY,
    "torch": ORANGE,
    "torch_fused": RED, "numpy": GREEN, "numpy_min": GREEN, "bare": BLACK, "compute": GREY,
    "bsp": RED, "ssp": BLUE, "asp": GREEN,
}  # fmt: skip
NAMES: Final = {
    "leash": "Leash", "leash_overlap": "Leash, overlapped",
    "leash_keys": "Leash, with keys", "gloo": "gloo", "ddp": "gloo, all-reduce",
    "rpc": "torch RPC", "ray": "Ray", "lane_echo": "echo by the lane", "zmq_echo": "pyzmq echo",
    "memcpy": "memcpy", "fused_sgd": "the update alone",
    "tcp_one_way": "TCP, one way", "torch": "torch", "torch_fused": "torch, fused",
    "numpy": "numpy", "numpy_min": "minimum over an array", "bare": "one bare process",
    "compute": "forward and backward alone", "memory": "memory",
}  # fmt: skip
KERNEL_MARKS: Final = (*"osD^vP*Xhp<>8dH", *((points, 1, 0) for points in range(4, 10)))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the rows of one benchmark into this file, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = PICTURES[rows[0].bench](rows)
        figure.text(0.995, 0.995, _conditions(rows[0]), ha="right", va="top", fontsize=6,
                    color=GREY)  # fmt: skip
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _conditions(row: Row) -> str:
    return f"{row.cpu}, {row.cores} cores, commit {row.commit}"


# kernels.


def kernels(rows: Sequence[Row]) -> Any:
    """Draws a roofline: operations a second over operations for a byte."""
    largest = max(row.nbytes for row in rows if row.traffic_nbytes)
    drawn = [row for row in rows if row.nbytes == largest and row.threads == 1]
    points = [row for row in drawn if row.flops and row.traffic_nbytes and row.case != "peak"]
    cases = [case for case, _ in groupby(points, attrgetter("case"))]
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    _leave_room(figure)
    _roof(axis, [row for row in drawn if row.system in ("memory", "memcpy")], rows, points)
    for row in points:
        assert row.flops is not None
        assert row.traffic_nbytes is not None
        axis.plot(
            row.flops / row.traffic_nbytes, row.flops / row.median_s / 1e9, linestyle="none",
            marker=KERNEL_MARKS[cases.index(row.case)], color=COLORS[row.system], markersize=7,
            markerfacecolor=COLORS[row.system] if row.system == "leash" else "white",
        )  # fmt: skip
    systems = list(dict.fromkeys(row.system for row in points))
    for system in systems:
        face = COLORS[system] if system == "leash" else "white"
        axis.plot([], [], "o", color=COLORS[system], markerfacecolor=face, label=NAMES[system])
    for case in cases:
        axis.plot([], [], linestyle="none", marker=KERNEL_MARKS[cases.index(case)], color=GREY,
                  label=case)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="operations for each byte of traffic",
             ylabel="10⁹ operations a second")  # fmt: skip
    axis.set_title(f"kernels, {size_of(largest)} of parameters, one thread")
    _plain_y(axis)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _roof(axis: Axes, memory: list[Row], rows: Sequence[Row], points: list[Row]) -> None:
    """Draws memory's slope, from the slowest to the fastest traffic, and the processor's peak."""
    speeds = [row.traffic_nbytes / row.median_s / 1e9 for row in memory if row.traffic_nbytes]
    peak = max(row.flops / row.median_s / 1e9 for row in rows if row.case == "peak" and row.flops)
    left = min(row.flops / row.traffic_nbytes for row in points if row.flops and row.traffic_nbytes)
    low, high = min(speeds), max(speeds)
    xs = [left / 2, peak / high, peak / low, 2 * peak / low]
    lower, upper = ([min(peak, speed * x) for x in xs] for speed in (low, high))
    axis.fill_between(xs, lower, upper, color="#dddddd", linewidth=0)
    axis.plot(xs, upper, color=GREY, linewidth=1.2)
    about: Any = {"textcoords": "offset points", "color": "#555555", "fontsize": 7,
                  "bbox": {"color": "white", "alpha": 0.8, "pad": 1}}  # fmt: skip
    axis.annotate(f"memory: {low:.0f} to {high:.0f} GB/s,\nby the kind of traffic",
                  (peak / high, low * peak / high), (10, -26), **about)  # fmt: skip
    axis.annotate(f"peak: {peak:.0f} (torch.mm)", (xs[-1], peak), (-4, 4), ha="right", **about)


# scaling.


def scaling(rows: Sequence[Row]) -> Any:
    """Draws messages a second and the CPU time of one, over workers; and the clock alone."""
    figure, (speed, cost, clock) = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    _leave_room(figure)
    served = [row for row in rows if row.case != "clock"]
    for policy in dict.fromkeys(row.case for row in served):
        of_policy = [row for row in served if row.case == policy]
        workers = [row.workers for row in of_policy]
        color = COLORS[policy]
        speed.plot(workers, [row.per_s for row in of_policy], "o-", color=color, label=policy)
        for name, style, label in (
            ("server_cpu_s", "o-", "all threads"), ("server_loop_s", "s--", "the loop's thread"),
            ("server_core_s", "^:", "of it the core"),
        ):  # fmt: skip
            of_name = [1e6 * getattr(row, name) for row in of_policy]
            cost.plot(workers, of_name, style, color=color, label=label if policy == "asp" else "")
    speed.set(title="64 KiB messages a second", xlabel="workers", ylim=(0, None))
    speed.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    cost.set(title="server's CPU time for one, µs", xlabel="workers")
    cost.set_ylim(0, 1.35 * cost.get_ylim()[1])  # leaves room for the legend
    for axis in (speed, cost):
        axis.set(xscale="log")
        axis.set_xticks(sorted({row.workers for row in served}))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
    for system in ("numpy_min", "leash"):
        of_system = [row for row in rows if (row.case, row.system) == ("clock", system)]
        label = "Leash's clock" if system == "leash" else NAMES[system]
        clock.plot([row.workers for row in of_system], [1e9 * row.median_s for row in of_system],
                   "o-", color=COLORS[system], label=label)  # fmt: skip
    clock.set(title="a tick of the clock, ns", xlabel="workers", xscale="log", yscale="log")
    _plain_y(clock)
    clock.set_xticks(sorted({row.workers for row in rows if row.case == "clock"}))
    clock.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    for axis in (speed, cost, clock):
        axis.legend(fontsize=7)
    return figure


# training.


def training(rows: Sequence[Row]) -> Any:
    """Draws bars of steps a second, beside one bare process."""
    models = list(dict.fromkeys(row.case for row in rows))
    figure, axes = plt.subplots(
        1,
        len(models),
        figsize=(0.6 * len({_bar_name(row) for row in rows}) * len(models) + 1, 3.6),
        layout="constrained",
        squeeze=False,
    )
    _leave_room(figure)
    for axis, model in zip(axes[0], models, strict=True):
        of_model = [row for row in rows if row.case == model and row.system != "compute"]
        bare = next((row.per_s for row in of_model if row.system == "bare"), None)
        for i, row in enumerate(of_model):
            axis.bar(i, row.per_s, color=COLORS[row.system], width=0.7)
            ratio = f"\n× {row.per_s / bare:.2f}" if bare and row.system != "bare" else ""
            axis.annotate(f"{row.per_s:.3g}{ratio}", (i, row.per_s), (0, 2), ha="center",
                          textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set_xticks(range(len(of_model)), [_bar_name(row) for row in of_model], fontsize=7)
        highest = max(row.per_s for row in of_model)
        axis.set(title=f"{model}, steps/s of all workers", ylim=(0, 1.2 * highest))
        axis.grid(axis="x", visible=False)
    return figure


def _bar_name(row: Row) -> str:
    if row.system == "bare":
        return "one bare\nprocess"
    plural = "s" if row.workers > 1 else ""
    overlapped = "\noverlapped" if row.system == "leash_overlap" else ""
    return f"{row.workers} worker{plural}\n{row.transport}{overlapped}"


# em.


def em(rows: Sequence[Row]) -> Any:
    """Draws bars of iterations a second."""
    cases = list(dict.fromkeys(row.case for row in rows))
    figure, axes = plt.subplots(
        1, len(cases), figsize=(4.4 * len(cases), 3.6), layout="constrained", squeeze=False
    )
    _leave_room(figure)
    for axis, case in zip(axes[0], cases, strict=True):
        of_case = [row for row in rows if row.case == case]
        for i, row in enumerate(of_case):
            color = {"leash": BLUE, "numpy": GREEN}.get(row.system, ORANGE)
            axis.bar(i, 1 / row.median_s, color=color, width=0.7)
            axis.annotate(f"{1 / row.median_s:.3g}", (i, 1 / row.median_s), (0, 2), ha="center",
                          textcoords="offset points", fontsize=7)  # fmt: skip
        axis.set_xticks(range(len(of_case)), [_em_name(row) for row in of_case], fontsize=7)
        axis.set(title=f"ten mixtures, {case}: iterations/s")
        axis.grid(axis="x", visible=False)
    return figure


def _em_name(row: Row) -> str:
    if row.system != "leash":
        return {"numpy": "numpy", "sklearn": "scikit-\nlearn"}[row.system]
    return _bar_name(row) if row.transport else "Leash\nalone"


# strangers.


def strangers(rows: Sequence[Row]) -> Any:
    """Draws bars of what workers keep of their speed, for each kind of attacker."""
    kinds = list(dict.fromkeys(row.case for row in rows))
    places = {"control": ORANGE, "data": BLUE}
    figure, axis = plt.subplots(figsize=(0.9 * len(kinds) + 1.5, 3.6), layout="constrained")
    _leave_room(figure)
    for shift, (place, color) in enumerate(places.items()):
        kept = {row.case: row.kept or 0.0 for row in rows if row.system == place}
        at = [kinds.index(kind) + 0.4 * shift for kind in kept]
        axis.bar(at, list(kept.values()), color=color, width=0.38, label=f"{place} socket")
    axis.axhline(1.0, color=GREY, linewidth=0.8)
    axis.set_xticks([i + 0.2 for i in range(len(kinds))], kinds, fontsize=7, rotation=30)
    axis.set(title="speed of workers, over that beside the same attacker at a sink")
    axis.legend(fontsize=7)
    axis.grid(axis="x", visible=False)
    return figure


def _leave_room(figure: Any) -> None:
    """Leaves room at the top, for the conditions."""
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.965))


def _plain_y(axis: Axes) -> None:
    """Makes an axis logarithmic, with its numbers written out."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


PICTURES: Final[dict[str, Callable[[Sequence[Row]], Any]]] = {
    "push_pull": throughput_picture.throughput, "kernels": kernels, "scaling": scaling,
    "training": training, "compensation": loss_pictures.compensation, "em": em,
    "strangers": strangers, "unequal": unequal_picture.unequal,
}  # fmt: skip
