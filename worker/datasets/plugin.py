"""A user's own dataset: ``module:function`` names a function that returns a pair (train, test).

Each is a map-style torch dataset of pairs (sample, label or target), or a pair of tensors (samples,
labels or targets) of equal length.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from leash.ps.errors import UsageError
from leash.worker import plugins
from leash.worker.datasets.base import Dataset, DatasetOptions
from leash.worker.datasets.mapstyle import MapStyle, MapStyleDataset
from leash.worker.datasets.memory import InMemoryDataset, StoredSamples, training_samples

TensorPair = tuple[Tensor, Tensor]
MAX_KEYS: Final = 8  # of a dict, shown in an error's text


def load_plugin(reference: str, options: DatasetOptions) -> Dataset:
    """Calls a user's function without arguments, and makes a dataset of what it returns.

    Its training split says which shape a sample has and how many classes there are: as many as
    its ``.classes``, else the largest label plus one; 0 where the targets are floating-point.

    Args:
        reference: ``module:function``.
        options: what was asked for.

    Returns:
        The dataset.

    Raises:
        UsageError: the function is absent or fails, or returns something else.
    """
    train, test = _require_pair(reference, plugins.call(reference, "dataset"))
    train_pair, test_pair = _as_tensors(train), _as_tensors(test)
    if train_pair is not None and test_pair is not None:
        return _in_memory(reference, train_pair, test_pair, options)
    return _sample_by_sample(
        reference,
        _require_map_style(reference, train),
        _require_map_style(reference, test),
        options,
    )


def _in_memory(
    reference: str, train: TensorPair, test: TensorPair, options: DatasetOptions
) -> Dataset:
    for x, y in (train, test):
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
            raise _unexpected(reference, f"tensors of shapes {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = train
    return InMemoryDataset(
        reference,
        training_samples(x, y, options) if options.train else None,
        StoredSamples(*test) if options.test else None,
        sample_shape=x.shape[1:],
        classes=0 if y.is_floating_point() else int(y.max()) + 1,
    )


def _sample_by_sample(
    reference: str, train: MapStyle, test: MapStyle, options: DatasetOptions
) -> Dataset:
    sample, target = _first(reference, train, "training")
    if options.test:
        _first(reference, test, "test")  # now, not only when the first epoch has been trained
    return MapStyleDataset(
        reference,
        train if options.train else None,
        test if options.test else None,
        sample_shape=sample.shape,
        classes=0 if _is_floating(target) else _count_classes(train),
        train_size=options.train_size(len(train)) if options.train else 0,
        loader_workers=options.loader_workers,
    )


def _as_tensors(split: Any) -> TensorPair | None:
    parts = split.tensors if isinstance(split, TensorDataset) else split
    if isinstance(parts, tuple | list) and len(parts) == 2:
        x, y = parts
        if isinstance(x, Tensor) and isinstance(y, Tensor):
            return x, y
    return None


def _require_pair(reference: str, returned: object) -> tuple[Any, Any]:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise _unexpected(reference, type(returned).__name__)
    train, test = returned
    return train, test


def _require_map_style(reference: str, split: Any) -> MapStyle:
    if (tensors := _as_tensors(split)) is not None:
        return TensorDataset(*tensors)
    if not (hasattr(split, "__len__") and hasattr(split, "__getitem__")) or len(split) == 0:
        raise _unexpected(reference, f"a split of type {type(split).__name__}")
    return split  # type: ignore[no-any-return]


def _first(reference: str, split: MapStyle, name: str) -> tuple[Tensor, Any]:
    """Takes the first sample of a split and its target, and checks what they are.

    Args:
        name: of the split, for the error's text.
    """
    try:
        pair = split[0]
    except Exception as error:
        came = f"{plugins.one_line(error)} for sample 0 of the {name} split"
        raise _unexpected(reference, came) from error
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise UsageError(
            f"dataset {reference}: each sample of the {name} split must be a pair (sample, "
            f"target), got {_told(pair)}; return these two, or wrap the data set in one that does"
        )
    sample, target = pair
    if not isinstance(sample, Tensor):
        raise UsageError(
            f"dataset {reference}: a sample must be a tensor, got {_told(sample)}{_mend_of(sample)}"
        )
    try:
        torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"dataset {reference}: a target must be a number or a tensor, got {_told(target)}"
        ) from error
    return sample, target


def _told(value: Any) -> str:
    """Says what a value is, in a few words."""
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, list(value)[:MAX_KEYS]))
        return f"a dict with the keys {keys}" if keys else "an empty dict"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _mend_of(sample: Any) -> str:
    if isinstance(sample, np.ndarray):
        return "; make it one with torch.from_numpy"
    if isinstance(sample, Mapping | tuple | list):
        return "; Leash trains models that take one tensor, so return that one"
    return "; for images, add torchvision's transforms.ToTensor()"


def _is_floating(target: Any) -> bool:
    return torch.as_tensor(target).is_floating_point()


def _count_classes(train: MapStyle) -> int:
    if (classes := getattr(train, "classes", None)) is not None:
        return len(classes)
    labels = getattr(train, "targets", None)
    if labels is None:
        labels = [train[position][1] for position in range(len(train))]  # reads every sample
    return int(torch.as_tensor(labels).max()) + 1


def _unexpected(reference: str, came: str) -> UsageError:
    return UsageError(
        f"dataset {reference}: expected a pair (train, test) of map-style datasets or of pairs "
        f"of tensors (x, y), got {came}"
    )
