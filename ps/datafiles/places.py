"""Where a data set is looked for, and the errors about that place."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leash.ps.errors import UsageError
from leash.ps.options.base import expand_home
from leash.ps.options.catalog import FOLDER_VARIABLES

DATA_DIR: Final = "--data-dir"
DOWNLOADABLE: Final = ("mnist", "cifar10")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder, or an archive, in which a data set is to be.

    Attributes:
        dataset: its name.
        path: the place; it exists.
        mend: what to give instead, for the text of errors.
    """

    dataset: str
    path: Path
    mend: str

    def lacks(self, contents: str) -> UsageError:
        """Makes the error for a place without something that the data set needs."""
        return UsageError(f"dataset {self.dataset}: no {contents} in {self.path}; give {self.mend}")


def place_of(
    dataset: str, given: Path | None, contents: str, *, option: str = DATA_DIR,
    may_be_file: bool = False,
) -> Place:  # fmt: skip
    """Finds out where a data set is to be: at the given place, or where the environment says.

    Args:
        dataset: its name.
        given: the option's value.
        contents: what the folder is to hold, for the error's text.
        option: that option.
        may_be_file: whether the place may be an archive instead.

    Raises:
        UsageError: neither says it, or there is no such folder.
    """
    variable = FOLDER_VARIABLES.get(dataset)
    told = os.environ.get(variable) if variable is not None else None
    download = ", or --download" if dataset in DOWNLOADABLE and option == DATA_DIR else ""
    if given is None and not told:
        setting = f", or set {variable} in the environment" if variable else ""
        raise UsageError(f"dataset {dataset}: give {option}, the folder with {contents}"
                         f"{setting}{download}")  # fmt: skip
    path = Path(expand_home(told or "")) if given is None else given
    if not os.path.isdir(path) and not (may_be_file and os.path.isfile(path)):
        said = f"{variable}={path} in the environment" if given is None else f"{option} {path}"
        raise UsageError(f"dataset {dataset}: {said} is not a folder; give the folder with "
                         f"{contents}{download}")  # fmt: skip
    return Place(dataset, path, f"its folder as {option}{download}")


def nothing_to_download(dataset: str) -> UsageError:
    """Makes the error for --download of a data set that nobody offers for it."""
    return UsageError(f"dataset {dataset}: nothing to --download; give --data-dir")
