"""Results as tables for the terminal; each caption names the run and its protocol."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from rich import box
from rich.table import Table

from cil_jax.metrics import USES_ALL_DATA
from cil_jax.report import thinning
from cil_jax.report.escaping import markdown
from cil_jax.report.percentages import percent, percentage, round_percentage
from cil_jax.report.published_results import Outcome, Row, sources, task_sizes, tasks
from cil_jax.settings.declaring import flag
from cil_jax.storage.replicates import n_learned

MOST_TASKS = 12  # columns of a table
LAST_ROWS = (
    ("  old classes", "old_accuracy"),
    ("  new classes", "new_accuracy"),
    ("  top-5", "top5_accuracy"),
    ("  task-aware", "task_aware_accuracy"),
)
SUMMARY_ROWS = (
    ("average incremental accuracy", "average_incremental_accuracy"),
    ("  without the first task", "average_incremental_accuracy_without_first"),
    ("last accuracy", "last_accuracy"),
    ("forgetting", "forgetting"),
)
REPRODUCTION_HEAD = (
    "CIFAR-100: average incremental accuracy (including the first task) / last accuracy, in percent"
)
PUBLISHED_ABOUT = (
    "ResNet-32 and, for methods with exemplars, 2000 of them, unless the source says otherwise"
)
REPRODUCTION_COLUMNS = (
    *("run", "tasks", "classifier", "published", "source"),
    *("ours", "n", "order", "seeds", "difference", "in band"),
)


class SelectionResult(Protocol):
    """Accuracies 0..1 for one number of exemplars; see `cil_jax.trained.analysis.Selected`."""

    @property
    def count(self) -> int: ...
    @property
    def herded(self) -> float: ...
    @property
    def random(self) -> tuple[float, ...]: ...


class AnswersResult(Protocol):
    """Accuracies 0..1 of a classifier; see `cil_jax.trained.answers.Answer`."""

    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def seen(self) -> float: ...
    @property
    def tasks(self) -> tuple[float, ...]: ...


def size_of(n_bytes: int | None) -> str:
    """A size such as '1.2 GB'; '-' for None."""
    if n_bytes is None:
        return "-"
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.1f} {unit}"
    return f"{n_bytes} bytes"


def selection(rows: Sequence[SelectionResult], results: Mapping[str, Any]) -> Table:
    """Accuracy with herded and with random exemplars, one row for each number of exemplars.

    Args:
      rows: the result of `cil_jax.trained.analysis.selection_by_count`.
      results: the contents of results.json of the run whose network was used.
    """
    n_draws = len(rows[0].random)
    title = (
        f"{caption(results)}\naccuracy on all classes seen, by the nearest mean of exemplars; "
        "the exemplars are selected from all training images with the run's last network"
    )
    table = Table(title=title, title_justify="left")
    for name in (
        *("exemplars per class", "herding"),
        *(f"random, mean of {n_draws}", "standard deviation"),
    ):
        table.add_column(name, justify="right")
    for row in rows:
        mean = float(np.mean(row.random))
        std = float(np.std(row.random, ddof=1)) if n_draws > 1 else None
        table.add_row(str(row.count), percent(row.herded), percent(mean), percent(std))
    return table


def answers(rows: Sequence[AnswersResult], results: Mapping[str, Any]) -> Table:
    """Accuracy of several classifiers of one network, on all classes seen and on each task.

    Args:
      rows: the result of `cil_jax.trained.answers.answers`.
      results: the contents of results.json of the run whose network was used.
    """
    n_tasks = len(rows[0].tasks)
    title = (
        f"{caption(results)}\nclassifiers of the network after task {n_tasks}; accuracy in percent"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("classifier")
    table.add_column("made from")
    table.add_column("all classes", justify="right")
    shown = thinning.spread(n_tasks, MOST_TASKS)
    for task in shown:
        table.add_column(f"task {task + 1}", justify="right")
    for row in rows:
        name = column_name(results, row.name) if row.name == results["headline"] else row.name
        cells = [percentage(row.seen), *(percentage(row.tasks[task]) for task in shown)]
        table.add_row(name, row.source, *cells)
    return table


def class_counts(counts: np.ndarray, bounds: Sequence[int], about: str) -> Table:
    """The images that each task has of its own classes and of those of earlier tasks.

    Args:
      counts: int [classes, T], classes in the class order.
      bounds: T + 1 numbers of classes; see `cil_jax.data.scenario.Scenario.bounds`.
      about: the title.
    """
    table = Table(title=about, title_justify="left")
    for name in (
        *("task", "new classes", "images", "smallest", "largest", "old classes", "images of these"),
    ):
        table.add_column(name, justify="right")
    for t, (first, end) in enumerate(itertools.pairwise(bounds)):
        new, old = counts[first:end, t], counts[:first, t]
        numbers = (t + 1, end - first, new.sum(), new.min(), new.max(), (old > 0).sum(), old.sum())
        table.add_row(*map(str, numbers))
    return table


def summary(results: Mapping[str, Any]) -> Table:
    """Accuracy after each task and the summary of a run, one column for each classifier.

    Args:
      results: the contents of results.json.
    """

    def cell(value: Any, task: int | None = None) -> str:
        return percent(value if task is None else value[task])

    return _accuracies(results, cell)


def group_summary(summary: Mapping[str, Any]) -> Table:
    """The table of `summary` for several runs: means and standard deviations.

    Args:
      summary: the result of `cil_jax.storage.replicates.summarize`.
    """

    def cell(value: Any, task: int | None = None) -> str:
        mean, std = value["mean"], value["std"]
        return spread(mean, std) if task is None else spread(mean[task], std[task])

    return _accuracies(summary, cell)


def caption(results: Mapping[str, Any]) -> str:
    """Describes a run or group in one sentence: method, preset, protocol, training and n.

    Args:
      results: the contents of results.json or summary.json.
    """
    name_and_protocol = f"{run_name(results)} on {protocol(results)}{seeds(results)}"
    return f"{name_and_protocol}; {training(results)}; {sample(results)}"


def run_name(results: Mapping[str, Any]) -> str:
    """Method, preset and changed settings: 'lwf (pycil)', 'icarl (paper, with distill none)'.

    Args:
      results: the contents of results.json or summary.json.
    """
    changed = results.get("changed", {})  # missing in results of older versions
    changes = f"with {', '.join(setting(*item) for item in changed.items())}" if changed else ""
    details = ", ".join(filter(None, (results["preset"], changes)))
    return results["method"] + (f" ({details})" if details else "")


def setting(name: str, value: Any) -> str:
    """A setting as on the command line, without the dashes: 'rate 0.1', 'no-last-relu'."""
    word = flag(name).removeprefix("--")
    if isinstance(value, bool):
        return word if value else f"no-{word}"
    values = value if isinstance(value, list) else [value]
    return " ".join([word, *(f"{x:g}" if isinstance(x, float) else str(x) for x in values)])


def seeds(results: Mapping[str, Any]) -> str:
    """The seed of a run, and the data seed of a run or group if it differs from the seed."""
    members = [results["seeds"]] if "seeds" in results else results["members"]
    seed = f", seed {results['seeds']['init']}" if "seeds" in results else ""
    data_seeds = sorted({member["data"] for member in members if member["data"] != member["init"]})
    return seed + (f", data seed {', '.join(map(str, data_seeds))}" if data_seeds else "")


def training(results: Mapping[str, Any]) -> str:
    """Network, epochs and what a run or group keeps of old tasks, in one phrase."""
    return ", ".join(filter(None, training_parts(results)))


def training_parts(results: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Network, epochs, augmentation if it is not standard, and what is kept of old tasks.

    The last two are '' for none.
    """
    epochs = ", then ".join(map(str, dict.fromkeys(results["epochs"])))
    plural = "s" if max(results["epochs"]) > 1 else ""
    kept = f"{results['exemplars']} exemplars" if results["exemplars"] else ""
    kept = "all data kept" if results["keeps_all_data"] else kept
    policy = results.get("augmentation", {}).get("policy", "standard")
    augmentation = "" if policy == "standard" else f"{policy} augmentation"
    return results["backbone"], f"{epochs} epoch{plural} per task", augmentation, kept


