"""Results as tables for the terminal, each of which says whose numbers they are."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from cil_jax.metrics import USES_ALL_DATA
from cil_jax.report.escaping import markdown
from cil_jax.report.published_results import sources, tasks
from cil_jax.settings.config import flag
from cil_jax.storage.replicates import n_learned

LAST_ROWS = (
    ("  old classes", "old_accuracy"),
    ("  new classes", "new_accuracy"),
    ("  top-5", "top5_accuracy"),
    ("  task-aware (the task is told)", "task_aware_accuracy"),
)
SUMMARY_ROWS = (
    ("average incremental accuracy", "average_incremental_accuracy"),
    ("  without the first task", "average_incremental_accuracy_without_first"),
    ("last accuracy", "last_accuracy"),
    ("forgetting", "forgetting"),
)


def percent(fraction: float | None) -> str:
    """A fraction 0..1 as a percentage, '-' for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}%"


def size_of(n_bytes: int | None) -> str:
    """Such as '1.2 GB', '-' for None."""
    if n_bytes is None:
        return "-"
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.1f} {unit}"
    return f"{n_bytes} bytes"


def selection(rows: Sequence[Any], results: dict[str, Any]) -> Table:
    """Accuracy with herded and with random exemplars, a row for each number of them.

    Args:
      rows: of `cil_jax.trained.analysis.selection_by_count`.
      results: what results.json holds, of the run whose network it is.
    """
    n = len(rows[0].random)
    title = (
        f"{caption(results)}\naccuracy on all classes seen, by the nearest mean of exemplars, "
        "chosen anew among all training images under the run's last network"
    )
    table = Table(title=title, title_justify="left")
    for title in ("exemplars a class", "herded", f"random, mean of {n}", "deviation"):
        table.add_column(title, justify="right")
    for row in rows:
        mean, deviation = np.mean(row.random), np.std(row.random, ddof=1) if n > 1 else None
        table.add_row(str(row.count), percent(row.herded), percent(mean), percent(deviation))
    return table


def summary(results: dict[str, Any]) -> Table:
    """Seen accuracy after each task and the run's summary, a column for each classifier.

    Args:
      results: what results.json holds.
    """
    return _accuracies(results, lambda value, t=None: percent(value if t is None else value[t]))


def group_summary(summary: dict[str, Any]) -> Table:
    """The same of several members: means and standard deviations.

    Args:
      summary: of `cil_jax.storage.replicates.summarize`.
    """

    def cell(value, t=None):
        return spread(*(value[k] if t is None else value[k][t] for k in ("mean", "std")))

    return _accuracies(summary, cell)


def caption(results: dict[str, Any]) -> str:
    """Whose numbers they are: method, preset, protocol, order and n, in one sentence.

    Args:
      results: what results.json or summary.json holds.
    """
    on = f"{run_name(results)} on {protocol(results)}{seeds(results)}"
    return f"{on}; {training(results)}; {sample(results)}"


def run_name(results: dict[str, Any]) -> str:
    """Method, preset and what was changed of it: 'lwf (pycil)', 'icarl (paper, with distill none)'.

    Args:
      results: what results.json or summary.json holds.
    """
    changed = results.get("changed", {})  # results of older versions lack it
    said = f"with {', '.join(setting(*one) for one in changed.items())}" if changed else ""
    more = ", ".join(filter(None, (results["preset"], said)))
    return results["method"] + (f" ({more})" if more else "")


def setting(name: str, value: Any) -> str:
    """A setting in the words of its flag."""
    word = flag(name).removeprefix("--")
    if isinstance(value, bool):
        return word if value else f"no-{word}"
    values = value if isinstance(value, list) else [value]
    return " ".join([word, *(f"{x:g}" if isinstance(x, float) else str(x) for x in values)])


def seeds(results: dict[str, Any]) -> str:
    """The seed of a run; and of a run or a group that of the data, where it is another."""
    runs = [results["seeds"]] if "seeds" in results else results["members"]
    seed = f", seed {results['seeds']['init']}" if "seeds" in results else ""
    of_data = sorted({one["data"] for one in runs if one["data"] != one["init"]})
    return seed + (f", data seed {', '.join(map(str, of_data))}" if of_data else "")


def training(results: dict[str, Any]) -> str:
    """Network, epochs and what is kept of old tasks, of a run or a group."""
    return ", ".join(filter(None, training_parts(results)))


def training_parts(results: dict[str, Any]) -> tuple[str, str, str]:
    """The same by themselves; what is kept is '' where nothing is."""
    epochs = ", then ".join(map(str, dict.fromkeys(results["epochs"])))
    plural = "s" if max(results["epochs"]) > 1 else ""
    kept = f"{results['exemplars']} exemplars" if results["exemplars"] else ""
    kept = "all data kept" if results["keeps_all_data"] else kept
    return results["backbone"], f"{epochs} epoch{plural} a task", kept


def sample(results: dict[str, Any]) -> str:
    """How many of what the numbers are a mean of, such as 'n = 5 orders (15 runs)'.

    Args:
      results: what results.json or summary.json holds.
    """
    n = results.get("n", 1)
    if n == 1:
        return "n = 1"
    runs = len(results["members"])
    return f"n = {n} {results['over']}" + (f" ({runs} runs)" if runs > n else "")


