"""Pictures of a run of EM, without a display: accuracy over k, and the components' means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from leash._extras import install_command, is_installed
from leash.worker.em.family import Floats

MISSING: Final = f"no pictures: matplotlib is missing: {install_command('matplotlib')}"
BLUE, GREY = "#0072b2", "#888888"
STYLE: Final[Any] = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e4e4e4", "axes.axisbelow": True, "savefig.dpi": 120,
}  # fmt: skip
LEAST_POINTS: Final = 4.0  # of percent, which the height of the accuracies stands for at least
MOST_LABELS: Final = 4  # each of so few points has its figure; of more, the best alone
MARGIN: Final = 2  # pixels between two images


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return is_installed("matplotlib")


def draw_accuracy(path: Path, title: str, ks: Sequence[int], accuracies: Sequence[float]) -> None:
    """Draws the accuracies, from 0 to 1, over the numbers of components, and writes the picture."""
    _save(accuracy_figure(title, ks, accuracies), path)


def accuracy_figure(title: str, ks: Sequence[int], accuracies: Sequence[float]) -> Any:
    """Draws the accuracies on a scale of `LEAST_POINTS` at least: less is no collapse.

    Args:
        title: above it.
        ks: numbers of components, in ascending order.
        accuracies: from 0 to 1, one for each.
    """
    figure, axes = _figure((5.6, 3.4))
    percents = [100 * accuracy for accuracy in accuracies]
    axes.plot(ks, percents, "o-", color=BLUE)
    best = int(np.argmax(percents))
    for place, (k, accuracy) in enumerate(zip(ks, percents, strict=True)):
        if place == best or len(ks) <= MOST_LABELS:
            # Towards the middle, so that no label lies on the axis, nor beyond the picture.
            towards = "left" if place == 0 else "right" if place == len(ks) - 1 else "center"
            axes.annotate(f"{accuracy:.2f} %", (k, accuracy), color=BLUE, xytext=(0, 7),
                          textcoords="offset points", ha=towards)  # fmt: skip
    axes.set_title(title, fontsize=9)
    axes.set(xlabel="components of each digit's mixture",
             ylabel="accuracy on the test images, %", xticks=ks,
             ylim=_scale(min(percents), max(percents)))  # fmt: skip
    axes.margins(x=0.06)
    return figure


def _scale(lowest: float, highest: float) -> tuple[float, float]:
    """The ends of the y axis, in percent: around the figures, with room for a label above them."""
    span = max(highest - lowest, LEAST_POINTS)
    middle = (lowest + highest) / 2
    top = min(middle + 0.65 * span, 100.0 + 0.12 * span)
    return top - 1.3 * span, top


def draw_means(path: Path, title: str, pictures: Sequence[Floats]) -> None:
    """Draws a column of the components' means for each digit, and writes the picture.

    Args:
        path: of the picture.
        title: above it.
        pictures: for each digit (k, 28, 28), from 0 to 1, the most frequent component first.
    """
    tiled = tile(pictures)
    height, width = tiled.shape
    figure, axes = _figure((5.6, 5.6 * height / width + 0.3))
    axes.imshow(1 - tiled, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    _save(figure, path)


def tile(pictures: Sequence[Floats]) -> Floats:
    """Puts columns of images together into one image."""
    columns = [np.concatenate([np.pad(image, MARGIN) for image in column]) for column in pictures]
    return np.concatenate(columns, axis=1)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=STYLE["savefig.dpi"])
