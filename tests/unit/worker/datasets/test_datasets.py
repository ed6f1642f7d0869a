"""What holds for every dataset, and the ones that need no files."""

import os
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from leash.ps.errors import UsageError
from leash.ps.options.catalog import DATASETS
from leash.worker.datasets import Dataset, load_dataset, shares
from leash.worker.datasets import digits as digits_module
from leash.worker.datasets.memory import PixelScale


def joined(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.fixture(params=["digits", "synthetic", "map_style", "tensors"])
def dataset(request: pytest.FixtureRequest, user_module: types.ModuleType) -> Dataset:
    """One body of tests for every dataset that needs no files."""
    x, y = torch.randn(90, 1, 2, 2), torch.arange(90) % 3
    pair = ((x[:70], y[:70]), (x[70:], y[70:]))
    user_module.tensors = lambda: pair  # type: ignore[attr-defined]
    user_module.map_style = lambda: [  # type: ignore[attr-defined]
        list(zip(*split, strict=True)) for split in pair
    ]
    name = request.param
    return load_dataset(name if name in DATASETS else f"{user_module.__name__}:{name}")


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("leash_test_data")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_batches_follow_the_positions_and_the_last_may_be_smaller(dataset: Dataset) -> None:
    positions = np.array([5, 3, 3, 60, 0])
    batches = list(dataset.train_batches(positions, batch_size=3))
    assert [len(y) for _, y in batches] == [3, 2]
    x, y = joined(iter(batches))
    assert x.shape == (5, *dataset.sample_shape)
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    for row, position in enumerate(positions):
        (alone_x, alone_y), *rest = dataset.train_batches(np.array([position]), batch_size=9)
        assert not rest
        assert torch.equal(alone_x[0], x[row])
        assert alone_y[0] == y[row]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_no_batch_is_a_single_sample_unless_all_are(dataset: Dataset, batch_size: int) -> None:
    for left_over in range(batch_size):
        positions = np.arange(3 * batch_size + left_over)
        sizes = [len(y) for _, y in dataset.train_batches(positions, batch_size)]
        expected = [batch_size] * 3 + [left_over] * (left_over > 0)
        if left_over == 1 and batch_size > 1:
            expected = [batch_size] * 2 + [batch_size + 1]
        assert sizes == expected


def test_the_test_split_comes_whole_and_in_one_order(dataset: Dataset) -> None:
    by_7, by_64 = (joined(dataset.test_batches(batch_size)) for batch_size in (7, 64))
    assert len(by_7[1]) == dataset.test_size > 0
    assert all(torch.equal(a, b) for a, b in zip(by_7, by_64, strict=True))


@pytest.mark.parametrize("position", [-1, 10**6])
def test_a_position_outside_the_split_is_an_index_error(dataset: Dataset, position: int) -> None:
    with pytest.raises(IndexError):
        list(dataset.train_batches(np.array([0, position]), batch_size=1))


def test_no_positions_give_no_batches(dataset: Dataset) -> None:
    assert list(dataset.train_batches(np.array([], np.int64), batch_size=4)) == []


def test_read_only_positions_are_taken_without_a_warning(dataset: Dataset) -> None:
    positions = np.arange(4)
    positions.setflags(write=False)
    assert len(list(dataset.train_batches(positions, batch_size=2))) == 2


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_split_that_was_not_asked_for_is_empty(name: str) -> None:
    worker = load_dataset(name, test=False)
    evaluator = load_dataset(name, train=False)
    assert worker.test_size == evaluator.train_size == 0
    assert list(worker.test_batches(10)) == []
    whole = load_dataset(name)
    assert torch.equal(joined(evaluator.test_batches(99))[0], joined(whole.test_batches(99))[0])


def test_kept_positions_still_mean_places_in_the_whole_split() -> None:
    whole = load_dataset("digits")
    part = load_dataset("digits", keep=lambda n: shares(n, [1, 1], seed=1)[0])
    mine, others = shares(whole.train_size, [1, 1], seed=1)
    assert part.train_size == whole.train_size
    expected, got = (joined(data.train_batches(mine, 50)) for data in (whole, part))
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    with pytest.raises(IndexError, match=f"position {others[0]} is not among those kept"):
        list(part.train_batches(others[:1], 1))


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_a_limit_leaves_the_first_samples(name: str) -> None:
    limited = load_dataset(name, limit=20)
    assert limited.train_size == 20
    first = np.arange(20)
    got, expected = (joined(d.train_batches(first, 20)) for d in (limited, load_dataset(name)))
    assert torch.equal(got[0], expected[0])
    with pytest.raises(IndexError):
        list(limited.train_batches(np.array([20]), 1))
    assert load_dataset(name, limit=10**9).train_size == load_dataset(name).train_size


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ({"limit": 0}, "--len-train-data"),
        ({"image_size": 0}, "--image-size"),
        ({"loader_workers": -1}, "--loader-workers"),
        ({"synthetic_shape": (3, 0)}, "--synthetic-shape"),
    ],
)
def test_a_wrong_number_names_its_flag(argument: dict[str, int], flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag}: expected"):
        load_dataset("synthetic", **argument)  # type: ignore[arg-type]


