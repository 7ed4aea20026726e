"""What a run is judged by: the accuracy matrix and the numbers made from it."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


def accuracy(confusion: np.ndarray) -> float:
    """The share of right answers in a confusion matrix int [C, C], or in its first rows.

    0 if it is empty.
    """
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def task_accuracies(confusion: np.ndarray, task_sizes: Sequence[int]) -> list[float]:
    """Accuracy on each task's test images, among all classes that the confusion matrix has.

    Args:
      confusion: int [C, C], rows true classes in the order they came, columns answers.
      task_sizes: classes of each task; they sum to C.
    """
    bounds = np.cumsum([0, *task_sizes])
    if bounds[-1] != len(confusion):
        raise ValueError(f"{bounds[-1]} classes in tasks, {len(confusion)} in the matrix")
    right = np.diagonal(confusion)
    return [
        float(right[a:b].sum() / max(confusion[a:b].sum(), 1))
        for a, b in itertools.pairwise(bounds)
    ]


def summarize(
    accuracy_matrix: Sequence[Sequence[float]], task_sizes: Sequence[int]
) -> dict[str, Any]:
    """Summary of one classifier's run.

    Args:
      accuracy_matrix: row t has the accuracies on tasks 0..t after learning task t, as fractions
        in 0..1 among all seen classes. Entries beyond the diagonal are ignored.
      task_sizes: the weight of each task in the seen accuracy: its number of classes or, where
        classes have unequal numbers of test images, of test images.

    Returns:
      accuracy_matrix: the lower triangle, as lists.
      seen_accuracy: after each task, over all test images of the classes seen so far.
      average_incremental_accuracy: the mean of seen_accuracy (Rebuffi et al. 2017).
      average_incremental_accuracy_without_first: the same from the second task on.
      last_accuracy: the last of seen_accuracy.
      forgetting: mean over earlier tasks of the best accuracy before the last task minus the
        last one (Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, eq. 3).
      backward_transfer: mean over earlier tasks of the last accuracy minus the one when just
        learned (Lopez-Paz and Ranzato 2017, https://arxiv.org/abs/1706.08840, eq. 3).
      What needs a second task is None after one.

    Raises:
      ValueError: if there is no row, a row is too short, or there are fewer sizes than rows.
    """
    n = len(accuracy_matrix)
    if n == 0 or len(task_sizes) < n:
        raise ValueError(f"{n} rows of accuracies and {len(task_sizes)} task sizes")
    if any(len(row) < t + 1 for t, row in enumerate(accuracy_matrix)):
        raise ValueError("row t of the accuracy matrix needs t + 1 entries")
    rows = [[float(x) for x in row[: t + 1]] for t, row in enumerate(accuracy_matrix)]
    seen = [float(np.average(row, weights=task_sizes[: len(row)])) for row in rows]
    last = rows[-1]
    earlier = range(n - 1)
    best = [max(rows[t][j] for t in range(j, n - 1)) for j in earlier]
    return {
        "accuracy_matrix": rows,
        "seen_accuracy": seen,
        "average_incremental_accuracy": _mean(seen),
        "average_incremental_accuracy_without_first": _mean(seen[1:]),
        "last_accuracy": seen[-1],
        "forgetting": _mean([best[j] - last[j] for j in earlier]),
        "backward_transfer": _mean([last[j] - rows[j][j] for j in earlier]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
