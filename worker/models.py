"""The models that `--model` names. Each returns logits or log-probabilities, one row per sample.

The loss is ``torch.nn.functional.cross_entropy``. It takes both: log-softmax of log-probabilities
changes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch.nn.functional as F
from torch import Tensor, channels_last, nn
from torch.nn.modules.dropout import _DropoutNd

from leash.ps.errors import UsageError
from leash.ps.options.catalog import MODELS, choose, is_reference
from leash.worker import plugins
from leash.worker.optim.arguments import require_values
from leash.worker.vision import import_torchvision

Shape = tuple[int, ...]  # of one sample; an image is (channels, height, width)

# ResNet's first layers must not shrink images up to this size, which its body shrinks 8 times more.
SMALL_IMAGE_PIXELS: Final = 64


@dataclass(frozen=True)
class ModelSpec:
    """Tells how to build one model, and which samples it takes.

    Attributes:
        build: makes the model for a sample shape and a number of classes.
        needs: completes the sentence "needs samples of …".
        fits: says whether the model takes samples of a shape.
    """

    build: Callable[[Shape, int], nn.Module]
    needs: str
    fits: Callable[[Shape], bool]


def build_model(name: str, sample_shape: Shape, classes: int, *, dropout: bool = True) -> nn.Module:
    """Builds the model called ``name``, with first values from torch's random state.

    Args:
        name: one of leash.ps.options.catalog, an alias, or ``module:function``: a function without
            arguments that returns an ``nn.Module``.
        sample_shape: of one sample, without the batch dimension.
        classes: how many it is to tell apart; 0 for a regression.
        dropout: False sets the probability of every dropout module to 0, which makes a training
            step a function of its batch alone.

    Returns:
        The model.

    Raises:
        UsageError: the name is unknown, the function returns no module, or the model cannot take
            samples of this shape or so many classes.
    """
    if is_reference(name):
        model = _build_plugin(name)
    else:
        model = _build_listed(choose(name, MODELS, "model").name, sample_shape, classes)
    if not dropout:
        _remove_dropout(model)
    return model


def _build_plugin(reference: str) -> nn.Module:
    model = plugins.call(reference, "model")
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model {reference}: expected a torch.nn.Module, got {type(model).__name__}"
        )
    try:
        require_values([*model.named_parameters(), *model.named_buffers()])
    except UsageError as error:
        raise UsageError(f"model {reference}: {error}") from error
    return model


def _build_listed(name: str, sample_shape: Shape, classes: int) -> nn.Module:
    spec = BUILDERS[name]
    if not spec.fits(sample_shape):
        raise UsageError(
            f"model {name} needs samples of {spec.needs}, got {_times(sample_shape)}; "
            "choose another --model or --dataset"
        )
    if classes < 1:
        raise UsageError(
            f"model {name} tells classes apart, and this dataset has none; "
            "give a model for its targets as module:function"
        )
    return spec.build(sample_shape, classes)


def _remove_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0


def _times(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "no dimension"


class ChannelsLastConv2d(nn.Conv2d):
    """A convolution that computes in channels_last, while its weight stays contiguous in its slab.

    On a processor, max-pooling is vectorised over channels and oneDNN's convolutions have less to
    reorder: `MnistCNN`'s step of 100 samples takes 6.7 instead of 9.4 ms with one thread.
    """

    def forward(self, x: Tensor) -> Tensor:
        # `.to`, not `.contiguous`: for one channel the latter keeps strides that oneDNN takes for
        # channels_first, and the gain is lost.
        weight = self.weight.to(memory_format=channels_last)
        return F.conv2d(
            x.to(memory_format=channels_last), weight, self.bias, self.stride, self.padding
        )


class MnistCNN(nn.Module):
    """The net of PyTorch's first MNIST example, for 1×28×28 images; 21,840 parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = ChannelsLastConv2d(1, 10, kernel_size=5)
        self.conv2 = ChannelsLastConv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d(0.5)
        self.fc1 = nn.Linear(320, 50)
        self.fc1_drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(50, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        x = self.fc1_drop(F.relu(self.fc1(x.flatten(1))))
        return F.log_softmax(self.fc2(x), dim=1)


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling; 61,706 parameters on 1×28×28.

    The paper's images are 32×32. Smaller ones are padded: by 2 pixels before the first convolution,
    and, where less than 5 would be left for it, before the second as well.
    """

    def __init__(self, sample_shape: Shape, classes: int) -> None:
        super().__init__()
        channels, *sides = sample_shape
        padding1 = 2 if min(sides) < 32 else 0
        sides = [(side + 2 * padding1 - 4) // 2 for side in sides]
        padding2 = 2 if min(sides) < 6 else 0
        height, width = ((side + 2 * padding2 - 4) // 2 for side in sides)
        self.conv1 = ChannelsLastConv2d(channels, 6, kernel_size=5, padding=padding1)
        self.conv2 = ChannelsLastConv2d(6, 16, kernel_size=5, padding=padding2)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.relu(self.fc2(x))
        out: Tensor = self.fc3(x)
        return out


class AlexNetCifar(nn.Module):
    """AlexNet (Krizhevsky et al., 2012) with 3×3 kernels for 32×32 images; 23,272,266 parameters.

    Nine tenths of them are in the classifier, as in the original: a model that is cheap to compute
    and dear to send.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 2 * 2, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(x).flatten(1))
        return out


class Linear(nn.Module):
    """Multinomial logistic regression on the flattened sample."""

    def __init__(self, sample_shape: Shape, classes: int) -> None:
        super().__init__()
        features = 1
        for side in sample_shape:
            features *= side
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.flatten(1))
        return out


def _resnet18(sample_shape: Shape, classes: int) -> nn.Module:
    """Builds torchvision's ResNet-18 (He et al., 2016), with the usual CIFAR stem for small images.

    That stem is a 3×3 convolution with stride 1 and no max-pooling: 11,173,962 parameters on
    3×32×32 with 10 classes.
    """
    channels, *sides = sample_shape
    model: nn.Module = import_torchvision().models.resnet18(weights=None, num_classes=classes)
    if max(sides) <= SMALL_IMAGE_PIXELS:
        model.conv1 = _stem(channels, kernel_size=3, stride=1)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = _stem(channels, kernel_size=7, stride=2)
    return model


def _stem(channels: int, *, kernel_size: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, 64, kernel_size, stride, padding=kernel_size // 2, bias=False)
    # torchvision initialises the convolution that this one replaces in the same way.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _is_image(shape: Shape, min_side: int = 1) -> bool:
    return len(shape) == 3 and min(shape[1:]) >= min_side


BUILDERS: Final = {
    "mnist_cnn": ModelSpec(
        build=lambda shape, classes: MnistCNN(classes),
        needs="1×28×28",
        fits=lambda shape: shape == (1, 28, 28),
    ),
    "lenet": ModelSpec(
        build=LeNet,
        needs="channels×height×width, 8×8 pixels or more",
        fits=lambda shape: _is_image(shape, min_side=8),
    ),
    "alexnet_cifar": ModelSpec(
        build=lambda shape, classes: AlexNetCifar(shape[0], classes),
        needs="channels×32×32",
        fits=lambda shape: _is_image(shape) and shape[1:] == (32, 32),
    ),
    "resnet18": ModelSpec(
        build=_resnet18,
        needs="channels×height×width",
        fits=_is_image,
    ),
    "linear": ModelSpec(
        build=Linear,
        needs="at least one number",
        fits=lambda shape: all(side > 0 for side in shape),
    ),
}  # by the names of leash.ps.options.catalog.MODELS
