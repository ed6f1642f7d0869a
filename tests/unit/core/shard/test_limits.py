"""A process at the limits of its memory gets an error, keeps nothing, and goes on.

Each program below runs in a process of its own, which says "done" at its end.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    "LEASH_EXPECT_SANITIZED" in os.environ, reason="sanitizers need address space without limit"
)

LIMITED = """
import resource
from leash.ps._core import ChunkSpec, Nonfinite, Rule, SgdOptions, Shard

def limit(mib):
    "So much more address space than there is now; None for as much as there is."
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard if mib is None else used + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

def make_shard(chunks, threads=1):
    spec = ChunkSpec(values=1, dtype="f32", kind="parameter")
    return Shard([spec] * chunks, SgdOptions(lr=1.0), rule=Rule(), nonfinite=Nonfinite.RAISE,
                 threads=threads)
"""


def run(program: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", LIMITED + program + "\nprint('done')"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stdout) == (0, "done\n"), told.stderr


def test_where_threads_cannot_start_those_that_did_have_ended() -> None:
    run("""
import os, re
before = len(os.listdir("/proc/self/task"))
limit(200)
for _ in range(3):
    try:
        make_shard(1, threads=256)
    except OSError as error:
        assert re.fullmatch(r"thread \\d+ of 256 cannot start: .+", str(error)), error
    else:
        raise AssertionError("256 threads within 200 MiB of address space")
    assert len(os.listdir("/proc/self/task")) == before
limit(None)
shard = make_shard(1, threads=256)
assert len(os.listdir("/proc/self/task")) == before + 255
""")
