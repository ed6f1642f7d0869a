"""CIFAR-10 (Krizhevsky, 2009): batches as he published them, or image files by class.

`leash.ps.datafiles.cifar10` says where they are looked for. With ``--download`` torchvision fetches
what is not there.

The positions of image files run by file name first, then class (0000 of all ten classes, then
0001, …), so that the first N samples of the training split are of all classes.
"""

import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

import numpy as np
import torch
from torch import Tensor

from leash._log import logged
from leash.ps.datafiles.cifar10 import (
    ARCHIVE,
    BINARY,
    FOLDERS,
    PYTHON,
    CifarPlace,
    batch_paths,
    find_cifar10,
)
from leash.ps.errors import UsageError
from leash.worker.datasets.base import Dataset, DatasetOptions
from leash.worker.datasets.files import find_or_download, reading
from leash.worker.datasets.memory import (
    InMemoryDataset,
    PixelScale,
    StoredSamples,
    rows_by_position,
    training_samples,
)
from leash.worker.vision import import_torchvision

CLASSES: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)  # index = label
CIFAR10_SCALE: Final = PixelScale(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

SUFFIXES: Final = (".jpg", ".jpeg", ".png")
RECORD_NBYTES: Final = 1 + 3 * 32 * 32  # of an image in a binary batch

# Decoding runs at about 12,000 images a second. More images than this take long enough to say so.
SILENT_IMAGES: Final = 20_000

_say: Final = logged(lambda text: print(text, file=sys.stderr), __name__)


def load_cifar10(options: DatasetOptions) -> Dataset:
    """Loads images of 3×32×32 in 10 classes.

    Raises:
        UsageError: the files are absent, unreadable, or not CIFAR-10.
    """
    found = find_or_download(
        "cifar10", options, lambda given: find_cifar10(given, options.splits), _download
    )
    if found.kind == ARCHIVE:
        with _open_tar(found.path) as files:
            return _load_files(files, options)
    if found.kind == FOLDERS:
        return _load_files(_list_folder(found.path), options)
    read = _read_python if found.kind == PYTHON else _read_binary
    train = test = None
    if options.train:
        train = training_samples(*read(found.path, "train"), options, CIFAR10_SCALE)
    if options.test:
        test = StoredSamples(*read(found.path, "test"), CIFAR10_SCALE)
    return _dataset(train, test)


def _download(folder: Path) -> None:
    import_torchvision().datasets.CIFAR10(root=folder, download=True)


def _read_python(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    # These files are pickles. torchvision opens them only after their MD5 sums have proved that
    # they are Krizhevsky's.
    with reading("cifar10", folder):
        reader = import_torchvision().datasets.CIFAR10
        here = type("Here", (reader,), {"base_folder": folder.name})  # whatever its name
        read = here(root=folder.absolute().parent, train=split == "train")
    pixels = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.tensor(read.targets)


def _read_binary(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Reads batches of records: a byte for the label, then 3×32×32 bytes."""
    batches = []
    for path in batch_paths(CifarPlace(BINARY, folder), split):
        with reading("cifar10", path):
            records = np.fromfile(path, np.uint8).reshape(-1, RECORD_NBYTES)
            if not len(records):
                raise ValueError("has no image")
        if (wrong := int(records[:, 0].max(initial=0))) >= len(CLASSES):
            raise UsageError(f"dataset cifar10: {path}: expected labels from 0 to 9, got {wrong}")
        batches.append(records)
    table = torch.from_numpy(np.concatenate(batches))
    return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()


def _dataset(train: StoredSamples | None, test: StoredSamples | None) -> Dataset:
    return InMemoryDataset("cifar10", train, test, sample_shape=(3, 32, 32), classes=len(CLASSES))


@dataclass(frozen=True)
class CifarFiles:
    """Image files in a folder or an archive, named ``SPLIT/CLASS/FILE``.

    Attributes:
        where: the folder or archive, for errors.
        names: of all files in it, in the order in which they lie there.
        open: opens the file of a name.
    """

    where: Path
    names: list[PurePosixPath]
    open: Callable[[PurePosixPath], IO[bytes]]


@contextmanager
def _open_tar(path: Path) -> Iterator[CifarFiles]:
    with reading("cifar10", path), tarfile.open(path) as tar:
        # From SPLIT on: people also pack the folder around it.
        members = {
            PurePosixPath("/".join(member.name.split("/")[-3:])): member
            for member in tar
            if member.isfile()
        }

        def open_member(name: PurePosixPath) -> IO[bytes]:
            stream = tar.extractfile(members[name])
            assert stream is not None  # it is None for what is no file
            return stream

        yield CifarFiles(path, list(members), open_member)


def _list_folder(folder: Path) -> CifarFiles:
    with reading("cifar10", folder):
        names = [
            PurePosixPath(path.relative_to(folder).as_posix())
            for split in ("train", "test")
            for path in (folder / split).glob("*/*")
        ]
    return CifarFiles(folder, names, lambda name: (folder / name).open("rb"))


def _load_files(files: CifarFiles, options: DatasetOptions) -> Dataset:
    train = test = None
    if options.train:
        names = _split_names(files, "train")
        size = options.train_size(len(names))
        kept = options.kept(size)
        if kept is None:
            train = _decode_split(files, names[:size])
        else:
            part = _decode_split(files, [names[position] for position in kept])
            train = StoredSamples(part.x, part.y, CIFAR10_SCALE, rows_by_position(kept, size))
    if options.test:
        test = _decode_split(files, _split_names(files, "test"))
    return _dataset(train, test)


def _split_names(files: CifarFiles, split: str) -> list[PurePosixPath]:
    """Lists the images of a split; a name's place in the list is its position."""
    names = [
        name
        for name in files.names
        if len(name.parts) == 3
        and name.parts[0] == split
        and name.suffix.lower() in SUFFIXES
        and not name.name.startswith(".")  # macOS packs a ._NAME beside each file
    ]
    if not names:
        raise UsageError(f"dataset cifar10: no image {split}/CLASS/*.jpg in {files.where}")
    if unknown := {name.parts[1] for name in names} - set(CLASSES):
        raise UsageError(
            f"dataset cifar10: {files.where}: {min(unknown)!r} is not a class of CIFAR-10; "
            "for classes of your own, give --dataset imagefolder"
        )
    return sorted(names, key=lambda name: (name.parts[2], name.parts[1]))


def _decode_split(files: CifarFiles, names: list[PurePosixPath]) -> StoredSamples:
    # Each image goes straight into its place in one array: a list of them would have to be copied.
    pixels = np.empty((len(names), 3, 32, 32), np.uint8)
    row_of = {name: row for row, name in enumerate(names)}
    # In the archive's order: to go back in a compressed one is to read it from its beginning.
    for name in _announced([name for name in files.names if name in row_of], files.where):
        pixels[row_of[name]] = _decode(files, name)
    labels = [CLASSES.index(name.parts[1]) for name in names]
    return StoredSamples(
        torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64), CIFAR10_SCALE
    )


def _decode(
    files: CifarFiles, name: PurePosixPath
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decodes one image into an array (3, 32, 32)."""
    with reading("cifar10", files.where / name), files.open(name) as stream:
        from PIL import Image  # only who reads image files needs it

        image = Image.open(stream).convert("RGB")
        if image.size != (32, 32):
            width, height = image.size
            raise UsageError(
                f"dataset cifar10: {files.where / name}: expected 32×32 pixels, "
                f"got {width}×{height}"
            )
        return np.asarray(image).transpose(2, 0, 1)


def _announced(names: list[PurePosixPath], where: Path) -> Iterable[PurePosixPath]:
    """Gives the names again; if decoding takes more than a few seconds, stderr shows progress."""
    if len(names) <= SILENT_IMAGES:
        return names
    text = f"decoding {len(names):,} images of {where}"
    if not sys.stderr.isatty():
        _say(text)
        return names
    from rich.console import Console
    from rich.progress import track

    return track(names, text, console=Console(stderr=True), transient=True)
