import sys
import types

import pytest
import torch
from torch import nn

from leash.ps.errors import UsageError
from leash.ps.options.catalog import MODELS
from leash.worker.models import ChannelsLastConv2d, build_model

PARAMETERS = [
    ("mnist_cnn", (1, 28, 28), 10, 21_840),  # PyTorch's example
    ("lenet", (1, 28, 28), 10, 61_706),  # LeNet-5 with a fully connected second convolution
    ("lenet", (3, 32, 32), 10, 62_006),  # PyTorch's CIFAR-10 tutorial
    ("alexnet_cifar", (3, 32, 32), 10, 23_272_266),
    ("resnet18", (3, 32, 32), 10, 11_173_962),  # He et al. with the CIFAR stem
    ("resnet18", (3, 224, 224), 1000, 11_689_512),  # He et al.
    ("linear", (1, 28, 28), 10, 7_850),
]


@pytest.mark.parametrize(("name", "shape", "classes", "expected"), PARAMETERS)
def test_parameters_number_what_the_literature_says(
    name: str, shape: tuple[int, ...], classes: int, expected: int
) -> None:
    model = build_model(name, shape, classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnist_cnn", (1, 28, 28)),
        ("lenet", (1, 8, 8)),
        ("lenet", (1, 11, 9)),
        ("lenet", (1, 28, 28)),
        ("lenet", (3, 64, 48)),
        ("alexnet_cifar", (1, 32, 32)),
        ("resnet18", (1, 8, 8)),
        ("resnet18", (1, 65, 65)),
        ("linear", (13,)),
    ],
)
def test_every_model_gives_one_finite_row_per_sample(name: str, shape: tuple[int, ...]) -> None:
    out = build_model(name, shape, 7)(torch.randn(2, *shape))
    assert out.shape == (2, 7)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("MnistCNN", "mnist_cnn"),
        ("LeNetForMNIST", "lenet"),
        ("le-net", "lenet"),
        ("LogisticRegression", "linear"),
        ("LROnMnist", "linear"),
    ],
)
def test_an_alias_builds_the_same_model(alias: str, name: str) -> None:
    models = [build_model(spelling, (1, 28, 28), 10) for spelling in (alias, name)]
    assert type(models[0]) is type(models[1])


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_parameters_are_contiguous_as_a_flat_slab_needs_them(spec: object) -> None:
    shape = (1, 28, 28) if spec is MODELS["mnist_cnn"] else (3, 32, 32)
    model = build_model(spec.name, shape, 10)  # type: ignore[attr-defined]
    model(torch.randn(2, *shape)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.grad is not None
        assert parameter.grad.is_contiguous(), name


@pytest.mark.parametrize(("channels", "padding"), [(1, 0), (1, 2), (6, 2)])
def test_a_channels_last_convolution_computes_what_torchs_does(channels: int, padding: int) -> None:
    torch.manual_seed(1)
    ours = ChannelsLastConv2d(channels, 4, 5, padding=padding)
    torchs = nn.Conv2d(channels, 4, 5, padding=padding)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(3, channels, 12, 9)
    torch.testing.assert_close(ours(x), torchs(x))
    ours(x).square().sum().backward()
    torchs(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)


@pytest.mark.parametrize("name", ["mnist_cnn", "alexnet_cifar"])
def test_without_dropout_two_training_passes_agree(name: str) -> None:
    shape = (1, 28, 28) if name == "mnist_cnn" else (3, 32, 32)
    x = torch.randn(4, *shape)
    exact = build_model(name, shape, 10, dropout=False)
    assert torch.equal(exact(x), exact(x))
    dropping = build_model(name, shape, 10)
    assert not torch.equal(dropping(x), dropping(x))


def test_mnist_cnn_gives_log_probabilities() -> None:
    out = build_model("mnist_cnn", (1, 28, 28), 10)(torch.randn(3, 1, 28, 28))
    torch.testing.assert_close(out.exp().sum(dim=1), torch.ones(3))


@pytest.mark.parametrize(
    ("name", "shape", "needs", "came"),
    [
        ("mnist_cnn", (3, 32, 32), "1×28×28", "3×32×32"),
        ("lenet", (1, 7, 8), "8×8 pixels or more", "1×7×8"),
        ("alexnet_cifar", (3, 64, 64), "channels×32×32", "3×64×64"),
        ("resnet18", (64,), "channels×height×width", "64"),
    ],
)
def test_samples_that_do_not_fit_name_the_need_and_what_came(
    name: str, shape: tuple[int, ...], needs: str, came: str
) -> None:
    with pytest.raises(UsageError, match=f"model {name} needs samples of .*{needs}, got {came};"):
        build_model(name, shape, 10)


def test_a_classifier_refuses_a_dataset_without_classes() -> None:
    with pytest.raises(UsageError, match="tells classes apart"):
        build_model("linear", (4,), 0)


def test_an_unknown_model_brings_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean resnet18\?"):
        build_model("resnet_19", (3, 32, 32), 10)


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("leash_test_nets")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_users_function_builds_the_model(user_module: types.ModuleType) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.3))
    user_module.build = lambda: net  # type: ignore[attr-defined]
    assert build_model("leash_test_nets:build", (3,), 0, dropout=False) is net
    assert net[1].p == 0.0


def test_a_users_function_that_gives_no_module_is_refused(user_module: types.ModuleType) -> None:
    user_module.build = lambda: [1]  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"expected a torch\.nn\.Module, got list"):
        build_model("leash_test_nets:build", (3,), 10)
