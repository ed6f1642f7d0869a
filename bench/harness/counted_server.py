"""A `leash server` that counts the CPU time of its compiled core: for leash.bench.scaling alone.

    python -m leash.bench.harness.counted_server COUNTS --workers=4 ...

COUNTS is a file of two f64, which the process that measures maps: the CPU seconds of the loop's
thread inside the engine of its shard, and the number of messages. Counting costs about a
microsecond a call, which is part of Python's share. The other options are those of `leash server`.
"""

import sys
import time
from typing import Any

import numpy as np

import leash.ps.shard.model
from leash.ps import _core, cli

COUNTS = (2,)


def main() -> None:
    counts = np.memmap(sys.argv[1], np.float64, "r+", shape=COUNTS)

    class CountedEngine(_core.ShardEngine):
        def receive(self, *args: Any, **kwargs: Any) -> bool:
            began_s = time.thread_time()
            taken = super().receive(*args, **kwargs)
            counts[0] += time.thread_time() - began_s
            counts[1] += 1
            return taken

    setattr(leash.ps.shard.model, "ShardEngine", CountedEngine)  # noqa: B010
    cli.main(["server", *sys.argv[2:]])


if __name__ == "__main__":
    main()
