"""Matrices of a run as figures.

The axes of a matrix fill its figure, so that the size of a row is known before it is drawn and its
type can be chosen to fit. Names, title and colour bar lie outside, and `figure_style.save` includes
them.
"""

import textwrap
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from cil_jax.confusion import Confusion
from cil_jax.errors import needs_extra
from cil_jax.report.figure_style import TITLE_WIDTH, title
from cil_jax.report.percentages import percentage
from cil_jax.report.thinning import groups, n_tasks

with needs_extra("plots", "figures"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from cil_jax.report.fonts import drawable

MOST_WITH_VALUES = 20  # rows of a matrix whose cells show their values
LARGEST_TYPE = 9.0  # points
TYPE_OF_ROW = 0.75  # size of the type relative to the height of its row, with room between rows
POINTS = 72  # per inch
SHORTEST_SIDE, LONGEST_SIDE = 3.2, 16.0  # inches; 200 rows of the longest have type that is legible


def accuracy_matrix(results: Mapping[str, Any]) -> Figure:
    """Accuracy on each task after each task, for the method's own classifier."""
    fractions = results["classifiers"][results["headline"]]["accuracy_matrix"]
    n = len(fractions)
    matrix = np.full((n, n), np.nan)
    for t, row in enumerate(fractions):
        matrix[t, : t + 1] = 100 * np.array(row)
    axes = _matrix(matrix, "viridis", "accuracy (%)", inches_per_row=0.36)
    if n <= MOST_WITH_VALUES:
        for t, row in enumerate(fractions):
            for j, fraction in enumerate(row):
                color = "white" if matrix[t, j] < 60 else "black"
                _value(axes, t, j, percentage(fraction, 0), color)
    _number_tasks(axes, n)
    axes.set(xlabel="accuracy on task", ylabel="after learning task")
    axes.set_title(f"{title(results)}\nclassifier: {results['headline']}")
    return cast(Figure, axes.get_figure(root=True))


def confusion(results: Mapping[str, Any], measured: Confusion) -> Figure:
    """Confusion matrix after the last task learned, for the method's own classifier.

    If there are many classes, consecutive ones are merged; see `thinning.groups`.

    Args:
      results: the contents of results.json.
      measured: the confusion matrix.
    """
    shown = groups(results["class_names"], results["task_sizes"], measured.n_classes)
    share = _percent_of_row(measured.grouped(shown.bounds))
    axes = _matrix(share, "Blues", "% of the true class", inches_per_row=0.13)
    names = [drawable(name) for name in shown.names]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    for bound in shown.tasks:
        axes.axhline(bound - 0.5, color="#999999", lw=0.5)
        axes.axvline(bound - 0.5, color="#999999", lw=0.5)
    axes.set(xlabel="predicted class", ylabel="true class, in class order")
    note = f"\n{shown.note}" if shown.note else ""
    axes.set_title(f"{title(results)}\nclassifier: {results['headline']}{note}")
    return cast(Figure, axes.get_figure(root=True))


def task_confusion(results: Mapping[str, Any], measured: Confusion) -> Figure:
    """Which task's classes the images of each task are taken for, by the method's own classifier.

    Args:
      results: the contents of results.json.
      measured: the confusion matrix.
    """
    n = n_tasks(results["task_sizes"], measured.n_classes)
    share = _percent_of_row(measured.grouped(np.cumsum([0, *results["task_sizes"][:n]]).tolist()))
    axes = _matrix(share, "Blues", "% of the task's images", inches_per_row=0.36)
    if n <= MOST_WITH_VALUES:
        for t, row in enumerate(share):
            for j, value in enumerate(row):
                text = percentage(value / 100, 0)
                _value(axes, t, j, text, "white" if value > 50 else "black")
    _number_tasks(axes, n)
    axes.set(xlabel="task of the predicted class", ylabel="task of the true class")
    axes.set_title(f"{title(results)}\nclassifier: {results['headline']}")
    return cast(Figure, axes.get_figure(root=True))


def class_counts(counts: np.ndarray, about: str) -> Figure:
    """How many images of each class each task has, as a heat map; white for none.

    Args:
      counts: int [classes, T], classes in the class order.
      about: the title.
    """
    n_classes, n = counts.shape
    height = min(LONGEST_SIDE, max(SHORTEST_SIDE, 0.07 * n_classes))
    figure = Figure(figsize=(max(SHORTEST_SIDE, 0.36 * n), height))
    axes = figure.add_axes((0, 0, 1, 1))
    shown = np.ma.masked_equal(counts, 0)
    image = axes.imshow(shown, vmin=0, cmap="viridis_r", aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    step = max(1, n // MOST_WITH_VALUES)
    axes.set_xticks(range(0, n, step), [str(t + 1) for t in range(0, n, step)])
    width = figure.get_figwidth()
    bar = figure.add_axes((1 + 0.15 / width, 0.1, 0.15 / width, 0.8))
    figure.colorbar(image, cax=bar, label="images")
    axes.set(xlabel="task", ylabel="class, in class order")
    axes.set_title(textwrap.fill(drawable(about), TITLE_WIDTH))
    return figure


def _matrix(values: np.ndarray, colors: str, label: str, inches_per_row: float) -> Axes:
    """Draws values in percent, float [N, N], with a colour bar; the axes fill the figure."""
    n = len(values)
    side = min(LONGEST_SIDE, max(SHORTEST_SIDE, inches_per_row * n))
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(values, vmin=0, vmax=100, cmap=colors, interpolation="nearest")
    axes.grid(visible=False)
    axes.tick_params(labelsize=min(LARGEST_TYPE, TYPE_OF_ROW * POINTS * side / n))
    bar = figure.add_axes((1 + 0.15 / side, 0.1, 0.15 / side, 0.8))
    figure.colorbar(image, cax=bar, label=label)
    return axes


def _percent_of_row(counts: np.ndarray) -> np.ndarray:
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _value(axes: Axes, row: int, column: int, text: str, color: str) -> None:
    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=LARGEST_TYPE)


def _number_tasks(axes: Axes, n: int) -> None:
    """Numbers the rows and columns of a matrix of tasks, from 1; some of them if there are many."""
    step = 1 if n <= MOST_WITH_VALUES else max(5, n // MOST_WITH_VALUES)
    ticks = range(0, n, step)
    labels = [str(t + 1) for t in ticks]
    axes.set_xticks(ticks, labels, fontsize=LARGEST_TYPE)
    axes.set_yticks(ticks, labels, fontsize=LARGEST_TYPE)