def test_an_unknown_dataset_brings_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean cifar10\?"):
        load_dataset("cifar-100")


def test_a_pixel_scale_gives_what_torchvisions_transforms_give() -> None:
    from leash.worker.vision import import_torchvision

    transforms = import_torchvision().transforms
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    pixels = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = torch.stack([transform(image.permute(1, 2, 0).numpy()) for image in pixels])
    assert torch.equal(PixelScale(mean, std)(pixels), expected)


# digits


def test_digits_read_from_the_file_are_those_that_scikit_learn_reads() -> None:
    pixels, labels = digits_module._read()
    expected_pixels, expected_labels = load_digits(return_X_y=True)
    assert np.array_equal(pixels, expected_pixels)
    assert np.array_equal(labels, expected_labels)


def test_digits_come_from_scikit_learn_where_its_file_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = digits_module._read()
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: False)
    assert all(np.array_equal(a, b) for a, b in zip(digits_module._read(), expected, strict=True))


def test_digits_are_split_four_to_one_within_every_class() -> None:
    data = load_dataset("digits")
    _, train = joined(data.train_batches(np.arange(data.train_size), 100))
    _, test = joined(data.test_batches(100))
    whole = np.bincount(load_digits().target)
    assert torch.equal(train.bincount() + test.bincount(), torch.from_numpy(whole))
    assert test.bincount().tolist() == [round(0.2 * count) for count in whole]


def test_digits_have_zero_mean_and_unit_deviation() -> None:
    data = load_dataset("digits")
    x, _ = joined(data.train_batches(np.arange(data.train_size), 100))
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std()) == pytest.approx(1, abs=1e-4)


# synthetic


