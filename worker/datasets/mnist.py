"""MNIST (LeCun, Cortes, Burges), from its IDX files, compressed or not.

`leash.ps.datafiles.mnist` says where they are looked for. With ``--download`` torchvision fetches
what is not there.
"""

import gzip
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from leash.ps.datafiles.mnist import find_mnist
from leash.ps.errors import UsageError
from leash.worker.datasets.base import Dataset, DatasetOptions
from leash.worker.datasets.files import find_or_download, reading
from leash.worker.datasets.memory import (
    InMemoryDataset,
    PixelScale,
    StoredSamples,
    training_samples,
)
from leash.worker.vision import import_torchvision

IDX_BYTES: Final = b"\0\0\x08"  # an IDX file of bytes begins with these; its rank follows
MNIST_SCALE: Final = PixelScale(mean=(0.1307,), std=(0.3081,))


def load_mnist(options: DatasetOptions) -> Dataset:
    """Loads images of 1×28×28 in 10 classes; positions are those of the files.

    Raises:
        UsageError: the files are absent, unreadable, or not MNIST.
    """
    files = find_or_download(
        "mnist", options, lambda given: find_mnist(given, options.splits), _download
    )
    train = test = None
    if options.train:
        train = training_samples(*read_split(*files["train"]), options, MNIST_SCALE)
    if options.test:
        test = StoredSamples(*read_split(*files["test"]), MNIST_SCALE)
    return InMemoryDataset("mnist", train, test, sample_shape=(1, 28, 28), classes=10)


def _download(folder: Path) -> None:
    import_torchvision().datasets.MNIST(root=folder, download=True)


def read_split(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Reads one split.

    Args:
        images_path: its file of images.
        labels_path: its file of labels.

    Returns:
        Images (n, 1, 28, 28) of uint8, and labels (n,) of int64.

    Raises:
        UsageError: a file is damaged, or the two do not fit each other.
    """
    with reading("mnist", images_path):
        images = _read_idx(images_path, 3)
    with reading("mnist", labels_path):
        labels = _read_idx(labels_path, 1).long()
    _require_mnist(images_path, images, labels_path, labels)
    return images.unsqueeze(1), labels


def _read_idx(path: Path, rank: int) -> Tensor:
    """Reads a file in the IDX format, which is described at yann.lecun.com/exdb/mnist.

    torchvision's reader takes no compressed file, and its ``MNIST`` class wants all four files.

    Args:
        path: of the file; it is compressed if it ends in .gz.
        rank: how many dimensions its array has.

    Raises:
        ValueError: it is no such file, or has fewer or more bytes than it says.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head, content = file.read(4 + 4 * rank), bytearray(file.read())
    if head[:4] != IDX_BYTES + bytes([rank]) or len(head) < 4 + 4 * rank:
        raise ValueError(f"not an IDX file of bytes in {rank} dimensions")
    shape = np.frombuffer(head, ">u4", offset=4).tolist()
    if len(content) != np.prod(shape, dtype=np.int64):
        raise ValueError(f"has {len(content)} bytes where its header says {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape))


def _require_mnist(images_path: Path, images: Tensor, labels_path: Path, labels: Tensor) -> None:
    if images.shape[1:] != (28, 28):
        height, width = images.shape[1:]
        raise UsageError(
            f"dataset mnist: {images_path}: expected images of 28×28, got {height}×{width}"
        )
    if len(images) != len(labels):
        raise UsageError(
            f"dataset mnist: {images_path} has {len(images)} images, "
            f"but {labels_path} has {len(labels)} labels"
        )
    if labels.max() > 9:
        raise UsageError(
            f"dataset mnist: {labels_path}: expected labels from 0 to 9, got {int(labels.max())}"
        )
