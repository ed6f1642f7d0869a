"""Helps datasets that lie in files: finds their folder, and turns failures into one line."""

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
    """Finds the folder of ``--data-dir``; makes it, if need be, for ``--download``.

    Args:
        dataset: its name, for the error's text.
        options: what was asked for.
        contents: what the folder should hold, for the error's text.

    Returns:
        The folder.

    Raises:
        UsageError: it was not given, or is not a folder.
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
    """Makes the error for a folder that lacks what the dataset needs."""
    return UsageError(
        f"dataset {dataset}: no {contents} in {folder}; give its folder as --data-dir"
        f"{_or_download(dataset)}"
    )


def _or_download(dataset: str) -> str:
    return ", or --download" if dataset in DOWNLOADABLE else ""


@contextmanager
def reading(dataset: str, path: Path) -> Iterator[None]:
    """Turns whatever a reader raises about a file into one line.

    It catches everything: torchvision's and pillow's readers raise a dozen types for a damaged
    file, from AssertionError to RuntimeError.

    Args:
        dataset: its name, for the error's text.
        path: of the file.

    Raises:
        UsageError: the reader has failed.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"dataset {dataset}: cannot read {path}: {one_line(error)}") from error


@contextmanager
def downloading(dataset: str, folder: Path) -> Iterator[None]:
    """Lets one process of this machine download at a time, and turns failures into one line.

    Args:
        dataset: its name, for the error's text.
        folder: where the files go.

    Raises:
        UsageError: the download has failed.
    """
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
