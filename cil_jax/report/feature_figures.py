"""Features of test images in two dimensions, one picture for each task."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cil_jax.errors import needs_extra
from cil_jax.metrics import mean_drift
from cil_jax.report.percentages import percentage
from cil_jax.report.thinning import spread

with needs_extra("plots", "figures"):
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    from cil_jax.report.figure_style import title

MOST_PICTURES = 12
COLUMNS = 4
SIDE = 2.2  # inches of a picture
PROJECTIONS = ("pca", "tsne")

Saved = tuple[np.ndarray, np.ndarray]  # features float [N, D] and labels int [N]


def features(saved: Sequence[Saved], results: Mapping[str, Any], projection: str = "pca") -> Figure:
    """Draws the features of the same images after each task; the colour is the task of the class.

    Args:
      saved: features and labels after each task, see `RunFolder.features`.
      results: the contents of results.json of the run.
      projection: "pca" for the two main axes of the last features, the same in all pictures, so
        that they can be compared; "tsne" for t-SNE of each picture by itself.
    """
    planes, note = _PROJECTED[projection](saved)
    tasks = spread(len(saved), MOST_PICTURES)
    columns = min(COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(SIDE * columns, SIDE * rows), layout="constrained")
    bounds = np.cumsum([0, *results["task_sizes"]])
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(bounds) - 1))
    axes = figure.subplots(rows, columns, squeeze=False, sharex=projection == "pca", sharey="all")
    for place in axes.flat:
        place.axis("off")
    for place, task in zip(axes.flat, tasks, strict=False):
        task_of = np.searchsorted(bounds, saved[task][1], side="right") - 1
        # In a random order, so that no task covers another.
        order = np.random.RandomState(0).permutation(len(task_of))
        place.scatter(*planes[task][order].T, c=colors[task_of[order]], s=4, lw=0)
        place.set_title(f"after task {task + 1}")
    handles = [
        Line2D([], [], marker="o", ls="", ms=4, color=color, label=f"task {t + 1}")
        for t, color in enumerate(colors[: len(saved)])
        if t in spread(len(saved), MOST_PICTURES)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    figure.suptitle(f"{title(results)}\n{note}", fontsize=8, x=0.01, ha="left")
    return figure


def drift(saved: Sequence[Saved], results: Mapping[str, Any]) -> Figure:
    """Draws how far the mean features of each task's classes have turned since it was learned.

    Args:
      saved: features and labels after each task, see `RunFolder.features`.
      results: the contents of results.json of the run.
    """
    bounds = np.cumsum([0, *results["task_sizes"]]).tolist()
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    shown = spread(len(saved), MOST_PICTURES)
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(shown)))
    for color, task in zip(colors, shown, strict=True):
        then, labels = saved[task]
        classes = range(bounds[task], bounds[task + 1])
        angles = [mean_drift(then, now[: len(then)], labels, classes) for now, _ in saved[task:]]
        x = range(task + 1, len(saved) + 1)
        axes.plot(x, angles, "o-", ms=3, lw=1, color=color, label=f"task {task + 1}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    axes.set(xlabel="after task", ylabel="drift of the class means (degrees)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(
        f"{title(results)}\nangle between the mean features of a class after its task and later"
    )
    return figure


def _by_pca(saved: Sequence[Saved]) -> tuple[list[np.ndarray], str]:
    """The two main axes of the last features, and what they are."""
    last = saved[-1][0].astype(np.float64)
    mean = last.mean(axis=0)
    _, lengths, axes = np.linalg.svd(last - mean, full_matrices=False)
    shares = lengths**2 / max(np.sum(lengths**2), 1e-12)
    plane = axes[:2].T if len(axes) > 1 else np.eye(last.shape[1], 2)
    note = (
        "features of test images on the two main axes of those after the last task, which have "
        f"{percentage(shares[:2].sum())} percent of their variance"
    )
    return [(one.astype(np.float64) - mean) @ plane for one, _ in saved], note


def _by_tsne(saved: Sequence[Saved]) -> tuple[list[np.ndarray], str]:
    """t-SNE of each picture by itself, scaled to one size."""
    with needs_extra("digits", "pictures by t-SNE"):
        from sklearn.manifold import TSNE

    planes = []
    for one, _ in saved:
        perplexity = min(30.0, (len(one) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(one)
        planes.append(plane / np.abs(plane).max())
    return planes, "features of test images by t-SNE, each picture by itself"


_PROJECTED = {"pca": _by_pca, "tsne": _by_tsne}
