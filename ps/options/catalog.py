"""The names of models and data sets, and which model goes with which data set.

Their code is elsewhere, so a launcher or a server without PyTorch can refuse a wrong name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from leash.ps.errors import UsageError
from leash.ps.words import did_you_mean


class Named(Protocol):
    """An entry of a table of choices, which has one name and may have others."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that comes with Leash."""

    name: str
    dataset: str  # the data set that people train it on
    aliases: tuple[str, ...]
    about: str


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """A data set that comes with Leash."""

    name: str
    model: str  # a good model to begin with
    aliases: tuple[str, ...]
    about: str


MODELS: Final = {
    known.name: known
    for known in (
        KnownModel("mnist_cnn", "mnist", ("MnistCNN",),
                   "PyTorch's MNIST example, 22 k parameters"),
        KnownModel("lenet", "mnist", ("LeNet", "LeNet5", "LeNetForMNIST"),
                   "LeNet-5, 62 k parameters on MNIST"),
        KnownModel("alexnet_cifar", "cifar10",
                   ("AlexNet", "AlexNetForCIFAR", "AlexNetCifar10", "AlexNetOnCifar10"),
                   "AlexNet for 32×32 images, 23 M parameters"),
        KnownModel("resnet18", "cifar10", ("ResNet18OnCifar10", "ResNetOnCifar10", "ResNetCifar10"),
                   "ResNet-18, with the CIFAR stem up to 64 pixels, 11 M parameters"),
        KnownModel("linear", "mnist", ("LROnMnist", "LogisticRegression"),
                   "logistic regression on the flattened sample"),
    )
}  # fmt: skip

DATASETS: Final = {
    known.name: known
    for known in (
        KnownDataset("digits", "linear", (), "1,797 digits of 8×8 pixels; needs no files"),
        KnownDataset("mnist", "mnist_cnn", (), "70,000 digits of 28×28 pixels"),
        KnownDataset("cifar10", "alexnet_cifar", ("cifar",), "60,000 photographs of 32×32 pixels"),
        KnownDataset("imagefolder", "resnet18", (), "your own: train/CLASS/*, test/CLASS/*"),
        KnownDataset("synthetic", "linear", (), "random images for benchmarks"),
    )
}

# Data set ▸ the environment variable that names its folder, where no option does.
FOLDER_VARIABLES: Final = {"mnist": "MNIST"}

Choice = TypeVar("Choice", bound=Named)


def choose(name: str, table: Mapping[str, Choice], kind: str) -> Choice:
    """Finds the entry of ``table`` with this name or alias; case, ``_`` and ``-`` do not matter.

    ``kind`` says what is chosen ("model", "dataset") in the error's text.

    Raises:
        UsageError: no such entry; the text gives the nearest name and all known ones.
    """
    by_spelling = {
        _plain(spelling): choice
        for choice in table.values()
        for spelling in (choice.name, *choice.aliases)
    }
    if (choice := by_spelling.get(_plain(name))) is not None:
        return choice
    hint = did_you_mean(_plain(name), {spelling: c.name for spelling, c in by_spelling.items()})
    raise UsageError(
        f"unknown {kind} {name!r}: {hint}known are {', '.join(table)}, "
        "and your own as module:function"
    )


def is_reference(name: str) -> bool:
    """Whether ``name`` is written as ``module:function``, a user's own model or data."""
    return ":" in name


def choose_task(model: str | None, dataset: str | None) -> tuple[str | None, str | None]:
    """Completes the names of model and data set: the one that is not given follows from the other.

    Both stay None where neither is given: a server need not know what its workers train.

    Raises:
        UsageError: a name is unknown, or the other one does not follow from it.
    """
    if model is not None and not is_reference(model):
        known_model = choose(model, MODELS, "model")
        model, dataset = known_model.name, dataset or known_model.dataset
    if dataset is not None and not is_reference(dataset):
        known_dataset = choose(dataset, DATASETS, "dataset")
        model, dataset = model or known_dataset.model, known_dataset.name
    if (model is None) != (dataset is None):
        given, missing = ("model", "dataset") if model else ("dataset", "model")
        raise UsageError(
            f"--{given} {model or dataset}: give --{missing} too, a name or module:function"
        )
    return model, dataset


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")
