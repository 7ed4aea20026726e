"""A comparison as a table for the terminal, CSV, LaTeX and Markdown, and as a page."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cil_jax.files import writing
from cil_jax.report.escaping import csv_table, latex, markdown
from cil_jax.report.groups import Comparison, Group, published, published_lines, source_of
from cil_jax.report.page import render
from cil_jax.report.published_results import sources
from cil_jax.report.tables import column_name, published_pair, sample, training

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
    "all, the task told": "task_aware_accuracy",
}
COLUMNS = ("run", "trained", "n", "classifier", *NUMBERS)
TEXT = ("run", "trained", "classifier", "published")


def table(comparison: Comparison) -> Table:
    """A row for each group's classifiers; means and standard deviations in percent."""
    head, rows = _cells(comparison)
    made = Table(title=f"{comparison.protocol}\naccuracy in percent", title_justify="left")
    for name in head:
        made.add_column(name, justify="left" if name in TEXT else "right")
    for row, is_first in rows:
        made.add_row(*(row if is_first else ["", "", "", *row[3:]]))
    return made


def as_csv(comparison: Comparison) -> str:
    """A line for each group's classifiers, each of which says all; percent with 4 decimals."""
    names = [f"{key}_{what}" for key in NUMBERS.values() for what in ("mean", "std")]
    about = ("run", "method", "preset", "dataset", "tasks", "orders", "trained", "n", "over")
    last = ("published_average", "published_last", "published_source")
    lines = [[*about, "classifier", "own", *names, *last]]
    for group in comparison.groups:
        one = group.summary
        said = [group.name, *(one[key] for key in ("method", "preset", "dataset"))]
        said += [" ".join(map(str, one["task_sizes"])), "; ".join(one["orders"])]
        said += [training(one), one["n"], one["over"]]
        for classifier, numbers in one["classifiers"].items():
            values = [
                "" if (value := numbers[key][what]) is None else f"{100 * value:.4f}"
                for key in NUMBERS.values()
                for what in ("mean", "std")
            ]
            row = _row_of(group, classifier)
            theirs = ["", "", ""] if row is None else [row.average, row.last, row.source]
            own = "yes" if classifier == one["headline"] else "no"
            lines.append([*said, classifier, own, *values, *theirs])
    return csv_table(lines)


def as_markdown(comparison: Comparison) -> str:
    """The table, its protocol and the sources of what is published."""
    head, rows = _cells(comparison)
    lines = [list(head), ["---" if name in TEXT else "---:" for name in head]]
    lines += [[markdown(cell) for cell in row] for row, _ in rows]
    text = [f"Accuracy in percent; {markdown(comparison.protocol)}.", ""]
    text += ["| " + " | ".join(line) + " |" for line in lines]
    legend = _legend(comparison)
    return "\n".join([*text, *([""] if legend else []), *(f"- {x}" for x in legend)]) + "\n"


def as_latex(comparison: Comparison) -> str:
    """The table in LaTeX, for the booktabs package."""

    def line(cells):
        return "    " + " & ".join(map(latex, cells)) + r" \\"

    head, rows = _cells(comparison)
    caption = ". ".join([f"Accuracy in percent; {comparison.protocol}", *_legend(comparison)])
    body: list[str] = []
    for row, is_first in rows:
        if is_first and body:
            body.append(r"    \addlinespace")
        body.append(line(row if is_first else ["", "", "", *row[3:]]))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex(caption)}.}}",
            rf"  \begin{{tabular}}{{{''.join('l' if name in TEXT else 'r' for name in head)}}}",
            r"    \toprule",
            line(head),
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def write_comparison(comparison: Comparison, file: Path, arguments: Sequence[str]) -> None:
    """Writes the page of a comparison.

    Args:
      comparison: what it shows.
      file: where to.
      arguments: of the command that makes it.
    """
    head, rows = _cells(comparison)
    page = render(
        "compare.html",
        protocol=comparison.protocol,
        groups=[
            {
                "name": group.name,
                "trained": training(group.summary),
                "n": sample(group.summary),
                "folders": [str(folder) for folder in group.folders],
                "classifier": group.summary["headline"],
            }
            for group in comparison.groups
        ],
        head=head,
        rows=rows,
        is_text=TEXT,
        measures=list(CURVES),
        legend=_legend(comparison),
        left_out=[f"{path} {reason}" for path, reason in comparison.left_out],
        command=shlex.join(["python", "-m", "experiments.compare", *arguments]),
        differing=_differing(comparison.groups),
        data=_data(comparison),
    )
    writing.replace_text(Path(file), page)


def _cells(comparison: Comparison) -> tuple[tuple[str, ...], list[tuple[list[str], bool]]]:
    """The head, and rows with whether each is the first of its group."""
    any_published = any(published(group) for group in comparison.groups)
    rows = []
    for group in comparison.groups:
        one = group.summary
        said = [group.name, training(one), sample(one).removeprefix("n = ")]
        for number, (classifier, numbers) in enumerate(one["classifiers"].items()):
            values = [_spread(numbers[key]) for key in NUMBERS.values()]
            row = [*said, column_name(one, classifier), *values]
            rows.append((row + [_published(group, classifier)] * any_published, number == 0))
    return (*COLUMNS, *(["published"] if any_published else [])), rows


def _spread(number: dict[str, Any]) -> str:
    """Such as '50.2 ± 1.1'."""
    if number["mean"] is None:
        return "-"
    std = "" if number["std"] is None else f" ± {100 * number['std']:.1f}"
    return f"{100 * number['mean']:.1f}{std}"


def _row_of(group: Group, classifier: str) -> Any:
    return next((row for row in published(group) if row.classifier == classifier), None)


def _published(group: Group, classifier: str) -> str:
    """Published average and last accuracy, and where."""
    row = _row_of(group, classifier)
    if row is None or (row.average is None and row.last is None):
        return "-"
    return f"{published_pair(row)} ({source_of(row)})"


def _legend(comparison: Comparison) -> list[str]:
    """What the sources of published values are."""
    named = {row.source for group in comparison.groups for row in published(group)}
    return [f"published, {key}: {text}" for key, text in sources().items() if key in named]


def _differing(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Settings in which groups differ, each with its value in every group."""
    known = [group.settings for group in groups]
    keys = dict.fromkeys(key for settings in known for key in settings)
    rows = [(key, [str(settings.get(key, "-")) for settings in known]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _data(comparison: Comparison) -> dict[str, Any]:
    """What the figure is drawn from, in percent."""

    def curve(values):
        return [None if value is None else round(100 * value, 2) for value in values]

    groups = []
    for group in comparison.groups:
        own = group.summary["classifiers"][group.summary["headline"]]
        lines = published_lines(group, comparison.seen)
        groups.append(
            {
                "name": f"{group.name}, {group.summary['headline']}",
                "curves": {
                    what: {"mean": curve(own[key]["mean"]), "std": curve(own[key]["std"])}
                    for what, key in CURVES.items()
                },
                "published": [{"name": name, "x": x, "y": y} for name, x, y in lines],
            }
        )
    return {"seen": comparison.seen, "groups": groups}
