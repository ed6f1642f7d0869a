"""Datasets that lie in files: tiny ones made here, and the real ones where they are at hand."""

import gzip
import io
import multiprocessing
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leash.ps.datafiles.cifar10 import BATCHES, BATCHES_DIR, BINARY_DIR, TAR_NAME
from leash.ps.errors import UsageError
from leash.worker.datasets import cifar10, files, load_dataset
from leash.worker.vision import import_torchvision

REAL_DATA = Path(__file__).parents[4].parent / "shared" / "data"
MNIST_SCALE = (0.1307, 0.3081)

needs_real_mnist = pytest.mark.skipif(
    not (REAL_DATA / "MNIST").is_dir(), reason=f"no MNIST in {REAL_DATA}"
)
needs_real_cifar10 = pytest.mark.skipif(
    not (REAL_DATA / TAR_NAME).is_file(), reason=f"no {TAR_NAME} in {REAL_DATA}"
)


def idx(values: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, the type (8 = uint8), the rank, then sizes as big-endian."""
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


def random_pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    """Twelve training and five test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for seed, (prefix, n) in enumerate([("train", 12), ("t10k", 5)]):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(random_pixels(seed, n, 28, 28)))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(n) % 10))
    return tmp_path


# mnist


def test_mnist_is_what_its_bytes_say(mnist_dir: Path) -> None:
    data = load_dataset("mnist", data_dir=mnist_dir)
    assert (data.train_size, data.test_size, data.classes) == (12, 5, 10)
    ((x, y),) = data.train_batches(np.arange(12), 12)
    mean, std = MNIST_SCALE
    expected = (random_pixels(0, 12, 28, 28)[:, None] / 255 - mean) / std
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert y.tolist() == [*range(10), 0, 1]


@needs_real_mnist
def test_real_mnist_is_what_its_bytes_say() -> None:
    data = load_dataset("mnist", data_dir=REAL_DATA, test=False)
    assert data.train_size == 60_000
    positions = np.array([0, 59_999, 31_415])
    ((x, y),) = data.train_batches(positions, 3)
    raw = REAL_DATA / "MNIST" / "raw"
    pixels = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(raw / "train-labels-idx1-ubyte", np.uint8)[8:]
    mean, std = MNIST_SCALE
    np.testing.assert_allclose(
        x.numpy(), (pixels[positions] / 255 - mean) / std, rtol=1e-5, atol=1e-6
    )
    assert y.tolist() == labels[positions].tolist()


@pytest.mark.parametrize(("split", "prefix"), [("train", "t10k"), ("test", "train")])
def test_mnist_needs_no_files_of_a_split_that_was_not_asked_for(
    mnist_dir: Path, split: str, prefix: str
) -> None:
    for path in (mnist_dir / "MNIST" / "raw").glob(f"{prefix}-*"):
        path.unlink()
    load_dataset("mnist", data_dir=mnist_dir, train=split == "train", test=split == "test")


def compressed(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("-idx", ".idx")))


def unchanged(path: Path) -> None:
    pass


@pytest.mark.parametrize("below", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("change", [unchanged, compressed, renamed])
def test_mnist_is_found_in_every_layout(
    mnist_dir: Path, tmp_path_factory: pytest.TempPathFactory, below: str,
    change: Callable[[Path], None],
) -> None:  # fmt: skip
    expected = load_dataset("mnist", data_dir=mnist_dir)
    place = tmp_path_factory.mktemp("place") / "data"
    (place / below).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(mnist_dir / "MNIST" / "raw", place / below, dirs_exist_ok=True)
    for path in list((place / below).iterdir()):
        change(path)
    found = load_dataset("mnist", data_dir=place)
    assert found.train_size == 12
    for mine, theirs in (
        (found.train_batches(np.arange(12), 12), expected.train_batches(np.arange(12), 12)),
        (found.test_batches(5), expected.test_batches(5)),
    ):
        (x, y), (expected_x, expected_y) = next(mine), next(theirs)
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)


