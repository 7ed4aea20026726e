"""The figures of runs, drawn from the files in their folders."""

import io
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from cil_jax.confusion import Confusion
from cil_jax.errors import needs_extra
from cil_jax.files import writing
from cil_jax.report.percentages import percentage
from cil_jax.report.tables import (
    SelectionResult,
    caption,
    column_name,
    protocol,
    sample,
    training_parts,
)
from cil_jax.report.thinning import spread
from cil_jax.storage.run_folder import MetricsLine, RunFolder
from cil_jax.storage.schemas import n_learned

with needs_extra("plots", "figures"):
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    from cil_jax.report.figure_style import COLORS, save, styled, title
    from cil_jax.report.fonts import drawable, families
    from cil_jax.report.matrix_figures import accuracy_matrix, confusion, task_confusion

AVERAGE = "average incremental accuracy\n(including the first task)"  # title of a legend
MOST_NAMED = 12  # characters without a font that a warning names
MOST_LINES = 10  # tasks that a legend names
MOST_NAMED_CLASSES = 100  # in a figure of all classes
LABEL_WIDTH = 44  # characters per line in the legend of several groups
LABEL_GAP = 6.5  # percentage points between labels at the ends of lines


def draw(
    folder: RunFolder,
    warn: Callable[[str], None] = lambda line: None,
    lines: Sequence[MetricsLine] | None = None,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Draws all figures of a run into its folder.

    Args:
      folder: the folder of a run that has results.
      warn: called with a message if no installed font has a character that a figure shows.
      lines: the lines of metrics.jsonl, if they have been read already.
      formats: of the files, such as "png", "pdf" and "svg".

    Returns:
      The files, such as seen_accuracy.png. The last ones are curves.
    """
    results = folder.results()
    epochs, confusions = folder.epochs(results, lines), folder.confusions(results)
    writing.make_folder(folder.figures)
    files = []
    text = _names_of_user(results)
    if missing := families(text)[1]:
        named = missing if len(missing) <= MOST_NAMED else f"{missing[:MOST_NAMED]}..."
        warn(
            f"no installed font has {named}: figures show squares instead; install a font such as "
            "Noto Sans CJK"
        )
    with styled(text):
        figures = {**_figures_of_task(results, confusions), "curves": curves(results, epochs)}
        for name, figure in figures.items():
            for file_format in formats:
                file = folder.figures / f"{name}.{file_format}"
                with writing.replaced(file) as out:
                    save(figure, out, file_format)
                files.append(file)
    return files


def figure_pixels(
    results: Mapping[str, Any], confusions: Mapping[str, Confusion]
) -> dict[str, np.ndarray]:
    """Draws the figures that change with each task as arrays.

    Args:
      results: the contents of results.json.
      confusions: the confusion matrix of each classifier after the last task learned.

    Returns:
      Pixels uint8 [H, W, 3] of each figure, by its name.
    """
    pixels = {}
    with styled(_names_of_user(results)):
        for name, figure in _figures_of_task(results, confusions).items():
            file = io.BytesIO()
            save(figure, file, "png")
            pixels[name] = np.asarray(PIL.Image.open(file).convert("RGB"))
    return pixels


def _figures_of_task(
    results: Mapping[str, Any], confusions: Mapping[str, Confusion]
) -> dict[str, Figure]:
    """The figures of a run that change with each task."""
    measured = confusions[results["headline"]]
    return {
        "seen_accuracy": seen_accuracy(results),
        "accuracy_matrix": accuracy_matrix(results),
        **({"forgetting": forgetting(results)} if n_learned(results) > 1 else {}),
        "confusion": confusion(results, measured),
        "task_confusion": task_confusion(results, measured),
        "class_accuracy": class_accuracy(results, measured),
    }


def seen_accuracy(results: Mapping[str, Any]) -> Figure:
    """Accuracy on all classes seen against their number; one line for each classifier."""
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    seen = np.cumsum(results["task_sizes"])
    last_values = [
        100 * summary["seen_accuracy"][-1] for summary in results["classifiers"].values()
    ]
    label_heights = _apart(last_values, LABEL_GAP)
    classifiers = results["classifiers"].items()
    for color, height, (name, summary) in zip(COLORS, label_heights, classifiers, strict=False):
        fractions = summary["seen_accuracy"]
        x = seen[: len(fractions)]
        average = percentage(summary["average_incremental_accuracy"])
        style = "o-" if name == results["headline"] else "o--"
        label = f"{column_name(results, name)}: average {average}"
        axes.plot(x, 100 * np.array(fractions), style, color=color, label=label, ms=4)
        axes.annotate(
            percentage(fractions[-1]),
            (x[-1], height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=color,
        )
    _label_seen_axes(axes, seen)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, -0.16),  # below the axes: within, it would cover low curves
        borderaxespad=0,
        title=AVERAGE,
        alignment="left",
        fontsize=8,
        title_fontsize=8,
    )
    axes.set_title(title(results))
    return figure


def forgetting(results: Mapping[str, Any]) -> Figure:
    """How far the accuracy on each task is below its best so far, after each later task.

    The mean over the earlier tasks is the forgetting of Chaudhry et al. 2018; see
    `cil_jax.metrics.summarize`. Some tasks are left out if there are many, but not of the mean.

    Args:
      results: the contents of results.json, after at least two tasks.
    """
    matrix = results["classifiers"][results["headline"]]["accuracy_matrix"]
    n_tasks = len(matrix)
    lost = np.full((n_tasks - 1, n_tasks), np.nan)  # of task j after task t
    for t, row in enumerate(matrix):
        for j in range(t):
            lost[j, t] = 100 * (max(matrix[k][j] for k in range(j, t)) - row[j])
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    x = np.arange(1, n_tasks + 1)
    shown = spread(n_tasks - 1, MOST_LINES)
    for color, j in zip(_ramp(len(shown)), shown, strict=True):
        axes.plot(x, lost[j], "o-", ms=3, lw=1, color=color, label=f"task {j + 1}")
    means = [np.nanmean(lost[:, t]) for t in range(1, n_tasks)]
    axes.plot(x[1:], means, "k--", lw=2, label="mean of all (forgetting)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set(xlabel="after task", ylabel="points below the best accuracy so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(f"{title(results)}\nclassifier: {results['headline']}")
    return figure


def _ramp(n: int) -> np.ndarray:
    """Colours of n tasks in their order."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.95, n))


def class_accuracy(results: Mapping[str, Any], measured: Confusion) -> Figure:
    """The accuracy on each class seen, sorted; the colour is the task of the class.

    Args:
      results: the contents of results.json.
      measured: the confusion matrix.
    """
    bounds = np.cumsum([0, *results["task_sizes"]])
    right = [
        n_images[answers == label].sum() / max(n_images.sum(), 1)
        for label in range(measured.n_classes)
        for answers, n_images in [measured.answers(label)]
    ]
    order = np.argsort(right, kind="stable")[::-1]
    task_of = np.searchsorted(bounds, order, side="right") - 1
    n_tasks = int(task_of.max()) + 1
    colors = _ramp(n_tasks)
    figure = Figure(figsize=(min(16.0, max(4.0, 0.16 * len(order))), 3.2))
    axes = figure.subplots()
    axes.bar(range(len(order)), 100 * np.array(right)[order], color=colors[task_of], width=0.85)
    names = [drawable(results["class_names"][label]) for label in order]
    if len(order) <= MOST_NAMED_CLASSES:
        axes.set_xticks(range(len(order)), names, rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(order)} classes; best: {names[0]}; worst: {names[-1]}")
    axes.grid(visible=False, axis="x")
    axes.set(xlim=(-0.6, len(order) - 0.4), ylim=(0, 102), ylabel="accuracy (%)")
    handles = [
        Patch(color=colors[task], label=f"task {task + 1}") for task in spread(n_tasks, MOST_LINES)
    ]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1), fontsize=8)
    axes.set_title(f"{title(results)}\nclassifier: {results['headline']}")
    return figure


