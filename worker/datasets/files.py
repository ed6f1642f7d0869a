"""What all datasets that lie in files share: where to look, and one line when that fails."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from leash.ps.errors import UsageError
from leash.worker.datasets.base import DatasetOptions
from leash.worker.plugins import one_line

DOWNLOADABLE: Final = ("mnist", "cifar10")
DOWNLOAD_DIR: Final = Path("data")  # below the working directory, where --data-dir is not given


def data_dir(dataset: str, options: DatasetOptions, contents: str) -> Path:
    """The folder of ``--data-dir``; for ``--download`` it is made if need be.

    ``contents`` says in the error's text what the folder should hold.

    Raises:
        UsageError: not given, or not a folder.
    """
    if options.download:
        folder = options.data_dir or DOWNLOAD_DIR
        with reading(dataset, folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder
    if options.data_dir is None:
        raise UsageError(
            f"dataset {dataset}: give --data-dir, the folder with {contents}{_or_download(dataset)}"
        )
    if not options.data_dir.is_dir():
        raise UsageError(f"dataset {dataset}: --data-dir {options.data_dir} is not a folder")
    return options.data_dir


def not_found(dataset: str, folder: Path, contents: str) -> UsageError:
    """The error for a folder that lacks what the dataset needs."""
    return UsageError(
        f"dataset {dataset}: no {contents} in {folder}; give its folder as --data-dir"
        f"{_or_download(dataset)}"
    )


def _or_download(dataset: str) -> str:
    return ", or --download" if dataset in DOWNLOADABLE else ""


@contextmanager
def reading(dataset: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises about ``path`` into one line.

    Everything: torchvision's and pillow's readers tell of a damaged file by a dozen types, from
    AssertionError to RuntimeError.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"dataset {dataset}: cannot read {path}: {one_line(error)}") from error


@contextmanager
def downloading(dataset: str, folder: Path) -> Iterator[None]:
    """Keep other processes of this machine from the same download, and fail in one line."""
    try:
        # Ten workers start at once. The first one downloads, the others then find the files.
        with (folder / ".leash-download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except Exception as error:
        raise UsageError(
            f"dataset {dataset}: the download to {folder} failed with {one_line(error)}; "
            "bring the files there yourself and give --data-dir"
        ) from error