def test_the_environment_says_where_mnist_is_unless_an_option_does(
    mnist_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(mnist_dir))
    monkeypatch.setenv("MNIST", "~/MNIST/raw")
    assert load_dataset("mnist").train_size == 12
    with pytest.raises(UsageError, match=f"--data-dir {tmp_path / 'absent'} is not a folder"):
        load_dataset("mnist", data_dir=tmp_path / "absent")
    monkeypatch.setenv("MNIST", "nowhere")
    with pytest.raises(UsageError, match="MNIST=nowhere in the environment is not a folder"):
        load_dataset("mnist")


def test_mnist_that_is_there_is_not_fetched(
    mnist_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(import_torchvision().datasets, "MNIST")
    assert load_dataset("mnist", data_dir=mnist_dir / "MNIST", download=True).train_size == 12


def test_mnist_without_a_folder_names_both_mends() -> None:
    with pytest.raises(UsageError, match=r"give --data-dir.* or --download"):
        load_dataset("mnist")


def test_mnist_without_its_files_says_what_it_looked_for_and_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MNIST/raw/train-images-idx3-ubyte") as caught:
        load_dataset("mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UsageError, match="is not a folder"):
        load_dataset("mnist", data_dir=tmp_path / "absent")


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _of_another_format(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>")


def _replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage", [_truncated, _lengthened, _emptied, _of_another_format, _replaced_by_a_folder]
)
def test_a_damaged_mnist_file_is_named_in_one_line(
    mnist_dir: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = mnist_dir / "MNIST" / "raw" / name
    damage(path)
    with pytest.raises(UsageError, match="cannot read") as caught:
        load_dataset("mnist", data_dir=mnist_dir)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("train-images-idx3-ubyte", np.zeros((12, 27, 28)), "28×28, got 27×28"),
        ("train-images-idx3-ubyte", np.zeros((11, 28, 28)), "11 images.*12 labels"),
        ("train-labels-idx1-ubyte", np.full(12, 10), "from 0 to 9, got 10"),
    ],
)
def test_mnist_files_that_do_not_fit_together_are_refused(
    mnist_dir: Path, name: str, values: np.ndarray, expected: str
) -> None:
    (mnist_dir / "MNIST" / "raw" / name).write_bytes(idx(values))
    with pytest.raises(UsageError, match=expected):
        load_dataset("mnist", data_dir=mnist_dir)


@pytest.mark.parametrize(("dataset", "reader"), [("mnist", "MNIST"), ("cifar10", "CIFAR10")])
def test_a_download_that_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, reader: str
) -> None:
    def unreachable(**_: object) -> None:
        raise RuntimeError("Error downloading:\nno route to host")

    monkeypatch.setattr(import_torchvision().datasets, reader, unreachable)
    with pytest.raises(UsageError, match=r"the download to .* failed with RuntimeError") as caught:
        load_dataset(dataset, data_dir=tmp_path, download=True)
    assert "\n" not in str(caught.value)


def test_a_download_without_a_folder_goes_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    roots: list[Path] = []
    monkeypatch.setattr(
        import_torchvision().datasets, "MNIST", lambda root, download: roots.append(root)
    )
    with pytest.raises(UsageError, match="no MNIST/raw"):
        load_dataset("mnist", download=True)
    assert roots == [files.DOWNLOAD_DIR]


# cifar10


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


# Named out of order on purpose. PNG inside: lossless, so that pixels can be compared.
CIFAR_FILES = {
    f"{split}/{name}/{number:04}.jpg": encoded(random_pixels(seed, 32, 32, 3))
    for seed, (split, name, number) in enumerate(
        [
            ("train", "truck", 1),
            ("train", "cat", 0),
            ("test", "ship", 0),
            ("train", "truck", 0),
            ("train", "cat", 1),
        ]
    )
}
TRAIN_ORDER = ["cat/0000", "truck/0000", "cat/0001", "truck/0001"]


