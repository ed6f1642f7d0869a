"""Finds MNIST (LeCun, Cortes, Burges) in any of the layouts that people have::

    DIR/MNIST/raw/train-images-idx3-ubyte     60,000 images of 28×28 bytes, as torchvision has them
                  train-labels-idx1-ubyte
                  t10k-images-idx3-ubyte      10,000 images
                  t10k-labels-idx1-ubyte
    DIR/raw/…                                 the same; DIR is torchvision's own folder of MNIST
    DIR/…                                     the four files alone

Each may be compressed, with .gz behind its name, and may be named as in train-images.idx3-ubyte.
DIR is what an option says, or else the environment variable MNIST.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from leash.ps.datafiles.places import DATA_DIR, Place, place_of

MNIST_CONTENTS: Final = "MNIST/raw or its four files"
SUBFOLDERS: Final = (Path("MNIST", "raw"), Path("raw"), Path())
PREFIXES: Final = {"train": "train", "test": "t10k"}  # split ▸ how the names of its files begin
FILE_KINDS: Final = ("images-idx3-ubyte", "labels-idx1-ubyte")


def find_mnist(
    given: Path | None, splits: Iterable[str], *, option: str = DATA_DIR
) -> dict[str, tuple[Path, Path]]:
    """Finds the files of these splits.

    Args:
        given: the folder, as an option says; None for the environment's.
        splits: those that are wanted: "train", "test".
        option: that option.

    Returns:
        Split ▸ its file of images, and its file of labels.

    Raises:
        UsageError: a file is missing; the text names it.
    """
    place = place_of("mnist", given, MNIST_CONTENTS, option=option)
    names = {split: [f"{PREFIXES[split]}-{kind}" for kind in FILE_KINDS] for split in splits}
    return {
        split: (_find(place, images), _find(place, labels))
        for split, (images, labels) in names.items()
    }


def _find(place: Place, name: str) -> Path:
    paths = list(_paths(place.path, name))
    # A folder of that name comes last: whoever reads it says that it is none of these files.
    for path in (*filter(os.path.isfile, paths), *filter(os.path.exists, paths)):
        return path
    raise place.lacks(f"{SUBFOLDERS[0] / name}, and no {name} by itself,")


def _paths(folder: Path, name: str) -> Iterator[Path]:
    """Gives all paths that this file may have."""
    for below in SUBFOLDERS:
        for spelled in (name, name.replace("-idx", ".idx")):
            yield folder / below / spelled
            yield folder / below / f"{spelled}.gz"
