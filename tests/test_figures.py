"""Figures of few and many classes: no type is larger than its row, and nothing covers another."""

import itertools

import numpy as np
import pytest
from conftest import results_of
from matplotlib.backends.backend_agg import FigureCanvasAgg

from cil_jax.confusion import Confusion
from cil_jax.report import figures, matrix_figures
from cil_jax.report.figure_style import styled

SIZES = {2: (2,), 10: (2,) * 5, 30: (6,) * 5, 100: (10,) * 10, 200: (10,) * 20}


def run_of(n_classes):
    """Results and confusion matrix; the accuracy on old classes is low."""
    sizes = SIZES[n_classes]
    matrix = [[0.05] * t + [0.6] for t in range(len(sizes))]
    names = [f"a class number {c}" for c in range(n_classes)]
    counts = 9 * np.eye(n_classes, dtype=int) + np.eye(n_classes, k=1, dtype=int)
    return results_of(sizes, matrix, class_names=names), Confusion.of(counts)


def boxes(figure, artists):
    """The boxes of artists that show something, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    shown = [a for a in artists() if not hasattr(a, "get_text") or a.get_text()]
    return [a.get_window_extent(renderer) for a in shown]


def overlaps(found):
    return [(a, b) for a, b in itertools.combinations(found, 2) if a.fully_overlaps(b)]


@pytest.mark.parametrize("n_classes", SIZES)
def test_names_of_a_confusion_matrix_fit_their_rows(n_classes):
    with styled(""):
        figure = matrix_figures.confusion(*run_of(n_classes))
        axes = figure.axes[0]
        rows = boxes(figure, axes.get_yticklabels)
        columns = boxes(figure, axes.get_xticklabels)
        edge = axes.get_window_extent()
    assert len(rows) == len(columns) >= min(n_classes, 100)
    assert max(box.height for box in rows) <= edge.height / len(rows)
    assert max(box.width for box in columns) <= edge.width / len(columns)
    for one, other in itertools.pairwise(rows):
        assert other.y1 <= one.y0 + 0.5
    assert max(box.x1 for box in rows) < edge.x0 and max(box.y1 for box in columns) < edge.y0


@pytest.mark.parametrize("n_classes", SIZES)
def test_values_of_the_accuracy_matrix_fit_their_cells(n_classes):
    with styled(""):
        figure = matrix_figures.accuracy_matrix(run_of(n_classes)[0])
        axes = figure.axes[0]
        assert not overlaps(boxes(figure, lambda: axes.texts))
        assert not overlaps(boxes(figure, axes.get_xticklabels))
        assert not overlaps(boxes(figure, axes.get_yticklabels))


@pytest.mark.parametrize("n_classes", SIZES)
def test_nothing_covers_the_curves_of_accuracy(n_classes):
    with styled(""):
        figure = figures.seen_accuracy(run_of(n_classes)[0])
        axes = figure.axes[0]
        legend = axes.get_legend()
        found = boxes(figure, lambda: [legend, axes.xaxis.label, *axes.texts])
        assert not overlaps(found), "the legend and the labels at the ends of lines"
        assert not overlaps(boxes(figure, lambda: [axes, legend]))
        assert not overlaps(boxes(figure, axes.get_xticklabels))


@pytest.mark.parametrize("n_classes", SIZES)
def test_names_of_sorted_classes_do_not_touch(n_classes):
    with styled(""):
        figure = figures.class_accuracy(*run_of(n_classes))
        axes = figure.axes[0]
        assert not overlaps(boxes(figure, axes.get_xticklabels))
        assert not overlaps(boxes(figure, lambda: [axes, axes.get_legend()]))


def test_classes_are_sorted_by_their_accuracy_and_have_the_colour_of_their_task():
    results = results_of((2, 1), [[0.5], [0.5, 0.5]], class_names=["a", "b", "c"])
    counts = Confusion.of([[1, 1, 2], [0, 4, 0], [1, 0, 3]])  # right: 1/4, 4/4 and 3/4
    with styled(""):
        axes = figures.class_accuracy(results, counts).axes[0]
    assert [bar.get_height() for bar in axes.patches] == [100, 75, 25]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "c", "a"]
    first, second, third = (bar.get_facecolor() for bar in axes.patches)
    assert first == third != second


def test_task_confusion_by_hand():
    """Of 4 + 4 images of task 1, 2 are taken for the class of task 2; of its 4 images, 1."""
    results = results_of((2, 1), [[0.5], [0.5, 0.5]], class_names=["a", "b", "c"])
    counts = Confusion.of([[1, 1, 2], [0, 4, 0], [1, 0, 3]])
    with styled(""):
        axes = matrix_figures.task_confusion(results, counts).axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), [[75, 25], [25, 75]])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "25", "75"]


def test_forgetting_by_hand():
    """Task 1 has .9, .5, .7 and .4, so its best is .9; task 2 has .8, .8 and .6."""
    matrix = [[0.9], [0.5, 0.8], [0.7, 0.8, 0.9], [0.4, 0.6, 0.9, 0.5]]
    results = results_of((2, 2, 2, 2), matrix)
    with styled(""):
        axes = figures.forgetting(results).axes[0]
    first, second, third, mean, _ = (line.get_ydata() for line in axes.lines)
    np.testing.assert_allclose(first[1:], [40, 20, 50])
    np.testing.assert_allclose(second[2:], [0, 20], atol=1e-9)
    np.testing.assert_allclose(third[3:], [0], atol=1e-9)
    np.testing.assert_allclose(mean, [40, 10, 70 / 3])
    assert mean[-1] == pytest.approx(100 * results["classifiers"]["nme"]["forgetting"])


@pytest.mark.parametrize(("n_tasks", "n_epochs"), [(1, 1), (2, 1), (5, 3), (10, 200)])
def test_ticks_of_epochs_start_at_1_and_the_legend_covers_nothing(n_tasks, n_epochs):
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    line = dict.fromkeys(names, 0.5)
    epochs = [{"task": t, **line} for t in range(n_tasks) for _ in range(n_epochs)]
    with styled(""):
        figure = figures.curves(run_of(10)[0], epochs)
        top, bottom = figure.axes
        found = boxes(figure, lambda: [top, top.get_legend(), top._left_title])
        assert not overlaps(found)
        low, high = bottom.get_xlim()
    ticks = [tick for tick in bottom.get_xticks() if low <= tick <= high]
    assert ticks and min(ticks) >= 1 and all(tick == int(tick) for tick in ticks)