def write_tar(
    folder: Path, contents: dict[str, bytes], prefix: str = "", name: str = TAR_NAME
) -> Path:
    with tarfile.open(folder / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for path, content in contents.items():
            member = tarfile.TarInfo(prefix + path)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def write_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_dotted_tar(folder: Path, contents: dict[str, bytes]) -> Path:
    return write_tar(folder, contents, prefix="./")


def write_nested_tar(folder: Path, contents: dict[str, bytes]) -> Path:
    return write_tar(folder, contents, prefix="cifar10/")


def write_macos_tar(folder: Path, contents: dict[str, bytes]) -> Path:
    beside = {name.replace("/0", "/._0"): b"no image" for name in contents}
    return write_tar(folder, beside | contents)


def write_compressed_tar(folder: Path, contents: dict[str, bytes]) -> Path:
    return write_tar(folder, contents, name="cifar-10.tgz")


def write_tar_that_is_given_itself(folder: Path, contents: dict[str, bytes]) -> Path:
    return write_tar(folder, contents, name="images.tar") / "images.tar"


def scaled(content: bytes) -> np.ndarray:
    """The oracle: one image, decoded and scaled by hand, as (3, 32, 32)."""
    pixels = np.asarray(Image.open(io.BytesIO(content)), np.float64) / 255
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    channels_first: np.ndarray = ((pixels - mean) / std).transpose(2, 0, 1)
    return channels_first


@pytest.mark.parametrize(
    "write",
    [
        write_tar, write_dotted_tar, write_nested_tar, write_macos_tar, write_compressed_tar,
        write_tar_that_is_given_itself, write_folder,
    ],
)  # fmt: skip
def test_cifar10_images_are_in_order_of_file_name_then_class(
    tmp_path: Path, write: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    data = load_dataset("cifar10", data_dir=write(tmp_path, CIFAR_FILES))
    assert (data.train_size, data.test_size, data.sample_shape) == (4, 1, (3, 32, 32))
    ((x, y),) = data.train_batches(np.arange(4), 4)
    expected = np.stack([scaled(CIFAR_FILES[f"train/{name}.jpg"]) for name in TRAIN_ORDER])
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert y.tolist() == [3, 9, 3, 9]


def test_cifar10_decodes_no_image_beyond_the_limit_or_outside_the_share(tmp_path: Path) -> None:
    broken = CIFAR_FILES | {"train/truck/0001.jpg": b"no image", "train/truck/0000.jpg": b""}
    write_tar(tmp_path, broken)
    assert load_dataset("cifar10", data_dir=tmp_path, limit=1).train_size == 1
    data = load_dataset("cifar10", data_dir=tmp_path, keep=lambda n: np.array([2, 0]))
    assert data.train_size == 4
    ((x, y),) = data.train_batches(np.array([2]), 4)
    np.testing.assert_allclose(
        x[0].numpy(), scaled(CIFAR_FILES["train/cat/0001.jpg"]), rtol=1e-4, atol=1e-5
    )
    assert y.tolist() == [3]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train/cat/0002.jpg", b"no image", r"cannot read .*train/cat/0002\.jpg"),
        (
            "train/cat/0002.jpg",
            encoded(random_pixels(0, 32, 32, 3), "JPEG")[:400],
            r"cannot read .*train/cat/0002\.jpg",
        ),
        ("train/cat/0002.jpg", encoded(random_pixels(0, 31, 32, 3)), "32×32 pixels, got 32×31"),
        ("train/lion/0000.jpg", b"", "'lion' is not a class of CIFAR-10"),
    ],
    ids=["no image", "truncated", "wrong size", "unknown class"],
)
def test_a_wrong_cifar10_image_is_named_in_one_line(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    write_tar(tmp_path, CIFAR_FILES | {name: content})
    with pytest.raises(UsageError, match=expected) as caught:
        load_dataset("cifar10", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_cifar10_archive_that_is_none_or_lacks_a_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / TAR_NAME).write_bytes(b"no tar" * 1000)
    with pytest.raises(UsageError, match=rf"cannot read .*{TAR_NAME}: ReadError"):
        load_dataset("cifar10", data_dir=tmp_path)
    write_tar(tmp_path, {"train/cat/0000.jpg": CIFAR_FILES["train/cat/0000.jpg"]})
    with pytest.raises(UsageError, match="no image test/CLASS"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_cifar10_without_its_files_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"cifar-10-batches-py, cifar-10-batches-bin, cifar10-images\.tar or train/CLASS",
    ):
        load_dataset("cifar10", data_dir=tmp_path)


def write_batches(folder: Path, suffix: str = "", content: bytes = b"") -> list[Path]:
    """Empty files, or all with this content, under the names of the six batches."""
    folder.mkdir(exist_ok=True)
    paths = [folder / (name + suffix) for names in BATCHES.values() for name in names]
    for path in paths:
        path.write_bytes(content)
    return paths


def test_cifar10_batches_that_are_not_krizhevskys_are_not_opened(tmp_path: Path) -> None:
    write_batches(tmp_path / BATCHES_DIR, content=b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UsageError, match="not found or corrupted"):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("folder", [BATCHES_DIR, "of another name", "."])
def test_cifar10_batches_are_turned_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    class Batches:
        base_folder = BATCHES_DIR

        def __init__(self, root: Path, train: bool) -> None:
            assert (root / self.base_folder / "test_batch").is_file()
            self.data = random_pixels(int(train), 3, 32, 32, 3)
            self.targets = [2, 0, 9]

    write_batches(tmp_path / folder)
    monkeypatch.setattr(import_torchvision().datasets, "CIFAR10", Batches)
    place = tmp_path if folder == BATCHES_DIR else tmp_path / folder
    ((x, y),) = load_dataset("cifar10", data_dir=place).test_batches(3)
    expected = scaled(encoded(random_pixels(0, 3, 32, 32, 3)[1]))
    np.testing.assert_allclose(x[1].numpy(), expected, rtol=1e-4, atol=1e-5)
    assert y.tolist() == [2, 0, 9]


@pytest.mark.parametrize("is_given_itself", [False, True])
def test_binary_batches_of_cifar10_are_what_their_bytes_say(
    tmp_path: Path, is_given_itself: bool
) -> None:
    """A byte for the label, then the red, green and blue plane of the image."""
    images, labels = random_pixels(0, 12, 3, 32, 32), np.arange(12, dtype=np.uint8) % 10
    records = np.concatenate([labels[:, None], images.reshape(12, -1)], axis=1)
    folder = tmp_path / BINARY_DIR
    for place, path in enumerate(write_batches(folder, ".bin")):
        path.write_bytes(records[2 * place : 2 * place + 2].tobytes())
    data = load_dataset("cifar10", data_dir=folder if is_given_itself else tmp_path)
    assert (data.train_size, data.test_size) == (10, 2)
    ((x, y),) = data.train_batches(np.arange(10), 10)
    assert y.tolist() == labels[:10].tolist()
    for row in (0, 9):
        image = encoded(images[row].transpose(1, 2, 0))
        np.testing.assert_allclose(x[row].numpy(), scaled(image), rtol=1e-4, atol=1e-5)
    ((_, y),) = data.test_batches(2)
    assert y.tolist() == labels[10:].tolist()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "has no image"), (b"\0" * 3072, "cannot reshape"), (b"\x0a" * 3073, "0 to 9, got 10")],
)
def test_a_damaged_binary_batch_of_cifar10_is_named_in_one_line(
    tmp_path: Path, content: bytes, says: str
) -> None:
    write_batches(tmp_path / BINARY_DIR, ".bin", content)
    with pytest.raises(UsageError, match=says) as caught:
        load_dataset("cifar10", data_dir=tmp_path)
    assert "data_batch_1.bin" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folder", "suffix"), [(BATCHES_DIR, ""), (BINARY_DIR, ".bin")])
