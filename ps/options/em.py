"""The options of `leash em`, which fits mixtures to MNIST by EM, alone or through a server."""

import os
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from leash.ps.errors import UsageError
from leash.ps.options.addresses import check_rank, check_server_address
from leash.ps.options.base import (
    DEFAULT_SEED,
    Options,
    check_not_negative,
    check_positive,
    flag,
    option,
    parse_counts,
)
from leash.ps.options.catalog import FOLDER_VARIABLES
from leash.ps.options.worker import KEY_HELP, KEYS_HELP

PIXELS: Final = 28 * 28
DEFAULT_KS: Final = "1,2,3,4,5,6,7,8,9,10,15,20"


@dataclass(frozen=True, kw_only=True)
class MixtureGroup(Options):
    """The options of the mixtures and of their fitting."""

    title: ClassVar[str] = "mixtures, one for each digit"

    path: str | None = option(
        None, "the folder with MNIST/raw or its four files; default: what the environment variable "
        "MNIST says", "--data-dir",
        metavar="DIR", is_path=True,
    )  # fmt: skip
    model: Literal["gmm", "bmm"] = option(
        "gmm", "Gaussians on principal components, or Bernoullis on pixels > 0.5"
    )
    covariance: Literal["full", "diag"] = option("full", "gmm: of each component")
    k: str = option(DEFAULT_KS, "components of each mixture; several are fitted in turn",
                    metavar="K", several=True)  # fmt: skip
    pca: int = option(40, "gmm: principal components that a sample is made of", metavar="D")
    reg_covar: float = option(
        0.04, "gmm: added to the diagonals of the covariances; pixels go from 0 to 1"
    )
    tol: float = option(1e-3, "EM ends when an image's mean log-likelihood changes by less")
    max_iter: int = option(200, "EM ends after so many iterations", metavar="N")
    n_init: int = option(1, "starts, of which the likeliest counts", metavar="N")
    seed: int = option(DEFAULT_SEED, "of the starts, and of the order of samples with --online")
    len_train_data: int | None = option(None, "use only the first N training images", metavar="N")
    threads: int = option(1, "threads that one process computes with", metavar="N")

    def check(self) -> None:
        super().check()
        if self.path is None and not os.environ.get(FOLDER_VARIABLES["mnist"]):
            raise UsageError("--path: give the folder with MNIST/raw or its four files, or set "
                             "MNIST in the environment to it")  # fmt: skip
        parse_counts("--k", self.k)
        check_positive(self, "max_iter", "n_init", "len_train_data", "threads")
        check_not_negative(self, "reg_covar", "tol", "seed")
        if not 1 <= self.pca <= PIXELS:
            raise UsageError(f"--pca {self.pca}: give a number from 1 to {PIXELS}, the pixels")
        if self.model == "bmm" and self.covariance != "full":
            raise UsageError("--covariance: Bernoullis have none; leave it out, or give "
                             "--model gmm")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EmServerGroup(Options):
    """The options of EM through a server."""

    title: ClassVar[str] = "through a server"

    workers: int | None = option(
        None, "start a server and so many workers here; each holds a share of the images",
        metavar="N",
    )  # fmt: skip
    keys: str | None = option(None, f"with --workers: {KEYS_HELP}", metavar="DIR", is_path=True)
    online: bool = option(
        False, "stepwise EM on mini-batches under ssp (Cappé and Moulines 2009), for one --k"
    )
    bound: int = option(3, "online: steps a worker may be ahead of the slowest",
                        "--staleness", "--stale-threshold", metavar="STEPS")  # fmt: skip
    passes: int = option(10, "online: passes over the images", metavar="N")
    batch_size: int = option(200, "online: images of each digit in a worker's step", metavar="N")
    server: str | None = option(
        None, "take part as a worker of a server that was started elsewhere",
        metavar="tcp://HOST:PORT",
    )  # fmt: skip
    rank: int = option(1, "with --server: this worker's number, from 1", metavar="N")
    key: str | None = option(None, f"with --server: {KEY_HELP}", metavar="FILE", is_path=True)
    wait_s: float = option(30.0, "with --server: wait so long for it to answer", metavar="SECONDS")

    def check(self) -> None:
        super().check()
        check_positive(self, "workers", "bound", "passes", "batch_size", "wait_s")
        check_rank(self.rank)
        if self.server is not None:
            check_server_address(self.server)
            if self.workers is not None:
                raise UsageError("--workers: the server says how many there are; leave it out "
                                 "with --server")  # fmt: skip
        elif self.key is not None:
            raise UsageError("--key: is for a worker of --server; with --workers give --keys DIR")
        if self.keys is not None and self.workers is None:
            raise UsageError("--keys: is for the server that --workers N starts; a worker of "
                             "--server takes --key FILE")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EmOutputGroup(Options):
    """The options of the results."""

    title: ClassVar[str] = "what to leave"

    run_dir: str | None = option(
        None, "results, mixtures and pictures go here; default: runs/DATE-TIME-em", "--out",
        "--save-path", metavar="DIR", is_path=True,
    )  # fmt: skip
    pictures: bool = option(True, "draw the accuracy over k, and the means")


@dataclass(frozen=True, kw_only=True)
class EmOptions(MixtureGroup, EmServerGroup, EmOutputGroup):
    """Fit a mixture to each of MNIST's digits by EM, and tell the digits apart with them."""

    def check(self) -> None:
        super().check()
        if not self.online:
            return
        if self.workers is None and self.server is None:
            raise UsageError("--online: goes through a server; give --workers N too (1 will do)")
        if len(self.ks) > 1:
            raise UsageError(f"--online: takes one --k, got {self.k}")
        if self.n_init > 1:
            raise UsageError(f"{flag('n_init')} {self.n_init}: --online has one start")

    @property
    def ks(self) -> list[int]:
        """How many components, in the order in which they are fitted."""
        return parse_counts("--k", self.k)