def sample(results: Mapping[str, Any]) -> str:
    """The sample size of a mean, such as 'n = 5 orders (15 runs)'.

    Args:
      results: the contents of results.json or summary.json.
    """
    n = results.get("n", 1)
    if n == 1:
        return "n = 1"
    n_runs = len(results["members"])
    return f"n = {n} {results['over']}" + (f" ({n_runs} runs)" if n_runs > n else "")


def protocol(results: Mapping[str, Any]) -> str:
    """Data set, tasks and class orders, which runs must share to be compared."""
    sizes = results["task_sizes"]
    orders = ", ".join(results["orders"]) if "orders" in results else results["order"]
    plural = "s" if len(sizes) > 1 else ""
    tasks = f"{len(sizes)} task{plural} of {sizes_in_words(sizes)} classes"
    share = results.get("validation")
    tested = "" if share is None else f", tested on {percent(share)} of the training images"
    scenario = f", {results['scenario']}" if results.get("scenario") else ""
    return f"{results['dataset']}{tested}, {tasks}, order {orders}{scenario}"


def sizes_in_words(sizes: Sequence[int]) -> str:
    """The sizes of all tasks, such as '10' if all have 10 classes, or '50 and 5 x 10'."""
    runs = [(size, len(list(equal))) for size, equal in itertools.groupby(sizes)]
    if len(runs) == 1:
        return str(sizes[0])
    *words, last = [str(size) if n == 1 else f"{n} x {size}" for size, n in runs]
    return f"{', '.join(words)} and {last}"