def test_a_missing_batch_of_cifar10_is_named(tmp_path: Path, folder: str, suffix: str) -> None:
    for path in write_batches(tmp_path / folder, suffix):
        path.unlink()
        with pytest.raises(UsageError, match=f"no {folder}/{path.name} in {tmp_path}"):
            load_dataset("cifar10", data_dir=tmp_path)
        path.touch()


def test_a_long_decoding_is_announced_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cifar10, "SILENT_IMAGES", 3)
    load_dataset("cifar10", data_dir=write_tar(tmp_path, CIFAR_FILES))
    assert capsys.readouterr().err.startswith("decoding 4 images of ")


@needs_real_cifar10
def test_real_cifar10_holds_the_pixels_that_pillow_decodes() -> None:
    data = load_dataset("cifar10", data_dir=REAL_DATA, test=False, limit=24)
    ((x, y),) = data.train_batches(np.array([23]), 1)
    assert y.tolist() == [3]
    with tarfile.open(REAL_DATA / TAR_NAME) as tar:
        stream = tar.extractfile("train/cat/0002.jpg")
        assert stream is not None
        expected = scaled(stream.read())
    np.testing.assert_allclose(x[0].numpy(), expected, rtol=1e-4, atol=1e-5)


# imagefolder


@pytest.fixture
def image_dir(tmp_path: Path) -> Path:
    """Two classes; three training images of `apple`, one of `pear`; each of one colour."""
    for name, red in {
        "train/apple/a.png": 10,
        "train/apple/b.png": 20,
        "train/apple/c.png": 30,
        "train/pear/z.png": 200,
        "val/apple/a.png": 40,
        "val/pear/a.png": 220,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (red, 0, 0)).save(tmp_path / name)
    return tmp_path


