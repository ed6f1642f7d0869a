"""Checks that a run's data set is there, before anything is started."""

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from leash.ps.datafiles.cifar10 import find_cifar10
from leash.ps.datafiles.imagefolder import find_imagefolder
from leash.ps.datafiles.mnist import find_mnist
from leash.ps.datafiles.places import DOWNLOADABLE, nothing_to_download
from leash.ps.errors import UsageError
from leash.ps.options.catalog import choose_task
from leash.ps.options.task import TaskGroup

# The data sets that lie in files.
FINDERS: Final[dict[str, Callable[[Path | None, Collection[str]], Any]]] = {
    "mnist": find_mnist,
    "cifar10": find_cifar10,
    "imagefolder": find_imagefolder,
}


def require_data(options: TaskGroup, splits: Collection[str] = ("train", "test")) -> None:
    """Refuses a task whose data set is not where the options, or the environment, say.

    It opens no file: what a file holds is seen when somebody reads it. What is to be fetched may be
    missing.

    Args:
        options: of model and data.
        splits: those that are wanted here.

    Raises:
        UsageError: a file or a folder is missing; the text names it.
    """
    _, dataset = choose_task(options.model, options.dataset)
    if dataset is None or dataset not in FINDERS:
        return
    if options.download and dataset not in DOWNLOADABLE:
        raise nothing_to_download(dataset)
    given = Path(options.data_dir) if options.data_dir is not None else None
    try:
        FINDERS[dataset](given, splits)
    except UsageError:
        # What is fetched goes to this folder, which need not be there yet.
        if not options.download or (given is not None and os.path.isfile(given)):
            raise
