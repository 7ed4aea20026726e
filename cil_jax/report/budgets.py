"""Accuracy over memory budgets: runs of one method that differ in the size of their memory.

Zhou et al. 2023, https://arxiv.org/abs/2302.03648: a method with few exemplars and large networks
and one with many exemplars and a small network are compared at equal sizes, and over all sizes by
the area under the curve.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from cil_jax.metrics import area_over_budgets, size_in_mb
from cil_jax.report.groups import Group
from cil_jax.report.tables import run_name, sample
from cil_jax.settings.loading import SIZES_OF_MEMORY
from cil_jax.storage.replicates import n_learned

COLUMNS = ("run", "classifier", "n", "budgets in MB", "AUC-A", "AUC-L")
TEXT = ("run", "classifier", "budgets in MB")
ABOUT = (
    "Area under the average (AUC-A) and the last accuracy (AUC-L), as fractions, over the memory "
    "budget in MB of 2^20 bytes"
)
OTHER_RANGES = "The budgets have different ranges, so these areas can't be compared"


@dataclasses.dataclass(frozen=True)
class Curve:
    """The accuracy of a method over memory budgets, by its own classifier.

    Attributes:
      name: method, preset and changed settings, without those that say how large the memory is.
      classifier: the method's own classifier.
      samples: the sample size of each point.
      budgets: increasing, in MB; see `budget_of`.
      average, last: average incremental and last accuracy at each budget, fractions in 0..1.
    """

    name: str
    classifier: str
    samples: tuple[str, ...]
    budgets: tuple[float, ...]
    average: tuple[float, ...]
    last: tuple[float, ...]


def budget_of(group: Group) -> float | None:
    """The `--budget-mb` of a group or, without one, the MB that its runs keep after the last task.

    None if that is unknown, or the runs have not learned all tasks.
    """
    summary = group.summary
    if n_learned(summary) < len(summary["task_sizes"]) or summary["keeps_all_data"]:
        return None
    if (given := _given_budget(group)) is not None:
        return given
    if "memory_bytes" not in summary:  # missing in results of older versions
        return None
    return size_in_mb(summary["parameters"], summary["memory_bytes"])


def curves(groups: Iterable[Group]) -> list[Curve]:
    """The curves that groups of one protocol form.

    The groups of a curve differ in the size of their memory. Those with `--budget-mb` may also
    differ in their backbone, if each has another budget: a method that keeps a network for each
    task fits in a small budget only with a smaller one.
    """
    found = []
    for points in _divided(groups, ignoring=("backbone",)):
        is_one = len({budget_of(group) for group in points}) == len(points)
        is_one &= all(_given_budget(group) is not None for group in points)
        for points_of_curve in [points] if is_one else _divided(points, ignoring=()):
            found += _curve(points_of_curve)
    return found


def table(found: Sequence[Curve]) -> Table:
    """The areas under the curves, a row for each."""
    made = Table(title="\n".join(about(found)), title_justify="left")
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in TEXT else "right")
    for row in cells(found):
        made.add_row(*row)
    return made


def section(groups: Iterable[Group]) -> dict[str, Any] | None:
    """The same for the template of the page; None if there is no curve."""
    if not (found := curves(groups)):
        return None
    return {"head": COLUMNS, "is_text": TEXT, "rows": cells(found), "about": about(found)}


def about(found: Sequence[Curve]) -> list[str]:
    """What the areas are, and whether they can be compared."""
    is_one_range = len({(curve.budgets[0], curve.budgets[-1]) for curve in found}) == 1
    return [ABOUT] if is_one_range else [ABOUT, OTHER_RANGES]


def cells(found: Iterable[Curve]) -> list[list[str]]:
    """The cells of `table`, under `COLUMNS`."""
    return [
        [
            curve.name,
            curve.classifier,
            ", ".join(dict.fromkeys(n.removeprefix("n = ") for n in curve.samples)),
            ", ".join(f"{budget:.3g}" for budget in curve.budgets),
            *(f"{area_over_budgets(curve.budgets, y):.3g}" for y in (curve.average, curve.last)),
        ]
        for curve in found
    ]


def _given_budget(group: Group) -> float | None:
    """The `--budget-mb` of a group; None if it has none."""
    settings = group.settings or group.summary.get("changed", {})
    return settings.get("budget_mb")


def _divided(groups: Iterable[Group], ignoring: Sequence[str]) -> list[list[Group]]:
    """Groups with a budget, divided by all settings except the size of the memory and some others.

    Runs with a fixed number of exemplars per class are apart from those with a total number.
    """
    by_settings: dict[str, list[Group]] = {}
    for group in groups:
        if budget_of(group) is None:
            continue
        settings = group.settings or _recorded(group.summary)
        others = {k: v for k, v in settings.items() if k not in (*SIZES_OF_MEMORY, *ignoring)}
        is_per_class = _given_budget(group) is None and bool(settings.get("per_class"))
        key = json.dumps([others, is_per_class], sort_keys=True)
        by_settings.setdefault(key, []).append(group)
    return list(by_settings.values())


def _recorded(summary: Any) -> dict[str, Any]:
    """What is known of the settings of a group without run folders."""
    names = ("method", "preset", "backbone", "epochs")
    return {**{name: summary[name] for name in names}, **summary.get("changed", {})}


def _curve(points: Sequence[Group]) -> list[Curve]:
    """The curve through groups of different budgets; none if there is only one budget."""
    by_budget: dict[float, Group] = {}
    for group in points:
        by_budget.setdefault(budget_of(group) or 0.0, group)  # of two that keep as much, the first
    if len(by_budget) < 2:
        return []
    budgets = sorted(by_budget)
    ordered = [by_budget[budget] for budget in budgets]
    first = ordered[0].summary
    changed = {k: v for k, v in first.get("changed", {}).items() if k not in SIZES_OF_MEMORY}
    numbers = [group.summary["classifiers"][first["headline"]] for group in ordered]
    return [
        Curve(
            name=run_name({**first, "changed": changed}),
            classifier=first["headline"],
            samples=tuple(sample(group.summary) for group in ordered),
            budgets=tuple(budgets),
            average=tuple(x["average_incremental_accuracy"]["mean"] for x in numbers),
            last=tuple(x["last_accuracy"]["mean"] for x in numbers),
        )
    ]