def classifier_name(classifier: str, note: str = "") -> str:
    """A classifier's name with remarks, such as 'ncm (all data)'."""
    data = "all data" if classifier in USES_ALL_DATA else ""
    remarks = "; ".join(filter(None, (data, note)))
    return classifier + (f" ({remarks})" if remarks else "")


def column_name(results: Mapping[str, Any], classifier: str) -> str:
    """A classifier's name in the table of a run; the method's own classifier is marked."""
    return classifier_name(classifier, "method's own" if classifier == results["headline"] else "")


def spread(mean: float | None, std: float | None) -> str:
    """A mean and standard deviation, such as '50.2% ± 1.1'."""
    return percent(mean) + ("" if std is None else f" ± {percentage(std)}")


def _accuracies(results: Mapping[str, Any], cell: Callable[..., str]) -> Table:
    """The table of a run or a group.

    Args:
      results: the contents of results.json or summary.json.
      cell: formats a value of a classifier, or the value of the given task in a list.
    """
    title = f"{caption(results)}\naccuracy on all classes seen"
    table = Table(title=title, title_justify="left")
    table.add_column("classes seen")
    for name in results["classifiers"]:
        table.add_column(column_name(results, name), justify="right")
    columns = list(results["classifiers"].values())
    seen = np.cumsum(results["task_sizes"])[: n_learned(results)]
    for task, n_seen in enumerate(seen):
        table.add_row(str(n_seen), *(cell(column["seen_accuracy"], task) for column in columns))
    table.add_section()
    for label, key in SUMMARY_ROWS:
        table.add_row(label, *(cell(column[key]) for column in columns))
        if key == "last_accuracy":
            for part, part_key in LAST_ROWS:
                table.add_row(part, *(cell(column[part_key], -1) for column in columns))
    return table


def reproduction(lines: Sequence[tuple[Row, Outcome, bool | None]], about: str) -> Table:
    """Published results beside ours.

    Args:
      lines: for each row the published result, our outcome, and whether it lies in the row's band
        (None if there is no band or the protocol differs).
      about: a description of the protocol of our runs.
    """
    title = f"{REPRODUCTION_HEAD}\npublished: {PUBLISHED_ABOUT}\nours: {about}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in REPRODUCTION_COLUMNS:
        is_text = name in ("run", "classifier", "source")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for line in lines:
        table.add_row(*reproduction_cells(*line))
    return table


