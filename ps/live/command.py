"""`leash page`: shows a run from the files that it leaves, and follows them while it goes on."""

import sys
import threading
import webbrowser
from pathlib import Path

from leash.ps.errors import UsageError
from leash.ps.interrupt import Interrupted
from leash.ps.live.looker import PAGE_LOOK_S, Looker
from leash.ps.options.page import RunPageOptions, page_place
from leash.ps.runs.listing import newest_run


def run(options: RunPageOptions) -> int:
    """Serves the page until Ctrl-C. Returns the exit status."""
    path = Path(options.run) if options.run else newest_run("page")
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
