"""Several runs, or groups of members, of one protocol beside each other."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cil_jax import members
from cil_jax.config import UserError
from cil_jax.record import RunFolder
from cil_jax.report.figures import comparison
from cil_jax.report.tables import column_name, protocol, sample, spread, training

PROTOCOL = ("dataset", "orders", "task_sizes")
COLUMNS = {
    "average": "average_incremental_accuracy",
    "without first": "average_incremental_accuracy_without_first",
    "last": "last_accuracy",
    "forgetting": "forgetting",
}


def compare(folders: Sequence[str | os.PathLike], figure: str | os.PathLike | None) -> Table:
    """A table with a row for each run's classifiers, and a figure of their own ones.

    Args:
      folders: run folders with results, or folders of members with a summary.
      figure: the file to draw to, or None for no figure.

    Raises:
      UserError: if a folder has no results, or two runs differ in protocol.
    """
    names = [Path(folder).name for folder in folders]
    if len(set(names)) < len(names):
        names = [os.fspath(folder) for folder in folders]
    runs = {name: _summary(folder) for name, folder in zip(names, folders, strict=True)}
    first_name, first = next(iter(runs.items()))
    for name, run in runs.items():
        for key in PROTOCOL:
            if run[key] != first[key]:
                raise UserError(f"{name} and {first_name} differ in {key}: not comparable")
        if members.n_learned(run) != members.n_learned(first):
            raise UserError(
                f"{name} has learned {members.n_learned(run)} tasks and {first_name} "
                f"{members.n_learned(first)}: not comparable"
            )
    if figure is not None:
        try:
            comparison(runs).savefig(figure, dpi=120)
        except (OSError, ValueError) as error:
            raise UserError(f"can't draw to {figure}: {error}") from error
    table = Table(title=protocol(first), title_justify="left")
    for column in ("run", "trained", "n", "classifier", *COLUMNS):
        is_text = column in ("run", "trained", "classifier")
        table.add_column(column, justify="left" if is_text else "right")
    for name, run in runs.items():
        said = (name, training(run), sample(run).removeprefix("n = "))
        for classifier, one in run["classifiers"].items():
            values = (spread(one[key]["mean"], one[key]["std"]) for key in COLUMNS.values())
            table.add_row(*said, column_name(run, classifier), *values)
            said = ("", "", "")
    return table


def _summary(folder: str | os.PathLike) -> dict[str, Any]:
    """What summary.json of members holds, or the same of a single run."""
    file = Path(folder) / members.SUMMARY
    if file.exists():
        return json.loads(file.read_text())
    run = RunFolder(folder)
    if not run.results_file.exists():
        what = "has no results yet" if run.holds_a_run else "holds no run"
        raise UserError(f"{folder} {what}")
    return members.summarize([run.results()])
