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
MARGIN: Final = 2  # pixels between two images


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return is_installed("matplotlib")


def draw_accuracy(path: Path, title: str, ks: Sequence[int], accuracies: Sequence[float]) -> None:
    """Draws the accuracies, from 0 to 1, over the numbers of components, and writes the picture."""
    figure, axes = _figure((5.6, 3.4))
    axes.plot(ks, [100 * accuracy for accuracy in accuracies], "o-", color=BLUE)
    best = int(np.argmax(accuracies))
    axes.annotate(
        f"{100 * accuracies[best]:.2f} %", (ks[best], 100 * accuracies[best]), color=BLUE,
        xytext=(0, 6), textcoords="offset points", ha="center",
    )  # fmt: skip
    axes.set_title(title, fontsize=9)
    axes.set(xlabel="components of each digit's mixture",
             ylabel="accuracy on the test images, %", xticks=ks)  # fmt: skip
    axes.margins(y=0.15)
    _save(figure, path)


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
