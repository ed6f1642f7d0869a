"""Images in folders that are named after their classes::

    DATA_DIR/train/CLASS/*.jpg
            /test/CLASS/*.jpg   (or val/)

Positions run round-robin over the classes (the first image of each, the second of each, …), so that
the first N samples of the training split are of all classes.
"""

from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from leash.ps.datafiles.imagefolder import find_imagefolder
from leash.ps.datafiles.places import nothing_to_download
from leash.ps.errors import UsageError
from leash.worker.datasets.base import Dataset, DatasetOptions
from leash.worker.datasets.files import reading
from leash.worker.datasets.mapstyle import MapStyleDataset
from leash.worker.vision import import_torchvision

# Mean and deviation of ImageNet's channels, as is usual for photographs.
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)


def load_imagefolder(options: DatasetOptions) -> Dataset:
    """Loads images of 3×S×S with S = ``image_size``.

    The shorter side of each is resized to S, then the middle is cut out.

    Raises:
        UsageError: a folder is absent or unreadable, or train and test have different classes.
    """
    if options.download:
        raise nothing_to_download("imagefolder")
    folders = find_imagefolder(options.data_dir, options.splits or ("train",))
    train = _listing(folders["train"], options.image_size) if options.train else None
    test = _listing(folders["test"], options.image_size) if options.test else None
    if train and test and train.classes != test.classes:
        odd = min(set(train.classes) ^ set(test.classes))
        raise UsageError(
            f"dataset imagefolder: {options.data_dir}: class {odd!r} is in only one of train and "
            "test"
        )
    classes = (train or test or _listing(folders["train"], options.image_size)).classes
    return MapStyleDataset(
        "imagefolder",
        train,
        test,
        sample_shape=(3, options.image_size, options.image_size),
        classes=len(classes),
        train_size=options.train_size(len(train)) if train else 0,
        loader_workers=options.loader_workers,
    )


class ImageFiles:
    """A map-style dataset of image files: (3×S×S float32, label).

    Not torchvision's ``ImageFolder`` itself: a spawned loader process would import torchvision to
    receive it, and that import may fail (`leash.worker.vision`). This one travels as paths.
    """

    def __init__(self, files: list[tuple[str, int]], classes: list[str], image_size: int) -> None:
        self.classes = classes
        self._files = files
        self._image_size = image_size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        path, label = self._files[position]
        load, transform = self._pipeline
        with reading("imagefolder", Path(path)):
            return transform(load(path)), label

    @cached_property
    def _pipeline(self) -> tuple[Any, Any]:
        torchvision = import_torchvision()
        transforms = torchvision.transforms
        transform = transforms.Compose(
            [
                transforms.Resize(self._image_size, antialias=True),
                transforms.CenterCrop(self._image_size),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )
        return torchvision.datasets.folder.default_loader, transform

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_pipeline", None)  # the process that gets this builds torchvision's part anew
        return state


def _listing(folder: Path, image_size: int) -> ImageFiles:
    with reading("imagefolder", folder):
        listed = import_torchvision().datasets.ImageFolder(folder)
    return ImageFiles(_round_robin(listed.samples), listed.classes, image_size)


def _round_robin(files: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Sorted by place within the class, then class; ``files`` are sorted by class, then name."""
    counters = {label: count() for _, label in files}
    places = [(next(counters[label]), label) for _, label in files]
    return [file for _, file in sorted(zip(places, files, strict=True))]
