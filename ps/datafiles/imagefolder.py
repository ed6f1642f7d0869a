"""Finds the folders of a person's own images: train/CLASS/*, and test/CLASS/* or val/CLASS/*."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from leash.ps.datafiles.places import place_of

# Split ▸ the names that its folder may have.
NAMES: Final = {"train": ("train",), "test": ("test", "val")}


def find_imagefolder(given: Path | None, splits: Iterable[str]) -> dict[str, Path]:
    """Finds the folders of these splits.

    Args:
        given: the folder that holds them, as --data-dir says.
        splits: those that are wanted: "train", "test".

    Raises:
        UsageError: one of them is missing; the text names it.
    """
    place = place_of("imagefolder", given, "train/CLASS/*")
    found = {}
    for split in splits:
        folders = [place.path / name for name in NAMES[split]]
        folders = list(filter(os.path.isdir, folders))
        if not folders:
            raise place.lacks(f"{split}/CLASS/*")
        found[split] = folders[0]
    return found