def reproduction_cells(row: Row, ours: Outcome, in_band: bool | None) -> list[str]:
    """The cells of one row of `reproduction`: average / last in percent, and their differences."""
    classifier = classifier_name(row.classifier, row.note)
    cells = [row.run, tasks(row), classifier, published_pair(row), row.source]
    if not ours.n:
        return [*cells, _standing(row, ours), "0", "-", "-", "-", "-"]

    def mean_and_std(value: tuple[float, float | None]) -> str:
        mean, std = value
        return f"{round_percentage(mean)}" + ("" if std is None else f" ± {round_percentage(std)}")

    values = (ours.average, ours.last)
    differences = [
        None if published is None or value is None else value[0] - published
        for published, value in zip((row.average, row.last), values, strict=True)
    ]
    difference = _pair(differences, lambda points: f"{round_percentage(points):+}")
    n = str(ours.n) if ours.n == 1 else f"{ours.n} {ours.over}"
    order = ", ".join(ours.orders)
    seed = ", ".join(map(str, ours.seeds))
    band = _band(row, in_band)
    return [*cells, _pair(values, mean_and_std), n, order, seed, difference, band]


def _standing(row: Row, ours: Outcome) -> str:
    """What to show for a row without a finished run."""
    n_tasks = len(task_sizes(row))
    running = [f"running: {n} of {n_tasks} tasks ({name})" for name, n in ours.learned]
    return "; ".join(running) or "not run"


def _band(row: Row, in_band: bool | None) -> str:
    """Whether our values lie in the band, and the band, such as 'no (43 to 46 / -)'."""
    if in_band is None:
        return "-"
    bands = [row.band.get(which) for which in ("average", "last")]
    text = _pair(bands, lambda band: f"{band[0]:g} to {band[1]:g}")
    return f"{'yes' if in_band else 'no'} ({text})"


def published_pair(row: Row) -> str:
    """Published average and last accuracy, such as '64.1 / 49.5'."""
    return " / ".join(published_value(row, which) for which in ("average", "last"))


def published_value(row: Row, which: str) -> str:
    """The published "average" or "last" accuracy of a row in percent; '-' for None.

    A value that was read off a figure begins with "about".
    """
    value = getattr(row, which)
    return "-" if value is None else f"{'about ' if which in row.about else ''}{value:g}"


def _pair(values: Sequence[Any], text: Callable[[Any], str]) -> str:
    return " / ".join("-" if value is None else text(value) for value in values)


def reproduction_markdown(
    lines: Sequence[tuple[Row, Outcome, bool | None]], about: str, commands: Sequence[str]
) -> str:
    """The table of `reproduction` and the curves as Markdown, then the sources and commands."""
    table = markdown_table(REPRODUCTION_COLUMNS, (reproduction_cells(*line) for line in lines))
    head = f"{REPRODUCTION_HEAD}. Published: {PUBLISHED_ABOUT}. Ours: {about}."
    used_sources = {row.source for row, *_ in lines}
    legend = [f"- {key}: {source}" for key, source in sources().items() if key in used_sources]
    parts = ["\n".join([head, "", table])]
    parts += [_curves_markdown(row, ours) for row, ours, _ in lines if ours.curve]
    parts += ["\n".join(legend), "\n".join(f"    {line}" for line in commands)]
    return "\n\n".join(parts)


def _curves_markdown(row: Row, ours: Outcome) -> str:
    """Our accuracy after each task, beside the published one if there is a curve of it."""
    seen = np.cumsum(task_sizes(row)).tolist()
    n = f"n = {ours.n}" if ours.n else _standing(row, ours)
    orders = f", order {', '.join(ours.orders)}" if ours.orders else ""
    curves = {f"ours ({n}{orders})": ours.curve}
    if row.curve:
        curves[f"published ({row.source})"] = row.curve
    head = f"{row.run}, {classifier_name(row.classifier, row.note)}: accuracy on all classes seen"
    cells = [
        [name, *(f"{round_percentage(x)}" for x in curve), *["-"] * (len(seen) - len(curve))]
        for name, curve in curves.items()
    ]
    return f"{head}\n\n{markdown_table(['classes', *map(str, seen)], cells)}"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(markdown, line)) + " |" for line in lines)
