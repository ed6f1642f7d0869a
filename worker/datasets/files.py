"""Helps datasets that lie in files: fetches them, and turns failures into one line."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from leash.ps.errors import UsageError
from leash.worker.datasets.base import DatasetOptions
from leash.worker.plugins import one_line

DOWNLOAD_DIR: Final = Path("data")  # below the working directory, where --data-dir is not given


Found = TypeVar("Found")


def find_or_download(
    dataset: str, options: DatasetOptions, find: Callable[[Path | None], Found],
    download: Callable[[Path], Any],
) -> Found:  # fmt: skip
    """Finds a data set's files; with ``--download``, fetches them first if they are not there.

    Args:
        dataset: its name, for the error's text.
        options: what was asked for.
        find: from ``--data-dir`` to what is there; raises UsageError if that is not all.
        download: fetches the files into a folder.

    Raises:
        UsageError: they are missing, and were not to be fetched or could not be.
    """
    if not options.download:
        return find(options.data_dir)
    with suppress(UsageError):
        return find(options.data_dir)
    folder = options.data_dir or DOWNLOAD_DIR
    with reading(dataset, folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _downloading(dataset, folder):
        download(folder)
    return find(folder)


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
def _downloading(dataset: str, folder: Path) -> Iterator[None]:
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
