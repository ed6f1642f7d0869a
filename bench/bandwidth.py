"""Measures what memory can do, for the kinds of traffic that kernels have.

A kernel's share of bandwidth compares it with a loop of the same kind over the same amount of
memory, with as many threads, measured in turn with it. The loop is numpy's fastest of its kind.
"""

import functools
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from leash.bench.harness.trial import Exchange
from leash.bench.harness.workload import F32

Loop: TypeAlias = Callable[[F32, F32], None]


def _copy(a: F32, b: F32) -> None:
    np.copyto(b, a)


def _in_place(a: F32, b: F32) -> None:
    np.negative(a, out=a)
    np.negative(b, out=b)


def _update(a: F32, b: F32) -> None:
    np.add(a, b, out=a)


def _read(a: F32, b: F32) -> None:
    a.max()
    b.max()


# Kind of traffic ▸ a loop over two arrays, the bytes that it moves per byte of both, and its name.
REFERENCES: Final[dict[str, tuple[Loop, float, str]]] = {
    "copy": (_copy, 1.0, "memcpy: 1 read, 1 write elsewhere"),
    "in_place": (_in_place, 2.0, "negate in place: 1 read, 1 write of the same memory"),
    "update": (_update, 1.5, "a += b: 2 reads, 1 write of the same memory"),
    "read": (_read, 1.0, "max: 1 read"),
}


def reference(kind: str, nbytes: int, threads: int) -> tuple[Exchange, int]:
    """Makes a loop of this kind over `nbytes` in all, and says how many bytes one run moves."""
    loop, moved, _ = REFERENCES[kind]
    values = max(1, nbytes // 8 // threads)
    parts = [tuple(np.ones(values, np.float32) for _ in range(2)) for _ in range(threads)]
    moved_nbytes = int(moved * 8 * values * threads)
    if threads == 1:
        return functools.partial(loop, *parts[0]), moved_nbytes
    return functools.partial(_together, loop, parts), moved_nbytes


def _together(loop: Loop, parts: list[tuple[F32, ...]]) -> None:
    """Runs the loop on each part in a thread of its own; numpy releases the GIL."""
    others = [threading.Thread(target=loop, args=part) for part in parts[1:]]
    for thread in others:
        thread.start()
    loop(*parts[0])
    for thread in others:
        thread.join()
