"""`leash save`: brings a checkpoint of a run that goes on to this machine."""

import json
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from leash.ps.errors import NotAllowedError, NotReadyError, ServerUnreachableError, UsageError
from leash.ps.options.addresses import address_of
from leash.ps.options.commands import SaveOptions
from leash.ps.runs.download import download_checkpoint
from leash.ps.wire.control import ControlChannel, request_state
from leash.ps.wire.keys import key_for
from leash.ps.words import in_epoch_after


def run(options: SaveOptions) -> int:
    """Saves a checkpoint of the run as it is now; returns the exit status.

    Raises:
        UsageError: no server answers at this address, or it has no values yet.
        LeashError: the server is gone meanwhile, or the file cannot be written.
    """
    path = Path(options.file)
    address = address_of(options.server, options.ps_ip, options.ps_port)
    with ControlChannel(address, key=key_for(options.key)) as channel:
        try:
            state = request_state(channel, options.wait_s)
        except ServerUnreachableError as error:
            raise UsageError(str(error)) from error
        try:
            metadata = _download(channel, path)
        except (NotAllowedError, NotReadyError) as error:
            raise UsageError(str(error)) from error
    epoch = json.loads(metadata["position"])["epoch"]
    at = in_epoch_after(epoch, state["planned_epochs"])
    print(f"saved {path}: {path.stat().st_size} bytes, version {metadata['version']}{at}")
    return 0


def _download(channel: ControlChannel, path: Path) -> dict[str, str]:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as progress:
        bar = progress.add_task("waiting for the end of a step", total=None)

        def on_piece(came: int, nbytes: int) -> None:
            progress.update(bar, description=path.name, completed=came, total=nbytes)

        return download_checkpoint(channel, path, on_piece=on_piece)
