"""Several runs of one protocol beside each other."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cil_jax.config import UserError
from cil_jax.members import n_learned
from cil_jax.record import RunFolder
from cil_jax.report.figures import comparison
from cil_jax.report.tables import percent

PROTOCOL = ("dataset", "class_order", "task_sizes")


def compare(folders: Sequence[str | os.PathLike], figure: str | os.PathLike | None) -> Table:
    """A table with a row for each run's classifiers, and a figure of their own ones.

    Args:
      folders: run folders with results.
      figure: the file to draw to, or None for no figure.

    Raises:
      UserError: if a folder has no results, or two runs differ in protocol.
    """
    names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = [os.fspath(folder) for folder in folders]
    runs = {name: _results(folder) for name, folder in zip(names, folders, strict=True)}
    first_name, first = next(iter(runs.items()))
    for name, results in runs.items():
        for key in PROTOCOL:
            if results[key] != first[key]:
                raise UserError(f"{name} and {first_name} differ in {key}: not comparable")
        if n_learned(results) != n_learned(first):
            raise UserError(
                f"{name} has learned {n_learned(results)} tasks and {first_name} "
                f"{n_learned(first)}: not comparable"
            )
    if figure is not None:
        try:
            comparison(runs).savefig(figure, dpi=120)
        except (OSError, ValueError) as error:
            raise UserError(f"can't draw to {figure}: {error}") from error
    table = Table()
    for column in ("run", "classifier", "average", "without first", "last", "forgetting"):
        table.add_column(column, justify="left" if column in ("run", "classifier") else "right")
    for name, results in runs.items():
        for classifier, one in results["classifiers"].items():
            table.add_row(
                name,
                classifier,
                percent(one["average_incremental_accuracy"]),
                percent(one["average_incremental_accuracy_without_first"]),
                percent(one["last_accuracy"]),
                percent(one["forgetting"]),
            )
    return table


def _results(folder: str | os.PathLike) -> dict[str, Any]:
    run = RunFolder(folder)
    if not run.results_file.exists():
        what = "has no results yet" if run.holds_a_run else "holds no run"
        raise UserError(f"{folder} {what}")
    return run.results()