def test_synthetic_samples_are_a_function_of_the_seed() -> None:
    first, again, other = (
        next(load_dataset("synthetic", seed=seed).train_batches(np.arange(5), 5))[0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_synthetic_samples_have_the_shape_and_classes_asked_for() -> None:
    data = load_dataset(
        "synthetic", synthetic_shape=(1, 6, 5), synthetic_classes=3, synthetic_size=30
    )
    x, y = joined(data.train_batches(np.arange(30), 7))
    assert x.shape == (30, 1, 6, 5)
    assert y.bincount().tolist() == [10, 10, 10]
    assert (data.train_size, data.test_size, data.classes) == (30, 6, 3)


def test_the_nearest_class_mean_separates_synthetic_test_samples() -> None:
    data = load_dataset("synthetic")
    x, y = joined(data.train_batches(np.arange(2000), 500))
    means = torch.stack([x[y == label].mean(0).flatten() for label in range(10)])
    test_x, test_y = joined(data.test_batches(500))
    nearest = torch.cdist(test_x.flatten(1), means).argmin(1)
    assert float((nearest == test_y).float().mean()) > 0.99


# module:function


class Points:
    """Map-style, with labels 0, 1, 2, 0, …"""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= 6:
            raise IndexError(index)
        return torch.full((2,), float(index)), index % 3


def named_points(names: list[str]) -> Points:
    points = Points()
    points.classes = names  # type: ignore[attr-defined]
    return points


@pytest.mark.parametrize(
    ("returned", "sample_shape", "classes"),
    [
        (lambda: (Points(), Points()), (2,), 3),
        (lambda: (named_points(["a", "b", "c", "d"]), Points()), (2,), 4),
        (lambda: ((torch.zeros(4, 3), torch.tensor([0, 4, 1, 0])),) * 2, (3,), 5),
        (lambda: (TensorDataset(torch.zeros(4, 3), torch.zeros(4, 1)),) * 2, (3,), 0),
        (lambda: ([(torch.zeros(3), 0.5)], [(torch.zeros(3), 0.5)]), (3,), 0),
        (lambda: ((torch.zeros(4, 2), torch.arange(4)), Points()), (2,), 4),
    ],
    ids=["map-style", "with .classes", "tensors", "regression", "float targets", "mixed"],
)
def test_a_users_dataset_tells_its_shape_and_classes(
    user_module: types.ModuleType,
    returned: Callable[[], object],
    sample_shape: tuple[int, ...],
    classes: int,
) -> None:
    user_module.load = returned  # type: ignore[attr-defined]
    data = load_dataset("leash_test_data:load")
    assert data.sample_shape == sample_shape
    assert data.classes == classes
    x, y = joined(data.train_batches(np.arange(data.train_size), 2))
    assert len(x) == len(y) == data.train_size
    assert len(joined(data.test_batches(2))[0]) == data.test_size


@pytest.mark.parametrize(
    "returned",
    [
        None,
        (Points(),),
        (Points(), None),
        (Points(), []),
        ((torch.zeros(3, 2), torch.zeros(4)), (torch.zeros(3, 2), torch.zeros(3))),
        ((torch.zeros(0, 2), torch.zeros(0)), (torch.zeros(3, 2), torch.zeros(3))),
    ],
    ids=["None", "one", "no test", "empty", "lengths differ", "no samples"],
)
def test_a_users_function_that_gives_anything_else_is_refused_in_one_line(
    user_module: types.ModuleType, returned: object
) -> None:
    user_module.load = lambda: returned  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"expected a pair \(train, test\)") as caught:
        load_dataset("leash_test_data:load")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        ({"image": torch.zeros(2), "label": 1}, "a dict with the keys image, label"),
        ((torch.zeros(2), 1, "name"), "a tuple of 3"),
        ([torch.zeros(2)], "a list of 1"),
        (torch.zeros(2), "Tensor"),
        (7, "int"),
        ({}, "an empty dict"),
    ],
    ids=["dict", "three", "one", "tensor", "number", "empty dict"],
)
@pytest.mark.parametrize("split", ["training", "test"])
def test_a_sample_that_is_no_pair_is_told_as_what_it_is(
    user_module: types.ModuleType, sample: object, told: str, split: str
) -> None:
    good = (torch.zeros(2), 1)
    splits = ([sample], [good]) if split == "training" else ([good], [sample])
    user_module.load = lambda: splits  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as caught:
        load_dataset("leash_test_data:load", train=True, test=split == "test")
    assert f"each sample of the {split} split must be a pair (sample, target), got {told};" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ((np.zeros(2), 1), "got ndarray; make it one with torch.from_numpy"),
        (({"ids": 1}, 1), "got a dict with the keys ids; Leash trains models that take one tensor"),
        ((torch.zeros(2), "cat"), "a target must be a number or a tensor, got str"),
        (
            (torch.zeros(2), {"box": 1}),
            "must be a number or a tensor, got a dict with the keys box",
        ),
        ((torch.zeros(2), None), "a target must be a number or a tensor, got NoneType"),
    ],
    ids=["array", "dict", "text target", "dict target", "no target"],
)
def test_a_pair_of_something_else_names_the_mend(
    user_module: types.ModuleType, pair: object, says: str
) -> None:
    user_module.load = lambda: ([pair], [pair])  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as caught:
        load_dataset("leash_test_data:load")
    assert says in str(caught.value)


def test_a_sample_that_is_no_tensor_names_the_mend(user_module: types.ModuleType) -> None:
    user_module.load = lambda: ([("image", 0)], [("image", 0)])  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"got str; for images, add .*ToTensor"):
        load_dataset("leash_test_data:load")


def test_loading_needs_no_writable_working_directory(
    tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_dataset("digits")
    assert os.listdir(tmp_path) == []
