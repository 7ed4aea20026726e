"""A comparison of groups as a table for the terminal, CSV, LaTeX and Markdown, and as a page."""

import dataclasses
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cil_jax.files import writing
from cil_jax.report import budgets
from cil_jax.report.escaping import csv_table, latex, markdown
from cil_jax.report.groups import Comparison, Group, published, published_lines, source_of
from cil_jax.report.page import render
from cil_jax.report.percentages import in_percent, percentage
from cil_jax.report.published_results import Row, sources
from cil_jax.report.tables import column_name, published_pair, sample, training
from cil_jax.settings.config import Config
from cil_jax.settings.declaring import flag

NUMBERS = {
    "average": "average_incremental_accuracy",
    "without first": "average_incremental_accuracy_without_first",
    "last": "last_accuracy",
    "forgetting": "forgetting",
}
CURVES = {
    "all classes seen": "seen_accuracy",
    "old classes": "old_accuracy",
    "new classes": "new_accuracy",
    "all classes seen, task-aware": "task_aware_accuracy",
}
GROUP_COLUMNS = ("run", "trained", "n")  # the same for all classifiers of a group
COLUMNS = (*GROUP_COLUMNS, "classifier", *NUMBERS)
TEXT = ("run", "trained", "classifier", "published")
# Settings by which a comparison of methods can be unfair.
RECIPE = (
    *("outputs", "normalization", "pad", "mirror", "augmentation", "padding", "brightness"),
    *("backbone", "last_relu", "precision", "epochs", "first_epochs", "batch_size", "rate"),
    *("rate_steps", "first_rate_steps", "rate_factor", "rate_shape", "momentum", "weight_decay"),
    *("first_weight_decay", "decay"),
)


def table(comparison: Comparison) -> Table:
    """One row for each classifier of each group; means and standard deviations in percent."""
    head, rows = _cells(comparison)
    made = Table(title=f"{comparison.protocol}\naccuracy in percent", title_justify="left")
    for name in head:
        made.add_column(name, justify="left" if name in TEXT else "right")
    for row, is_first in rows:
        made.add_row(*(row if is_first else _without_group(row)))
    return made


def as_csv(comparisons: Sequence[Comparison]) -> str:
    """One line for each classifier of each group, with all cells; percentages have 4 decimals."""
    statistics = [(key, statistic) for key in NUMBERS.values() for statistic in ("mean", "std")]
    group_head = ("run", "method", "preset", "dataset", "tasks", "orders", "trained", "n", "over")
    published_head = ("published_average", "published_last", "published_source")
    number_head = [f"{key}_{statistic}" for key, statistic in statistics]
    lines: list[list[Any]] = [[*group_head, "classifier", "own", *number_head, *published_head]]
    for group in itertools.chain(*(comparison.groups for comparison in comparisons)):
        summary = group.summary
        group_cells = [
            *(group.name, summary["method"], summary["preset"], summary["dataset"]),
            " ".join(map(str, summary["task_sizes"])),
            "; ".join(summary["orders"]),
            *(training(summary), summary["n"], summary["over"]),
        ]
        for classifier, numbers in summary["classifiers"].items():
            values = [
                "" if (value := numbers[key][statistic]) is None else percentage(value, 4)
                for key, statistic in statistics
            ]
            row = _published_row(group, classifier)
            published_cells = ["", "", ""] if row is None else [row.average, row.last, row.source]
            is_own = "yes" if classifier == summary["headline"] else "no"
            lines.append([*group_cells, classifier, is_own, *values, *published_cells])
    return csv_table(lines)


def as_markdown(comparisons: Sequence[Comparison]) -> str:
    """The tables, each preceded by its protocol and followed by the sources of published values.

    Areas over memory budgets, if there are any, have a table of their own.
    """
    return "\n".join(map(_as_markdown, comparisons))


