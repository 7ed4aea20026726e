"""Why a run forgot, as tables for the terminal and for its page."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cil_jax.report import thinning
from cil_jax.report.percentages import percentage
from cil_jax.report.tables import MOST_TASKS, caption
from cil_jax.storage.schemas import Causes, TaskCauses

COLUMNS = (
    *("task", "right", "wrong in the task", "wrong in another task"),
    *("when learned", "task-aware when learned", "task-aware now"),
    *("weight length", "drift", "similarity"),
)
NOTES = (
    "right, wrong in the task, wrong in another task: shares of the task's test images, in percent",
    "when learned: accuracy just after the task; task-aware: among the classes of the task alone",
    "weight length: of the output weights of the task's classes, on average",
    "drift: angle between the mean features of a class just after the task and now, in degrees",
    "similarity: linear CKA between the features of the images seen, just after the task and now",
)


def table(causes: Causes, results: Mapping[str, Any]) -> Table:
    """One row for each task: where its errors are, and what has changed since it was learned.

    Args:
      causes: the result of `cil_jax.trained.why.causes`.
      results: the contents of results.json of the run.
    """
    made = Table(
        title=f"{caption(results)}\nafter task {len(causes['tasks'])}; classifier: "
        f"{causes['classifier']}; accuracy in percent",
        title_justify="left",
    )
    rows = cells(causes)
    shown = [j for j, name in enumerate(COLUMNS) if any(row[j] != "-" for row in rows)]
    for j in shown:
        made.add_column(COLUMNS[j], justify="right")
    for task in thinning.spread(len(rows), 4 * MOST_TASKS):
        made.add_row(*(rows[task][j] for j in shown))
    return made


def cells(causes: Causes) -> list[tuple[str, ...]]:
    """The text of each cell under `COLUMNS`, a row for each task; '-' where nothing is known."""

    def number(value: float | None, decimals: int) -> str:
        return "-" if value is None else f"{value:.{decimals}f}"

    def row(number_of_task: int, task: TaskCauses) -> tuple[str, ...]:
        return (
            str(number_of_task),
            percentage(task["right"]),
            percentage(task["wrong_within_task"]),
            percentage(task["wrong_in_other_task"]),
            percentage(task["accuracy_when_learned"]),
            percentage(task["task_aware_when_learned"]),
            percentage(task["task_aware"]),
            number(task["weight_norm"], 2),
            number(task["mean_drift"], 0),
            number(task["similarity"], 2),
        )

    return [row(number, task) for number, task in enumerate(causes["tasks"], start=1)]


def sentences(causes: Causes) -> list[str]:
    """What the numbers say, in words, the most important first."""
    said = []
    old, newest = causes["tasks"][:-1], causes["tasks"][-1]
    if old:
        lost = _mean(task["accuracy_when_learned"] - task["right"] for task in old)
        within = _mean(task["task_aware_when_learned"] - task["task_aware"] for task in old)
        said.append(
            f"Accuracy on earlier tasks has fallen by {percentage(lost)} points since they were "
            f"learned, and by {percentage(within)} if the classifier is told the task: the first "
            "number includes being taken for classes of other tasks, the second does not."
        )
        into = _mean(row[-1] for row in causes["task_confusion"][:-1])
        said.append(
            f"Of the images of earlier tasks, {percentage(into)} percent are taken for a class of "
            "the newest task."
        )
        lengths = [task["weight_norm"] for task in old]
        if newest["weight_norm"] and all(lengths):
            ratio = newest["weight_norm"] / _mean(x for x in lengths if x)
            said.append(
                f"The output weights of the newest task are {ratio:.2f} times as long as those of "
                "earlier tasks."
            )
    accuracy, confidence = causes["linear_accuracy"], causes["confidence"]
    error = causes["calibration_error"]
    if accuracy is not None and confidence is not None and error is not None:
        side = "over" if confidence > accuracy else "under"
        said.append(
            f"The outputs are {side}confident: their mean probability is {percentage(confidence)} "
            f"percent and their accuracy {percentage(accuracy)}; the expected calibration error is "
            f"{percentage(error)} points."
        )
    return said


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