def protocol(results: dict[str, Any]) -> str:
    """What is learned and in which order: what runs must share to be compared."""
    sizes = results["task_sizes"]
    orders = ", ".join(results["orders"]) if "orders" in results else results["order"]
    return (
        f"{results['dataset']}, {len(sizes)} task{'s'[: len(sizes) - 1]} of {_either(sizes)} "
        f"classes, order {orders}"
    )


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, dict.fromkeys(numbers)))


def classifier_name(classifier: str, note: str = "") -> str:
    """A classifier's name with what one must know of it, such as 'ncm (all data)'."""
    known = "all data" if classifier in USES_ALL_DATA else ""
    said = "; ".join(filter(None, (known, note)))
    return classifier + (f" ({said})" if said else "")


def column_name(results: dict[str, Any], classifier: str) -> str:
    """The same in the table of a run, whose own classifier is marked."""
    return classifier_name(classifier, "its own" if classifier == results["headline"] else "")


def spread(mean: float | None, std: float | None) -> str:
    """Such as '50.2% +- 1.1'."""
    return percent(mean) + ("" if std is None else f" +- {100 * std:.1f}")


def _accuracies(results: dict[str, Any], cell: Callable[..., str]) -> Table:
    """The table of a run or of a group; `cell` says a number, or that of task t in a list."""
    title = f"{caption(results)}\naccuracy on all classes seen"
    table = Table(title=title, title_justify="left")
    table.add_column("classes seen")
    for name in results["classifiers"]:
        table.add_column(column_name(results, name), justify="right")
    columns = list(results["classifiers"].values())
    seen = np.cumsum(results["task_sizes"])[: n_learned(results)]
    for t, n_seen in enumerate(seen):
        table.add_row(str(n_seen), *(cell(c["seen_accuracy"], t) for c in columns))
    table.add_section()
    for label, key in SUMMARY_ROWS:
        table.add_row(label, *(cell(c[key]) for c in columns))
        if key == "last_accuracy":
            for part, part_key in LAST_ROWS:
                table.add_row(part, *(cell(c[part_key], -1) for c in columns))
    return table


def reproduction(lines: Sequence[tuple[Any, Any, bool | None]], about: str) -> Table:
    """Published rows beside ours.

    Args:
      lines: for each row a `Row` of `cil_jax.report.published_results`, its Outcome, and whether it
        lies in its band (None: it has none, or is not to be compared).
      about: the protocol of our runs.
    """
    title = f"{REPRODUCTION_HEAD}\npublished: {PUBLISHED_ABOUT}\nours: {about}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in REPRODUCTION_COLUMNS:
        is_text = name in ("run", "classifier", "source")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for line in lines:
        table.add_row(*reproduction_cells(*line))
    return table


REPRODUCTION_HEAD = (
    "CIFAR-100, average incremental (first task included) / last accuracy in percent"
)
PUBLISHED_ABOUT = "ResNet-32, 2000 exemplars where any are kept"
REPRODUCTION_COLUMNS = (
    *("run", "tasks", "classifier", "published", "source"),
    *("ours", "n", "order", "difference", "in band"),
)


def reproduction_cells(row: Any, ours: Any, in_band: bool | None) -> list[str]:
    """The cells of a line of `reproduction`: average / last in percent, and their differences."""
    said = {True: "yes", False: "no", None: "-"}[in_band]
    classifier = classifier_name(row.classifier, row.note)
    cells = [row.run, tasks(row), classifier, published_pair(row), row.source]
    if not ours.n:
        return [*cells, "not run", "0", "-", "-", "-"]

    def mean_and_deviation(one):
        mean, std = one
        return f"{mean:.1f}" + ("" if std is None else f" +- {std:.1f}")

    values = (ours.average, ours.last)
    differences = [
        None if theirs is None or our is None else our[0] - theirs
        for theirs, our in zip((row.average, row.last), values, strict=True)
    ]
    difference = _pair(differences, lambda x: f"{x:+.1f}")
    n = str(ours.n) if ours.n == 1 else f"{ours.n} {ours.over}"
    orders = ", ".join(order.removeprefix("seeded ") for order in ours.orders)
    return [*cells, _pair(values, mean_and_deviation), n, orders, difference, said]


def published_pair(row: Any) -> str:
    """Published average and last accuracy, such as '64.1 / 49.5'."""
    return " / ".join(published_value(row, which) for which in ("average", "last"))


def published_value(row: Any, which: str) -> str:
    """The published "average" or "last" accuracy of a row in percent, '-' for none.

    What was read off a figure is "about" so much.
    """
    value = getattr(row, which)
    return "-" if value is None else f"{'about ' if which in row.about else ''}{value:g}"


def _pair(values: Sequence[Any], text: Callable[[Any], str]) -> str:
    return " / ".join("-" if value is None else text(value) for value in values)


def reproduction_markdown(
    lines: Sequence[tuple[Any, Any, bool | None]], about: str, commands: Sequence[str]
) -> str:
    """The table of `reproduction` as Markdown, with what its sources are and the commands."""
    rows = [REPRODUCTION_COLUMNS, ["---"] * len(REPRODUCTION_COLUMNS)]
    rows += [reproduction_cells(*line) for line in lines]
    head = f"{REPRODUCTION_HEAD}. Published: {PUBLISHED_ABOUT}. Ours: {about}."
    named = {row.source for row, *_ in lines}
    legend = [f"- {key}: {source}" for key, source in sources().items() if key in named]
    made = [f"    {command}" for command in commands]
    table = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    return "\n".join([head, "", *table, "", *legend, "", *made])
