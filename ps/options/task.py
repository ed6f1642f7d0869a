"""The options of what is trained: model, data, and how long a second of an experiment takes."""

from dataclasses import dataclass
from typing import ClassVar, Final

from leash.ps.errors import UsageError
from leash.ps.options.base import (
    DEFAULT_SEED,
    Options,
    check_not_negative,
    check_positive,
    flag,
    option,
)
from leash.ps.options.catalog import choose_task
from leash.ps.wire.messages import EPOCH_MAX

REFERENCE_MAX: Final = 512  # letters of module:function; it travels to every worker


@dataclass(frozen=True, kw_only=True)
class TaskGroup(Options):
    """The options of model and data."""

    title: ClassVar[str] = "model and data"

    model: str | None = option(
        None, "a name such as mnist_cnn, or module:function that returns a torch module",
    )  # fmt: skip
    dataset: str | None = option(
        None,
        "digits, mnist, cifar10, imagefolder, synthetic, or module:function that returns a pair "
        "of torch data sets; default: the one that the model is known for",
    )
    data_dir: str | None = option(
        None, "folder of the data set; default for mnist: what the environment variable MNIST says",
        metavar="DIR", is_path=True,
    )  # fmt: skip
    download: bool = option(False, "fetch the data set when it is not there")
    len_train_data: int | None = option(None, "use only the first N training samples", metavar="N")
    test_batch_size: int = option(1000, "batch size of evaluations", "--test-bsz", metavar="N")
    image_size: int = option(64, "imagefolder: side of the square images", metavar="PIXELS")
    loader_workers: int = option(2, "imagefolder: processes that read images", metavar="N")
    seed: int | None = option(
        None,
        f"of initial values, data order and dropout; default: the server's, or {DEFAULT_SEED}",
    )
    epochs: int | None = option(
        None, "passes over the training data; default: the server's, or 1", metavar="N"
    )

    def check(self) -> None:
        super().check()
        for name in ("model", "dataset"):
            reference = getattr(self, name)
            if reference is not None and len(reference) > REFERENCE_MAX:
                raise UsageError(f"{flag(name)} {reference[:40]}…: give at most {REFERENCE_MAX} "
                                 "letters")  # fmt: skip
        choose_task(self.model, self.dataset)
        check_positive(self, "len_train_data", "test_batch_size", "image_size", "epochs")
        check_not_negative(self, "loader_workers", "seed")
        if self.epochs is not None and self.epochs > EPOCH_MAX:
            raise UsageError(f"--epochs {self.epochs}: give at most {EPOCH_MAX}")

    @property
    def chosen_seed(self) -> int:
        """The seed of a run that is started with these options."""
        return DEFAULT_SEED if self.seed is None else self.seed


@dataclass(frozen=True, kw_only=True)
class TimeScaleGroup(Options):
    """The option that plays an experiment with slow workers faster or slower."""

    title: ClassVar[str] = "experiments"

    time_scale: float = option(
        1.0,
        "how long a second of the experiment takes: 0.1 shortens the delays to a tenth, and takes "
        "off them what computing takes too long, so that all proportions are kept",
        metavar="FACTOR",
    )

    def check(self) -> None:
        super().check()
        check_positive(self, "time_scale")
