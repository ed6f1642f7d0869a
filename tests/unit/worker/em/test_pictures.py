"""The picture of accuracies: what can be read from it."""

from collections.abc import Sequence
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from leash.worker.em.pictures import LEAST_POINTS, accuracy_figure


def drawn(accuracies: Sequence[float]) -> tuple[Any, Any]:
    ks = list(range(1, len(accuracies) + 1))
    figure = accuracy_figure("mixtures", ks, accuracies)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays it out
    return canvas.get_renderer(), figure.axes[0]


CURVES = ([0.9465, 0.9442], [0.9442, 0.9465], [0.965, 0.975, 0.978, 0.981, 0.983], [0.5, 0.9],
          [0.999, 0.9995], [0.98])  # fmt: skip


@pytest.mark.parametrize("accuracies", CURVES, ids=str)
def test_every_label_is_within_the_axes_and_beside_every_point(accuracies: list[float]) -> None:
    renderer, axes = drawn(accuracies)
    inside = axes.get_window_extent()
    assert axes.texts
    for label in axes.texts:
        box = label.get_window_extent(renderer)
        assert inside.x0 < box.x0
        assert box.x1 < inside.x1
        assert box.y1 < inside.y1
    low, high = axes.get_ylim()
    assert all(low < 100 * accuracy < high for accuracy in accuracies)


def test_a_quarter_of_a_point_is_no_collapse() -> None:
    _, axes = drawn([0.9465, 0.9442])
    low, high = axes.get_ylim()
    assert high - low > LEAST_POINTS
    assert 0.23 / (high - low) < 0.1
    assert [label.get_text() for label in axes.texts] == ["94.65 %", "94.42 %"]


def test_of_many_points_the_best_alone_has_its_figure() -> None:
    _, axes = drawn(CURVES[2])
    assert [label.get_text() for label in axes.texts] == ["98.30 %"]