def _label_seen_axes(axes: Axes, seen: np.ndarray) -> None:
    """Axes of the accuracy in percent against the number of classes seen, int [T]."""
    axes.set(ylim=(0, 102), xlabel="classes seen", ylabel="accuracy on all classes seen (%)")
    axes.set_xticks(seen if len(seen) <= 12 else seen[:: len(seen) // 10])


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Positions for labels from 0 up, near their values and at least `gap` apart."""
    places = np.array(values, float)
    order = np.argsort(places)
    for low, high in itertools.pairwise(order):
        places[high] = max(places[high], places[low] + gap)
    places -= (places - values).mean()
    return (places + max(0.0, -places.min())).tolist()


def seen_accuracy_of_groups(
    groups_to_show: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Sequence[tuple[str, list[int], list[float]]]] | None = None,
) -> Figure:
    """Mean accuracy on all classes seen of several groups, by each method's own classifier.

    Bands show one standard deviation over the members of a group.

    Args:
      groups_to_show: summaries from `cil_jax.storage.replicates.summarize` by the names to show;
        all of one protocol.
      published: lines to add for some of these names, each with label, x and y in percent.
    """
    published = published or {}
    labels = [label for lines in published.values() for label, *_ in lines]
    captions = [protocol(summary) for summary in groups_to_show.values()]
    with styled("".join([*groups_to_show, *captions, *labels])):
        figure = Figure(figsize=(4.6, 3.6), dpi=120)
        axes = figure.subplots()
        first = next(iter(groups_to_show.values()))
        seen = np.cumsum(first["task_sizes"])
        # The title names what all groups share; the legend names the rest.
        parts = zip(*map(training_parts, groups_to_show.values()), strict=True)
        common = [values[0] for values in parts if values[0] and len(set(values)) == 1]
        # Solid and dotted lines alternate, so that lines on top of each other stay visible.
        styles = zip(itertools.cycle(COLORS), itertools.cycle(("o-", "o:")), strict=False)
        for (color, style), (name, summary) in zip(styles, groups_to_show.items(), strict=False):
            curve = summary["classifiers"][summary["headline"]]["seen_accuracy"]
            values = 100 * np.array(curve["mean"])
            x = seen[: len(values)]
            label = _group_label(name, summary, common)
            axes.plot(x, values, style, color=color, label=label, ms=4)
            for line_label, line_x, line_y in published.get(name, ()):
                axes.plot(line_x, line_y, "--", color=color, label=_wrapped(line_label), lw=1)
            if summary["n"] > 1:
                band = 100 * np.array(curve["std"])
                axes.fill_between(x, values - band, values + band, color=color, alpha=0.2, lw=0)
        _label_seen_axes(axes, seen)
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
        return figure


def _group_label(name: str, summary: Mapping[str, Any], common: Sequence[str]) -> str:
    """A group's label: name, classifier, n, average, and how its training differs from others'."""
    numbers = summary["classifiers"][summary["headline"]]
    average = percentage(numbers["average_incremental_accuracy"]["mean"])
    differing = [part for part in training_parts(summary) if part and part not in common]
    head = _wrapped(f"{name}, {summary['headline']}, {sample(summary)}")
    return head + "\n" + _wrapped(", ".join([f"average {average}", *differing]))


def _wrapped(text: str) -> str:
    return textwrap.fill(drawable(text), LABEL_WIDTH)


def curves(results: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and accuracy after each epoch, on the task that is being learned.

    The training loss is over all training images of the task, exemplars included; the other
    values are over the task's own classes.

    Args:
      results: the contents of results.json.
      epochs: the lines of metrics.jsonl about epochs.
    """
    figure = Figure(figsize=(8.4, 4.6))
    top, bottom = figure.subplots(2, 1, sharex=True)
    by_task = itertools.groupby(range(len(epochs)), key=lambda i: epochs[i]["task"])
    tasks = [list(indices) for _, indices in by_task]
    for axes, quantity, scale in ((top, "loss", 1), (bottom, "accuracy", 100)):
        for color, split in zip(COLORS, ("train", "test"), strict=False):
            for indices in tasks:
                x = np.array(indices) + 1
                y = [scale * epochs[i][f"{split}_{quantity}"] for i in indices]
                label = None if indices[0] else split  # once in the legend
                axes.plot(x, y, ".-", ms=3, lw=1, color=color, label=label)
        for indices in tasks[1:]:
            axes.axvline(indices[0] + 0.5, color="#bbbbbb", lw=0.8)
    top.set(ylabel="loss", ylim=(0, None))
    classifier = "linear" if "linear" in results["classifiers"] else results["headline"]
    label = f"accuracy (%), {classifier}"
    bottom.set(ylabel=label, xlabel="epoch, counted over all tasks", ylim=(0, 102))
    if tasks:  # damaged lines are left out, and may be all there are
        top.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)
    # The first epoch is 1, and a tick at 0 would mark nothing.
    bottom.set_xlim(0.5, max(1, len(epochs)) + 0.5)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    top.set_title(f"{title(results)}\nloss and accuracy on the current task")
    return figure


def selection(rows: Sequence[SelectionResult], results: Mapping[str, Any]) -> Figure:
    """Accuracy with herded and with random exemplars, against their number for each class.

    Args:
      rows: the result of `cil_jax.trained.analysis.selection_by_count`.
      results: the contents of results.json of the run whose network was used.
    """
    figure = Figure(figsize=(5.6, 3.8))
    axes = figure.subplots()
    counts = [row.count for row in rows]
    n_draws = len(rows[0].random)
    means = 100 * np.array([np.mean(row.random) for row in rows])
    axes.plot(
        counts, [100 * row.herded for row in rows], "o-", ms=4, color=COLORS[0], label="herding"
    )
    label = f"random, mean of {n_draws}" if n_draws > 1 else "random"
    axes.plot(counts, means, "s--", ms=4, color=COLORS[1], label=label)
    if n_draws > 1:
        deviations = 100 * np.array([np.std(row.random, ddof=1) for row in rows])
        axes.fill_between(
            counts, means - deviations, means + deviations, color=COLORS[1], alpha=0.2, lw=0
        )
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set(
        xlabel="exemplars of each class", ylabel="accuracy on all classes seen (%)", ylim=(0, None)
    )
    axes.legend(loc="lower right")
    axes.set_title(f"{title(results)}\nnearest mean of exemplars, selected with the last network")
    return figure


def _names_of_user(results: Mapping[str, Any]) -> str:
    """All text in a run's figures that users choose, such as class names."""
    return "".join([caption(results), *results["class_names"]])
