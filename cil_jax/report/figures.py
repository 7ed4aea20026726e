"""The figures of a run, made from its folder alone."""

import contextlib
import itertools
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cil_jax.confusion import Confusion
from cil_jax.files import writing
from cil_jax.report.fonts import drawable, families
from cil_jax.report.tables import caption, column_name, protocol, sample, training_parts
from cil_jax.report.thinning import groups
from cil_jax.storage.run_folder import RunFolder

# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "axes.edgecolor": "#888888",
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 120,
    "text.parse_math": False,  # names of classes and folders may have a $
}


AVERAGE = "average incremental accuracy,\nfirst task included"  # over the averages in a legend
SHOWN = 12  # characters without a font that are named
LABEL_WIDTH = 44  # letters of a line in the legend of a comparison
LARGEST = 12.0  # inches of a matrix' side

# Figures are drawn in threads as well, and a style is the whole process'.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def _styled(text: str):
    """A context in which to make and to draw figures with such a text in them."""
    with _ONE_AT_A_TIME, matplotlib.rc_context({**STYLE, "font.family": families(text)[0]}):
        yield


def draw(folder: RunFolder, warn: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Draws all figures of a run into its folder.

    Args:
      folder: a run with results.
      warn: is told where no font here has what a figure should show.

    Returns:
      The files: seen_accuracy.png, accuracy_matrix.png, curves.png and confusion.png.
    """
    results = folder.results()
    epochs, confusions = folder.epochs(results), folder.confusions(results)
    writing.make_folder(folder.figures)
    made = []
    text = _text(results)
    if unknown := families(text)[1]:
        shown = unknown if len(unknown) <= SHOWN else f"{unknown[:SHOWN]}..."
        warn(f"no font here has {shown}: figures show squares; install one, such as Noto Sans CJK")
    with _styled(text):
        drawn = {**_of_task(results, confusions), "curves": curves(results, epochs)}
        for name, figure in drawn.items():
            file = folder.figures / f"{name}.png"
            with writing.replaced(file) as out:
                figure.savefig(out, format="png", bbox_inches="tight")
            made.append(file)
    return made


def is_drawn(folder: RunFolder) -> bool:
    """Whether all figures of a run are there."""
    return (folder.figures / "curves.png").exists()  # which is drawn last


def pictures(results: dict[str, Any], confusions: Mapping[str, Confusion]) -> dict[str, np.ndarray]:
    """Pixels uint8 [H, W, 3] of the figures of a task.

    Args:
      results: what results.json holds.
      confusions: after the task, by classifier.
    """
    found = {}
    with _styled(_text(results)):
        for name, figure in _of_task(results, confusions).items():
            figure.set_layout_engine("tight")
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            found[name] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return found


def _of_task(results: dict[str, Any], confusions: Mapping[str, Confusion]) -> dict[str, Figure]:
    """The figures of a run that change with each task."""
    return {
        "seen_accuracy": seen_accuracy(results),
        "accuracy_matrix": accuracy_matrix(results),
        "confusion": confusion(results, confusions[results["headline"]]),
    }


def seen_accuracy(results: dict[str, Any]) -> Figure:
    """Accuracy on all classes seen, by their number; a line for each classifier."""
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    seen = np.cumsum(results["task_sizes"])
    ends = [100 * one["seen_accuracy"][-1] for one in results["classifiers"].values()]
    places = _apart(ends, gap=5)
    classifiers = zip(COLORS, places, results["classifiers"].items(), strict=False)
    for color, place, (name, one) in classifiers:
        values = 100 * np.array(one["seen_accuracy"])
        own = name == results["headline"]
        label = (
            f"{column_name(results, name)}: average {100 * one['average_incremental_accuracy']:.1f}"
        )
        axes.plot(
            seen[: len(values)], values, "o-" if own else "o--", color=color, label=label, ms=4
        )
        axes.annotate(
            f"{values[-1]:.1f}",
            (seen[len(values) - 1], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
    axes.set(ylim=(0, 102), xlabel="classes seen", ylabel="accuracy on all of them (%)")
    axes.set_xticks(seen if len(seen) <= 12 else seen[:: len(seen) // 10])
    axes.legend(loc="lower left", title=AVERAGE, alignment="left", fontsize=8, title_fontsize=8)
    axes.set_title(_title(results))
    return figure


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Places for labels near their values and no nearer to each other than a gap."""
    places = np.array(values, float)
    order = np.argsort(places)
    for low, high in itertools.pairwise(order):
        places[high] = max(places[high], places[low] + gap)
    return (places - (places - values).mean()).tolist()


def comparison(
    runs: Mapping[str, dict[str, Any]],
    published: Mapping[str, Sequence[tuple[str, list[int], list[float]]]] | None = None,
) -> Figure:
    """Accuracy on all classes seen of several runs, each by its own classifier.

    Args:
      runs: summaries from `cil_jax.storage.replicates.summarize`, by the name to show; all of one
        protocol. A band is one standard deviation over members.
      published: for some of these names lines with label, x and y in percent.
    """
    lines = [label for of_run in (published or {}).values() for label, *_ in of_run]
    captions = [protocol(run) for run in runs.values()]
    with _styled("".join([*runs, *captions, *lines])):
        figure = Figure(figsize=(7.8, 3.8))
        axes = figure.subplots()
        first = next(iter(runs.values()))
        seen = np.cumsum(first["task_sizes"])
        # What all have in common is said once, the rest of each.
        parts = zip(*map(training_parts, runs.values()), strict=True)
        common = [part[0] for part in parts if part[0] and len(set(part)) == 1]
        dashes = itertools.cycle((True, False))
        for color, (name, run) in zip(itertools.cycle(COLORS), runs.items(), strict=False):
            one = run["classifiers"][run["headline"]]
            values = 100 * np.array(one["seen_accuracy"]["mean"])
            average = f"{100 * one['average_incremental_accuracy']['mean']:.1f}"
            own = [part for part in training_parts(run) if part and part not in common]
            label = _label(f"{name}, {run['headline']}, {sample(run)}")
            label += "\n" + _label(", ".join([f"average {average}", *own]))
            # Runs that lie on each other stay visible: every second line is dotted.
            style = "o-" if next(dashes) else "o:"
            places = seen[: len(values)]
            axes.plot(places, values, style, color=color, label=label, ms=4)
            for line, x, y in (published or {}).get(name, ()):
                axes.plot(x, y, "--", color=color, label=_label(line), lw=1)
            if run["n"] > 1:
                band = 100 * np.array(one["seen_accuracy"]["std"])
                axes.fill_between(
                    places, values - band, values + band, color=color, alpha=0.2, lw=0
                )
        axes.set(ylim=(0, 102), xlabel="classes seen", ylabel="accuracy on all of them (%)")
        axes.set_xticks(seen if len(seen) <= 12 else seen[:: len(seen) // 10])
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            labelspacing=0.6,
            fontsize=8,
            title=AVERAGE,
            title_fontsize=8,
            alignment="left",
        )
        axes.set_title(drawable("\n".join(filter(None, (protocol(first), ", ".join(common))))))
        figure.tight_layout()
        return figure


def _label(text: str) -> str:
    return textwrap.fill(drawable(text), LABEL_WIDTH)


def accuracy_matrix(results: dict[str, Any]) -> Figure:
    """Accuracy on each task after each task, for the method's own classifier."""
    one = results["classifiers"][results["headline"]]
    n = len(one["accuracy_matrix"])
    matrix = np.full((n, n), np.nan)
    for t, row in enumerate(one["accuracy_matrix"]):
        matrix[t, : t + 1] = 100 * np.array(row)
    side = min(LARGEST, max(3.6, 0.45 * n + 1.6))
    figure = Figure(figsize=(side + 0.8, side))
    axes = figure.subplots()
    image = axes.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
    if n <= 20:
        for t in range(n):
            for j in range(t + 1):
                color = "white" if matrix[t, j] < 60 else "black"
                axes.text(j, t, f"{matrix[t, j]:.0f}", ha="center", va="center", color=color)
    ticks = range(n) if n <= 20 else range(0, n, max(5, n // 20))
    labels = [str(t + 1) for t in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.set(xlabel="accuracy on task", ylabel="after learning task")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="%")
    axes.set_title(f"{_title(results)}\nclassifier: {results['headline']}")
    return figure


def curves(results: dict[str, Any], epochs: Sequence[dict[str, Any]]) -> Figure:
    """Loss and accuracy of the current task, epoch by epoch.

    The training loss is over all that is trained on, exemplars included; the rest is over the
    task's own classes.
    """
    figure = Figure(figsize=(8.4, 4.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    by_task = itertools.groupby(range(len(epochs)), key=lambda i: epochs[i]["task"])
    tasks = [list(rows) for _, rows in by_task]
    for axes, what, scale in ((top, "loss", 1), (bottom, "accuracy", 100)):
        for color, split in zip(COLORS, ("train", "test"), strict=False):
            for rows in tasks:
                values = [scale * epochs[i][f"{split}_{what}"] for i in rows]
                axes.plot(
                    np.array(rows) + 1,
                    values,
                    ".-",
                    ms=3,
                    lw=1,
                    color=color,
                    label=None if rows[0] else split,
                )
        for rows in tasks[1:]:
            axes.axvline(rows[0] + 0.5, color="#bbbbbb", lw=0.8)
    top.set(ylabel="loss", ylim=(0, None))
    bottom.set(ylabel="accuracy (%), linear", xlabel="epochs, over all tasks", ylim=(0, 102))
    top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    top.set_title(f"{_title(results)}\nthe current task")
    return figure


def confusion(results: dict[str, Any], measured: Confusion) -> Figure:
    """Confusion matrix after the last task, for the method's own classifier.

    Of many classes those that came one after the other are put together, see `thinning.groups`.
    """
    shown = groups(results["class_names"], results["task_sizes"], measured.n_classes)
    counts = measured.grouped(shown.bounds)
    share = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n, names = len(counts), [drawable(name) for name in shown.names]
    side = min(LARGEST, max(4.0, 0.13 * n + 3.0))
    figure = Figure(figsize=(side + 0.8, side))
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=100, cmap="Blues", interpolation="nearest")
    size = 9 if n <= 20 else max(4, 500 / n)
    axes.set_xticks(range(n), names, rotation=90, fontsize=size)
    axes.set_yticks(range(n), names, fontsize=size)
    for bound in shown.tasks:
        axes.axhline(bound - 0.5, color="#999999", lw=0.5)
        axes.axvline(bound - 0.5, color="#999999", lw=0.5)
    axes.set(xlabel="predicted class", ylabel="true class, in the order they came")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class")
    note = f"\n{shown.note}" if shown.note else ""
    axes.set_title(f"{_title(results)}\nclassifier: {results['headline']}{note}")
    return figure


def _title(results: dict[str, Any]) -> str:
    """Whose numbers they are, in lines that fit a figure."""
    return textwrap.fill(drawable(caption(results)), 72)


def _text(results: dict[str, Any]) -> str:
    """All text in the figures of a run that is not ours."""
    return "".join([caption(results), *results["class_names"]])
