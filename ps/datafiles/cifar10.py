"""Finds CIFAR-10 (Krizhevsky, 2009) in any of the layouts that people have, in this order::

    DIR/cifar-10-batches-py/     six python batches, as torchvision has them
    DIR/cifar-10-batches-bin/    six binary batches
    DIR/cifar10-images.tar       train/CLASS/* and test/CLASS/*, image files; read in place
    DIR/train/CLASS/*            the same, unpacked
    DIR/test/CLASS/*

DIR may also be the folder of batches itself, or the archive. The archive may have another name that
begins with cifar, and may be compressed.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leash.ps.datafiles.places import Place, place_of

PYTHON: Final = "python"
BINARY: Final = "binary"
ARCHIVE: Final = "archive"
FOLDERS: Final = "folders"
BATCHES_DIR: Final = "cifar-10-batches-py"
BINARY_DIR: Final = "cifar-10-batches-bin"
TAR_NAME: Final = "cifar10-images.tar"
TAR_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CIFAR_CONTENTS: Final = f"{BATCHES_DIR}, {BINARY_DIR}, {TAR_NAME} or train/CLASS"
# Split ▸ the names of its batches, and kind ▸ what is behind these names.
BATCHES: Final = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
BATCH_SUFFIXES: Final = {PYTHON: "", BINARY: ".bin"}


@dataclass(frozen=True, slots=True)
class CifarPlace:
    """Where CIFAR-10 lies, and in which layout.

    Attributes:
        kind: PYTHON, BINARY, ARCHIVE or FOLDERS.
        path: the folder of batches, the archive, or the folder with train and test in it.
    """

    kind: str
    path: Path


def find_cifar10(given: Path | None, splits: Collection[str]) -> CifarPlace:
    """Finds the data set.

    Args:
        given: the folder, or the archive, as --data-dir says.
        splits: those that are wanted: "train", "test".

    Raises:
        UsageError: it is not there, or a file or a folder of it is missing; the text names it.
    """
    place = place_of("cifar10", given, CIFAR_CONTENTS, may_be_file=True)
    if (batches := _batches(place, splits)) is not None:
        return batches
    if (archive := _archive(place.path)) is not None:
        return CifarPlace(ARCHIVE, archive)
    return _folders(place, splits)


def batch_paths(found: CifarPlace, split: str) -> list[Path]:
    """The files of a split's batches, python or binary ones."""
    suffix = BATCH_SUFFIXES[found.kind]
    return [found.path / f"{name}{suffix}" for name in BATCHES[split]]


def _batches(place: Place, splits: Collection[str]) -> CifarPlace | None:
    for kind, below in ((PYTHON, BATCHES_DIR), (BINARY, BINARY_DIR)):
        # torchvision reads no split unless the files of both are there.
        wanted = BATCHES if kind == PYTHON else splits
        for folder in (place.path / below, place.path):
            found = CifarPlace(kind, folder)
            paths = [path for split in wanted for path in batch_paths(found, split)]
            if not os.path.isdir(place.path / below) and not any(map(os.path.isfile, paths)):
                continue
            for path in paths:
                if not os.path.isfile(path):
                    raise place.lacks(str(path.relative_to(place.path)))
            return found
    return None


def _archive(path: Path) -> Path | None:
    if os.path.isfile(path):
        return path
    named = [p for p in sorted(path.glob("cifar*")) if p.name.endswith(TAR_SUFFIXES)]
    # The archives of batches hold no image files; people leave them beside what they unpacked.
    images = [p for p in named if not p.name.startswith(("cifar-10-python", "cifar-10-binary"))]
    return path / TAR_NAME if (path / TAR_NAME) in images else next(iter(images), None)


def _folders(place: Place, splits: Collection[str]) -> CifarPlace:
    there = [split for split in ("train", "test") if os.path.isdir(place.path / split)]
    if not there:
        raise place.lacks(CIFAR_CONTENTS)
    for split in splits:
        if split not in there:
            raise place.lacks(f"{split}/CLASS")
    return CifarPlace(FOLDERS, place.path)