def _as_markdown(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    text = [f"Accuracy in percent; {markdown(comparison.protocol)}.", ""]
    text += _markdown_lines(head, TEXT, [row for row, _ in rows])
    legend = [*map(markdown, filter(None, [differing(comparison)])), *_legend(comparison)]
    text += [*([""] if legend else []), *(f"- {line}" for line in legend)]
    if curves := budgets.curves(comparison.groups):
        text += ["", f"{markdown('. '.join(budgets.about(curves)))}.", ""]
        text += _markdown_lines(budgets.COLUMNS, budgets.TEXT, budgets.cells(curves))
    return "\n".join(text) + "\n"


def _markdown_lines(
    head: Sequence[str], texts: Iterable[str], rows: Iterable[Sequence[str]]
) -> list[str]:
    """The lines of a table in Markdown; columns that are no text are aligned to the right."""
    lines = [list(head), ["---" if name in texts else "---:" for name in head]]
    lines += [[markdown(cell) for cell in row] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def as_latex(comparisons: Sequence[Comparison]) -> str:
    """The tables in LaTeX, for the booktabs package."""
    return "\n".join([r"% needs \usepackage{booktabs}", *map(_as_latex, comparisons)])


def _as_latex(comparison: Comparison) -> str:
    head, rows = _cells(comparison)
    notes = [*filter(None, [differing(comparison)]), *_legend(comparison)]
    caption = ". ".join([f"Accuracy in percent; {comparison.protocol}", *notes])
    body: list[str] = []
    for row, is_first in rows:
        if is_first and body:
            body.append(r"    \addlinespace")
        body.append(_latex_line(row if is_first else _without_group(row)))
    tables = [_latex_table(caption, head, TEXT, body)]
    if curves := budgets.curves(comparison.groups):
        body = [_latex_line(row) for row in budgets.cells(curves)]
        about = ". ".join(budgets.about(curves))
        tables.append(_latex_table(about, budgets.COLUMNS, budgets.TEXT, body))
    return "\n".join(tables)


def _latex_line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return "    " + " & ".join(map(latex, cells)) + r" \\"


def _latex_table(
    caption: str, head: Sequence[str], texts: Iterable[str], body: Iterable[str]
) -> str:
    """A table with the given lines; columns that are no text are aligned to the right."""
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex(caption)}.}}",
            rf"  \begin{{tabular}}{{{''.join('l' if name in texts else 'r' for name in head)}}}",
            r"    \toprule",
            _latex_line(head),
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_comparisons(
    comparisons: Sequence[Comparison], file: Path, arguments: Sequence[str]
) -> None:
    """Writes the page of comparisons, with a section for each.

    Args:
      comparisons: the groups to show, by their protocols; at least one.
      file: the file to write.
      arguments: the arguments of the command that writes the page, to be shown on it.
    """
    page = render(
        "compare.html",
        sections=[_section(comparison) for comparison in comparisons],
        n_group_columns=len(GROUP_COLUMNS),
        is_text=TEXT,
        measures=list(CURVES),
        left_out=[f"{path} {reason}" for path, reason in comparisons[0].left_out],
        command=shlex.join(["cil-jax", "compare", *arguments]),
        data=[_data(comparison) for comparison in comparisons],
    )
    writing.replace_text(Path(file), page)


def _section(comparison: Comparison) -> dict[str, Any]:
    """What the page shows of a comparison, but for its figure."""
    head, rows = _cells(comparison)
    return {
        "protocol": comparison.protocol,
        "groups": [
            {
                "name": group.name,
                "trained": training(group.summary),
                "n": sample(group.summary),
                "folders": [str(folder) for folder in group.folders],
                "classifier": group.summary["headline"],
            }
            for group in comparison.groups
        ],
        "head": head,
        "rows": rows,
        "legend": _legend(comparison),
        "note": differing(comparison),
        "budgets": budgets.section(comparison.groups),
        "differing": _differing_settings(comparison.groups),
    }


