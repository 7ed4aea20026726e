"""The results of a run as a table for the terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

SUMMARY_ROWS = (
    ("average incremental accuracy", "average_incremental_accuracy"),
    ("  without the first task", "average_incremental_accuracy_without_first"),
    ("last accuracy", "last_accuracy"),
    ("forgetting", "forgetting"),
)


def percent(fraction: float | None) -> str:
    """A fraction 0..1 as a percentage, '-' for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f}%"


def selection(rows: Sequence[Any]) -> Table:
    """Accuracy with herded and with random exemplars, a row for each number of them.

    Args:
      rows: of `cil_jax.analysis.selection_by_count`.
    """
    n = len(rows[0].random)
    table = Table()
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
    sizes, classifiers = results["task_sizes"], results["classifiers"]
    title = f"{results['method']} on {results['dataset']}: accuracy on all classes seen"
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("classes seen")
    for name in classifiers:
        own = " (its own)" if name == results["headline"] and len(classifiers) > 1 else ""
        table.add_column(name + own, justify="right")
    columns = list(classifiers.values())
    seen = np.cumsum(sizes)
    for t in range(len(columns[0]["seen_accuracy"])):
        table.add_row(str(seen[t]), *(percent(c["seen_accuracy"][t]) for c in columns))
    table.add_section()
    for label, key in SUMMARY_ROWS:
        table.add_row(label, *(percent(c[key]) for c in columns))
    return table
