"""`leash page`: shows a run from the files that it leaves, and follows them while it goes on."""

import sys
import threading
import webbrowser
from pathlib import Path

from leash.ps.errors import UsageError
from leash.ps.interrupt import Interrupted
from leash.ps.live.looker import PAGE_LOOK_S, Looker
from leash.ps.live.options import ShownRunOptions
from leash.ps.options.page import page_place
from leash.ps.runs.listing import newest_run
from leash.ps.runs.rundir import RUNS


def run(options: ShownRunOptions) -> int:
    """Serves the page until Ctrl-C. Returns the exit status."""
    path = Path(options.run) if options.run else _newest()
    if not (path / "events.jsonl").is_file():
        raise UsageError(f"{path}: holds no run: expected a run directory, with events.jsonl in it")
    host, port = page_place(options.page_at)
    looker = Looker(path, host, port, None, is_live=False, may_move=options.page_at is None)
    print(f"run directory   {path}")
    print(f"page            {looker.address}")
    print("                Ctrl-C ends it", file=sys.stderr)
    if options.open:
        webbrowser.open(looker.address)
    pause = threading.Event()
    try:
        while True:
            looker.look()
            pause.wait(PAGE_LOOK_S)
    except Interrupted:
        return 0
    finally:
        looker.close()


def _newest() -> Path:
    """The newest run, as `leash report` takes it."""
    try:
        return newest_run()
    except UsageError as error:
        raise UsageError(f"no run in {RUNS}: give a run directory: leash page runs/NAME") from error