def differing(comparison: Comparison) -> str:
    """A sentence about settings in which runs of different methods differ; "" if there are none.

    Only settings of the recipe that both methods have count: others belong to the method.
    """
    known = [group for group in comparison.groups if group.settings]
    presets: dict[str, set[str]] = {}  # by method
    for group in known:
        presets.setdefault(group.summary["method"], set()).add(group.summary["preset"])
    if len(presets) < 2:
        return ""
    parts = []
    for name in (field.name for field in dataclasses.fields(Config)):
        values: dict[str, list[str]] = {}
        for group in known:
            if name in RECIPE and name in group.settings:
                method, preset = group.summary["method"], group.summary["preset"]
                named = f"{method}/{preset}" if len(presets[method]) > 1 else method
                values.setdefault(str(group.settings[name]), []).append(named)
        if len(values) > 1:
            parts.append(
                f"{flag(name).removeprefix('--')} "
                + ", ".join(f"{v} ({', '.join(dict.fromkeys(m))})" for v, m in values.items())
            )
    if not parts:
        return ""
    return f"These runs differ in more than their method: {'; '.join(parts)}"


def _cells(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[list[str], bool]]]:
    """The column names, and the rows, each with whether it is the first of its group."""
    any_published = any(published(group) for group in comparison.groups)
    rows = []
    for group in comparison.groups:
        summary = group.summary
        group_cells = [group.name, training(summary), sample(summary).removeprefix("n = ")]
        for index, (classifier, numbers) in enumerate(summary["classifiers"].items()):
            values = [_mean_and_std(numbers[key]) for key in NUMBERS.values()]
            row = [*group_cells, column_name(summary, classifier), *values]
            if any_published:
                row.append(_published_cell(group, classifier))
            rows.append((row, index == 0))
    return (*COLUMNS, *(["published"] if any_published else [])), rows


def _without_group(row: Sequence[str]) -> list[str]:
    """A row whose group is named in a row above it."""
    return [""] * len(GROUP_COLUMNS) + list(row[len(GROUP_COLUMNS) :])


def _mean_and_std(number: Mapping[str, Any]) -> str:
    """A mean and standard deviation in percent, such as '50.2 ± 1.1'."""
    has_std = number["mean"] is not None and number["std"] is not None
    return percentage(number["mean"]) + (f" ± {percentage(number['std'])}" if has_std else "")


def _published_row(group: Group, classifier: str) -> Row | None:
    return next((row for row in published(group) if row.classifier == classifier), None)


def _published_cell(group: Group, classifier: str) -> str:
    """Published average and last accuracy with their source, such as '64.1 / 49.5 (icarl)'."""
    row = _published_row(group, classifier)
    if row is None or (row.average is None and row.last is None):
        return "-"
    return f"{published_pair(row)} ({source_of(row)})"


def _legend(comparison: Comparison) -> list[str]:
    """The publications that the table names by a short name."""
    used_sources = {row.source for group in comparison.groups for row in published(group)}
    return [f"published, {key}: {text}" for key, text in sources().items() if key in used_sources]


def _differing_settings(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """The settings in which groups differ, each with its value in every group."""
    settings_of_groups = [group.settings for group in groups]
    names = dict.fromkeys(name for settings in settings_of_groups for name in settings)
    rows = [
        (name, [str(settings.get(name, "-")) for settings in settings_of_groups]) for name in names
    ]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _data(comparison: Comparison) -> dict[str, Any]:
    """The data of the page's figure; accuracies in percent."""

    def curve(fractions: Sequence[float | None]) -> list[float | None]:
        return [None if fraction is None else in_percent(fraction) for fraction in fractions]

    groups = []
    for group in comparison.groups:
        numbers = group.summary["classifiers"][group.summary["headline"]]
        lines = published_lines(group, comparison.seen)
        groups.append(
            {
                "name": f"{group.name}, {group.summary['headline']}",
                "curves": {
                    name: {
                        statistic: curve(numbers[key][statistic]) for statistic in ("mean", "std")
                    }
                    for name, key in CURVES.items()
                },
                "published": [{"name": name, "x": x, "y": y} for name, x, y in lines],
            }
        )
    return {"seen": comparison.seen, "groups": groups}
