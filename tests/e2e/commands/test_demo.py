"""`leash demo`: two real runs, and what it says of them."""

import json
import shlex
from pathlib import Path

from leash.ps.demo.outcome import read_side
from leash.ps.demo.verdict import verdict, waited
from support.processes import LEASH, Child


def test_it_runs_both_sides_and_tells_what_their_files_tell(tmp_path: Path) -> None:
    out, picture = tmp_path / "out", tmp_path / "pictures" / "demo.svg"
    words = ("--workers=3", "--slower=10", "--epochs=1", f"--out={out}", f"--picture={picture}")
    with Child([*LEASH, "demo", *words]) as child:
        assert child.wait(110) == 0, "\n".join(child.lines)
    assert child.lines[0] == (
        "3 machines learn handwritten digits together; machine 3 is 10 times slower than the "
        "others."
    )
    lockstep, leash = read_side(out / "lockstep"), read_side(out / "leash")
    assert verdict(lockstep, leash) in child.lines
    assert waited(lockstep, leash) in child.lines
    # Both have used the same samples; the fast machines of one of them did not wait.
    samples = [
        json.loads((out / side / "summary.json").read_text())["samples"]
        for side in ("lockstep", "leash")
    ]
    assert samples[0] == samples[1] > 0
    assert lockstep.waits[0] is not None
    assert leash.waits[0] is not None
    assert lockstep.waits[0] > leash.waits[0]
    assert "machine 3 is 10 times slower" in picture.read_text("utf-8")
    # The command that it gives for more of it can be typed as it stands.
    (detail,) = (line for line in child.lines if line.startswith("in detail"))
    command = shlex.split(detail.removeprefix("in detail"))
    with Child([*LEASH, *command[1:], f"--out={tmp_path / 'report.html'}"]) as report:
        assert report.wait(60) == 0, "\n".join(report.lines)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with Child([*LEASH, "demo", f"--out={tmp_path}"]) as child:
        assert child.wait(30) == 2
    assert child.lines == [
        f"leash demo: --out {tmp_path}: something is there already; take another folder"
    ]
