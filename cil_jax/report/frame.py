"""The numbers of runs as a pandas table, to plot or to analyse them in Python."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cil_jax.errors import UserError, needs_extra
from cil_jax.report.groups import results_of
from cil_jax.storage import replicates
from cil_jax.storage.schemas import Results

if TYPE_CHECKING:
    import pandas

PER_TASK = ("seen_accuracy", "old_accuracy", "new_accuracy", "task_aware_accuracy", "top5_accuracy")


def frame(runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> "pandas.DataFrame":
    """Reads the results of runs as a table with a row for each run, task and classifier.

    Args:
      runs: run folders, folders of groups, patterns such as "runs/*", or names of recorded results;
        one of them or several. Folders without results are left out.

    Returns:
      A pandas.DataFrame. Its columns are run, method, preset, changed, dataset, backbone, order,
      seed, classifier, is_headline (whether the classifier is the method's own), task (from 1),
      n_seen (classes seen), seen_accuracy, old_accuracy, new_accuracy, task_aware_accuracy,
      top5_accuracy, and average_accuracy, the average incremental accuracy up to the task. All
      accuracies are fractions in 0..1, NaN where there is none.

    Raises:
      MissingExtra: if pandas is not installed.
      UserError: if a path does not exist, or no run has results.
    """
    with needs_extra("frame", "tables of runs"):
        import pandas

    paths = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    rows = [row for folder, results in results_of(paths) for row in _rows(str(folder), results)]
    if not rows:
        raise UserError(f"no results in {', '.join(map(str, paths)) or 'nothing'}")
    return pandas.DataFrame(rows)


def _rows(folder: str, results: Results) -> list[dict[str, Any]]:
    """The rows of one run."""
    changed = results.get("changed", {})
    about = {
        "run": folder,
        **{name: results[name] for name in ("method", "preset")},
        "changed": ", ".join(f"{name} {value}" for name, value in changed.items()),
        **{name: results[name] for name in ("dataset", "backbone", "order")},
        "seed": results["seeds"]["init"],
    }
    n_seen = np.cumsum(results["task_sizes"]).tolist()
    rows = []
    for classifier, summary in results["classifiers"].items():
        own = {"classifier": classifier, "is_headline": classifier == results["headline"]}
        seen = summary["seen_accuracy"]
        for task in range(replicates.n_learned(results)):
            numbers = {name: _number(summary[name][task]) for name in PER_TASK}
            average = float(np.mean(seen[: task + 1]))
            place = {"task": task + 1, "n_seen": n_seen[task]}
            rows.append({**about, **own, **place, **numbers, "average_accuracy": average})
    return rows


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
