"""Draws leash.bench.push_pull: throughput over size, by codec, and over workers.

Each line has its name at its end. What lies on another line is left out: with keys, shared memory
is as fast as without; the echoes and two shards over TCP are as fast as Leash with one. The rows,
and the table, have all of them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from leash.bench.harness.rows import Row
from leash.bench.show.row_table import size_of
from leash.ps.report.pictures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY

SYSTEM_COLORS: Final = {
    "leash": BLUE, "leash_keys": RED, "gloo": ORANGE, "ddp": BLACK, "rpc": GREEN, "ray": PURPLE,
}  # fmt: skip
POLICY_COLORS: Final = {"bsp": RED, "ssp": BLUE, "asp": GREEN}
SYSTEM_NAMES: Final = {
    "leash": "Leash", "leash_keys": "Leash, keys", "gloo": "gloo", "ddp": "gloo, all-reduce",
    "rpc": "torch RPC", "ray": "Ray", "memcpy": "memcpy", "fused_sgd": "the update alone",
    "tcp_one_way": "TCP, one way",
}  # fmt: skip
LIMIT_LINES: Final = {"memcpy": "-", "fused_sgd": (0, (4, 2)), "tcp_one_way": ":"}
TRANSPORT_NAMES: Final = {"tcp": "TCP", "shm": "shared memory"}
LINE_GAP: Final = 0.042  # between two names, of the height of an axis
NAME_SIZE: Final = 7.5


def throughput(rows: Sequence[Row]) -> Any:
    """Draws a panel for one worker, one for the codecs, and one over workers for each size."""
    one = [row for row in rows if (row.workers, row.shards) == (1, 1)] or list(rows)
    codecs = [row for row in one if row.system == "leash" and row.transport == "tcp"]
    has_codecs = len({row.codec for row in codecs}) > 1
    many_sizes = sorted({row.nbytes for row in rows if row.workers > 1})
    panels = 1 + has_codecs + len(many_sizes)
    columns = min(2, panels)
    lines = -(-panels // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 3.5 * lines),
                                layout="constrained", squeeze=False)  # fmt: skip
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.98))
    free = iter(axes.flat)
    axis = next(free)
    _draw_lines(axis, one, "nbytes", lambda x: size_of(round(x)))
    _title(axis, "one worker, one server: GB/s of parameters, each way")
    axis.set_xlabel("size of the parameters")
    if has_codecs:
        _draw_codecs(next(free), codecs)
    for nbytes in many_sizes:
        of_size, axis = [row for row in rows if row.nbytes == nbytes], next(free)
        _draw_lines(axis, _of_several(of_size), "workers", lambda x: f"{x:g}")
        _title(axis, f"{size_of(nbytes)}, all workers together: GB/s")
        axis.set_xlabel("workers")
    for axis in free:
        axis.set_visible(False)
    return figure


def _title(axis: Axes, text: str) -> None:
    axis.set_title(text, loc="left", fontsize=9.5)


def _of_several(rows: Sequence[Row]) -> list[Row]:
    """The rows of ways that were measured with several workers."""
    several = {_way(row) for row in rows if row.workers > 1}
    return [row for row in rows if _way(row) in several]


def _way(row: Row) -> tuple[str | int, ...]:
    return row.system, row.transport, row.codec, row.policy, row.shards


def _has_line(row: Row) -> bool:
    """Whether a row is on a line of its own; codecs have a panel."""
    if row.codec != "f32" or row.system in ("lane_echo", "zmq_echo"):
        return False
    if row.system == "leash_keys":
        return row.transport == "tcp" and row.shards == 1
    return row.shards == 1 or row.transport == "shm"


def _draw_lines(axis: Axes, rows: Iterable[Row], name: str, text: Callable[[float], str]) -> None:
    """Draws throughput over the figure of that name, a line for each way, with its name."""
    drawn = [row for row in rows if _has_line(row)] or list(rows)
    ordered = sorted(drawn, key=lambda row: (*map(str, _way(row)), getattr(row, name)))
    ends = []
    axis.set(xscale="log", yscale="log")
    for _, group in groupby(ordered, _way):
        line = list(group)
        look = _look(line[0])
        axis.plot([getattr(row, name) for row in line], [row.gbytes_per_s for row in line], **look)
        last = line[-1]
        ends.append((getattr(last, name), last.gbytes_per_s, _name_of(last), look["color"]))
    _write_names(axis, ends)
    _plain_axes(axis)
    axis.set_xticks(sorted({getattr(row, name) for row in ordered}))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text(x)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", labelsize=NAME_SIZE)


def _look(row: Row) -> dict[str, Any]:
    if row.system in LIMIT_LINES:
        return {"color": GREY, "linestyle": LIMIT_LINES[row.system], "linewidth": 1.2}
    color = POLICY_COLORS[row.policy] if row.policy else SYSTEM_COLORS.get(row.system, GREY)
    is_shared = row.transport == "shm"
    return {"color": color, "linestyle": (0, (4, 1)) if is_shared else "-", "marker": "o",
            "linewidth": 2 if row.system == "leash" else 1.5,
            "markerfacecolor": "white" if row.shards > 1 else color}  # fmt: skip


def _name_of(row: Row) -> str:
    name = SYSTEM_NAMES.get(row.system, row.system)
    if not row.system.startswith("leash"):
        return name
    policy = f" {row.policy}" if row.policy else ""
    shards = f", {row.shards} shards" if row.shards > 1 else ""
    return f"{name}{policy}, {TRANSPORT_NAMES.get(row.transport, row.transport)}{shards}"


def _write_names(axis: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes each line's name behind its end, so far apart that all can be read."""
    right = max(x for x, *_ in ends)
    low, high = np.log(axis.get_ylim())
    heights = [(np.log(y) - low) / (high - low) for _, y, *_ in ends]
    order = np.argsort(heights)
    placed = spread([heights[i] for i in order], LINE_GAP)
    for place, i in zip(placed, order, strict=True):
        _, _, name, color = ends[i]
        axis.annotate(name, (right, np.exp(low + place * (high - low))), (7, 0), color=color,
                      textcoords="offset points", va="center", fontsize=NAME_SIZE,
                      annotation_clip=False)  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves heights apart, as little as may be, so that no two are nearer than `gap`.

    Args:
        heights: in ascending order.
        gap: the least distance.
    """
    groups: list[list[float]] = []  # those that touch; each is centred where its members were
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _first(groups[-1], gap) - _last(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_first(group, gap) + i * gap for group in groups for i in range(len(group))]


def _first(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _last(group: Sequence[float], gap: float) -> float:
    return _first(group, gap) + gap * (len(group) - 1)


def _draw_codecs(axis: Axes, rows: Sequence[Row]) -> None:
    """Draws bars for each codec over TCP, one for each size that is not tiny."""
    codecs = list(dict.fromkeys(row.codec for row in rows))
    sizes = sorted({row.nbytes for row in rows})[-3:]
    height = 0.8 / len(sizes)
    for number, (nbytes, color) in enumerate(zip(sizes, (SKY, BLUE, BLACK), strict=False)):
        of_size = {row.codec: row.gbytes_per_s for row in rows if row.nbytes == nbytes}
        places = [codecs.index(codec) + (number - (len(sizes) - 1) / 2) * height
                  for codec in of_size]  # fmt: skip
        axis.barh(places, list(of_size.values()), height=0.9 * height, color=color,
                  label=size_of(nbytes))  # fmt: skip
    axis.set_yticks(range(len(codecs)), [codec.replace("+", ", answer ") for codec in codecs])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    _title(axis, "codecs over TCP, one worker: GB/s of parameters")
    axis.legend(fontsize=NAME_SIZE, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _plain_axes(axis: Axes) -> None:
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