def reds(x: torch.Tensor) -> list[int]:
    return [round(value) for value in ((x[:, 0, 0, 0] * 0.229 + 0.485) * 255).tolist()]


def test_an_image_folder_is_cut_square_and_runs_round_robin_over_classes(image_dir: Path) -> None:
    data = load_dataset("imagefolder", data_dir=image_dir, image_size=8)
    assert (data.train_size, data.test_size, data.classes) == (4, 2, 2)
    assert data.sample_shape == (3, 8, 8)
    ((x, y),) = data.train_batches(np.arange(4), 4)
    assert x.shape == (4, 3, 8, 8)
    assert reds(x) == [10, 200, 20, 30]
    assert y.tolist() == [0, 1, 0, 0]


def test_spawned_loaders_give_the_same_batches_epoch_after_epoch(image_dir: Path) -> None:
    data = load_dataset("imagefolder", data_dir=image_dir, image_size=8, test=False)
    spawned = load_dataset(
        "imagefolder", data_dir=image_dir, image_size=8, test=False, loader_workers=2
    )
    processes: list[set[int | None]] = []
    for order in ([3, 0, 1], [2, 1, 3, 0]):
        expected = list(data.train_batches(np.array(order), 2))
        got = list(spawned.train_batches(np.array(order), 2))
        for (x, y), (got_x, got_y) in zip(expected, got, strict=True):
            assert torch.equal(x, got_x)
            assert torch.equal(y, got_y)
        processes.append({child.pid for child in multiprocessing.active_children()})
    assert processes[0] == processes[1]
    assert len(processes[0]) == 2
    spawned.close()
    assert multiprocessing.active_children() == []


def test_a_limit_on_an_image_folder_leaves_all_classes(image_dir: Path) -> None:
    data = load_dataset("imagefolder", data_dir=image_dir, limit=2)
    ((_, y),) = data.train_batches(np.arange(data.train_size), 9)
    assert y.tolist() == [0, 1]


def test_an_evaluator_of_an_image_folder_knows_the_classes(image_dir: Path) -> None:
    data = load_dataset("imagefolder", data_dir=image_dir, train=False)
    assert (data.train_size, data.classes) == (0, 2)


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_broken_image_is_named_in_one_line(image_dir: Path, loader_workers: int) -> None:
    (image_dir / "train" / "apple" / "b.png").write_bytes(b"no image")
    data = load_dataset("imagefolder", data_dir=image_dir, loader_workers=loader_workers)
    expected = r"^dataset imagefolder: cannot read .*b\.png: UnidentifiedImageError"
    with pytest.raises(UsageError, match=expected) as caught:
        list(data.train_batches(np.arange(4), 4))
    assert "\n" not in str(caught.value)
    data.close()


def test_image_folders_with_different_classes_are_refused(image_dir: Path) -> None:
    (image_dir / "val" / "quince").mkdir()
    (image_dir / "val" / "quince" / "a.png").write_bytes(
        (image_dir / "val" / "pear" / "a.png").read_bytes()
    )
    with pytest.raises(UsageError, match="class 'quince' is in only one of train and test"):
        load_dataset("imagefolder", data_dir=image_dir)


def test_an_image_folder_without_train_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no train/CLASS/\*") as caught:
        load_dataset("imagefolder", data_dir=tmp_path)
    assert "--download" not in str(caught.value)
    with pytest.raises(UsageError, match="nothing to --download"):
        load_dataset("imagefolder", data_dir=tmp_path, download=True)
