"""A `leash server` that counts the CPU time of its Python: for leash.bench.scaling alone.

    python -m leash.bench.harness.counted_server COUNTS --workers=4 ...

COUNTS is a file of one f64, which the process that measures maps: the CPU seconds that the loop's
thread has spent outside C++. There, a lane calls libzmq and the engine; where libzmq's functions
are not found, Python and pyzmq do what the lane would, and call the engine. Counting costs about a
microsecond a call, which is part of that. The other options are those of `leash server`.
"""

import sys
import time
from typing import Any

import numpy as np

import leash.ps.shard.model
from leash.ps import _core, cli

COUNTS = (1,)


def main() -> None:
    counts = np.memmap(sys.argv[1], np.float64, "r+", shape=COUNTS)
    left_s = time.thread_time()  # when the thread came back to Python

    def enter() -> None:
        counts[0] += time.thread_time() - left_s

    def leave() -> None:
        nonlocal left_s
        left_s = time.thread_time()

    class CountedEngine(_core.ShardEngine):
        def receive(self, *args: Any, **kwargs: Any) -> bool:
            enter()
            taken = super().receive(*args, **kwargs)
            leave()
            return taken

    class CountedLane(_core.ShardLane):
        def poll(self, *args: Any, **kwargs: Any) -> list[int]:
            enter()
            ready = super().poll(*args, **kwargs)
            leave()
            return ready

    setattr(leash.ps.shard.model, "ShardEngine", CountedEngine)  # noqa: B010
    setattr(_core, "ShardLane", CountedLane)  # noqa: B010
    cli.main(["server", *sys.argv[2:]])


if __name__ == "__main__":
    main()
