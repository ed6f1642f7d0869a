"""MNIST (LeCun, Cortes, Burges), from its uncompressed IDX files::

    DATA_DIR/MNIST/raw/train-images-idx3-ubyte    60,000 images of 28×28 bytes
                      /train-labels-idx1-ubyte
                      /t10k-images-idx3-ubyte     10,000 images
                      /t10k-labels-idx1-ubyte

With ``--download`` torchvision fetches them first.
"""

from pathlib import Path
from typing import Final

from torch import Tensor

from leash.ps.errors import UsageError
from leash.worker.datasets.base import Dataset, DatasetOptions
from leash.worker.datasets.files import data_dir, downloading, not_found, reading
from leash.worker.datasets.memory import (
    InMemoryDataset,
    PixelScale,
    StoredSamples,
    training_samples,
)
from leash.worker.vision import import_torchvision

RAW_FOLDER: Final = Path("MNIST") / "raw"  # torchvision's layout
MNIST_SCALE: Final = PixelScale(mean=(0.1307,), std=(0.3081,))


def load_mnist(options: DatasetOptions) -> Dataset:
    """Loads images of 1×28×28 in 10 classes; positions are those of the files.

    Raises:
        UsageError: the files are absent, unreadable, or not MNIST.
    """
    folder = data_dir("mnist", options, str(RAW_FOLDER))
    if options.download:
        _download(folder)
    train = test = None
    if options.train:
        train = training_samples(*read_split(folder, "train"), options, MNIST_SCALE)
    if options.test:
        test = StoredSamples(*read_split(folder, "t10k"), MNIST_SCALE)
    return InMemoryDataset("mnist", train, test, sample_shape=(1, 28, 28), classes=10)


def _download(folder: Path) -> None:
    datasets = import_torchvision().datasets
    with downloading("mnist", folder):
        datasets.MNIST(root=folder, download=True)


def read_split(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """Reads one split.

    It uses torchvision's readers without its ``MNIST`` class: that wants all four files, and
    prefers an old ``processed/*.pt``, which it unpickles.

    Args:
        folder: holds MNIST/raw.
        prefix: "train" or "t10k".

    Returns:
        Images (n, 1, 28, 28) of uint8, and labels (n,) of int64.

    Raises:
        UsageError: a file is absent or damaged, or the two do not fit each other.
    """
    reader = import_torchvision().datasets.mnist
    images_path = _existing(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _existing(folder, f"{prefix}-labels-idx1-ubyte")
    with reading("mnist", images_path):
        images: Tensor = reader.read_image_file(str(images_path))
    with reading("mnist", labels_path):
        labels: Tensor = reader.read_label_file(str(labels_path))
    _require_mnist(images_path, images, labels_path, labels)
    return images.unsqueeze(1), labels


def _existing(folder: Path, name: str) -> Path:
    path = folder / RAW_FOLDER / name
    if not path.exists():
        raise not_found("mnist", folder, str(RAW_FOLDER / name))
    return path


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
