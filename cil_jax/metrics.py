"""Metrics of a run: the accuracy matrix and the numbers computed from it."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # it imports JAX, which this module does not need
    from cil_jax.classifiers import Counts

MB = 2**20  # bytes: the unit of memory budgets, as in the code of Zhou et al. 2023
BYTES_PER_PARAMETER = 4
USES_ALL_DATA = ("ncm",)  # classifiers that need more data than an incremental learner may keep


def accuracy(confusion: np.ndarray) -> float:
    """Computes the accuracy from a confusion matrix int [C, C], or from its first rows.

    It is 0 if the matrix counts no image.
    """
    return float(np.trace(confusion) / max(confusion.sum(), 1))


def task_accuracies(confusion: np.ndarray, task_sizes: Sequence[int]) -> list[float]:
    """Computes the accuracy on each task's test images, among all classes of the matrix.

    Args:
      confusion: int [C, C]; rows are true classes in the order of their tasks, columns predictions.
      task_sizes: number of classes of each task; they sum to C.

    Raises:
      ValueError: if the sizes do not sum to C.
    """
    bounds = np.cumsum([0, *task_sizes])
    if bounds[-1] != len(confusion):
        raise ValueError(
            f"the tasks have {bounds[-1]} classes, but the confusion matrix has {len(confusion)}"
        )
    right = np.diagonal(confusion)
    return [
        float(right[a:b].sum() / max(confusion[a:b].sum(), 1))
        for a, b in itertools.pairwise(bounds)
    ]


def scores(counts: "Counts", task_sizes: Sequence[int]) -> dict[str, Any]:
    """Computes the accuracies of one classifier after a task, as fractions in 0..1.

    Args:
      counts: counts over the test images of the classes seen, with room for all classes.
      task_sizes: number of classes of each task so far.

    Returns:
      task_accuracy: on each task's test images, among all classes seen.
      seen_accuracy: over all test images of the classes seen.
      task_aware: on each task's test images, among the classes of that task only.
      top5: how often the true class has one of the five highest scores; None if at most five
        classes have been seen.
    """
    n = sum(task_sizes)
    confusion = np.asarray(counts.confusion)[:n, :n]
    images = confusion.sum(axis=1)
    bounds = itertools.pairwise(np.cumsum([0, *task_sizes]))
    return {
        "task_accuracy": task_accuracies(confusion, task_sizes),
        "seen_accuracy": accuracy(confusion),
        "task_aware": [
            float(np.sum(counts.task_aware[a:b]) / max(images[a:b].sum(), 1)) for a, b in bounds
        ],
        "top5": float(np.sum(counts.top5[:n]) / max(images.sum(), 1)) if n > 5 else None,
    }


def summarize(
    accuracy_matrix: Sequence[Sequence[float]],
    task_sizes: Sequence[int],
    *,
    task_aware: Sequence[Sequence[float]] | None = None,
    top5: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Summarises the accuracies of one classifier over a run.

    Args:
      accuracy_matrix: row t has the accuracies on tasks 0..t after learning task t, as fractions
        in 0..1 among all seen classes. Entries beyond the diagonal are ignored.
      task_sizes: the weight of each task in the seen accuracy: its number of classes or, if classes
        have unequal numbers of test images, its number of test images.
      task_aware: the matrix of task-aware accuracies, see `scores`.
      top5: top-5 accuracy over all seen classes after each task.

    Returns:
      accuracy_matrix: the lower triangle, as lists.
      seen_accuracy: after each task, over all test images of the classes seen so far.
      old_accuracy, new_accuracy: the same over the images of earlier tasks only (None after the
        first task) and over those of the task just learned.
      average_incremental_accuracy: the mean of seen_accuracy (Rebuffi et al. 2017).
      average_incremental_accuracy_without_first: the same from the second task on.
      last_accuracy: the last of seen_accuracy.
      forgetting: mean over earlier tasks of the best accuracy before the last task minus the
        last one (Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, eq. 3).
      backward_transfer: mean over earlier tasks of the last accuracy minus the one when just
        learned (Lopez-Paz and Ranzato 2017, https://arxiv.org/abs/1706.08840, eq. 3).
      task_aware_matrix, task_aware_accuracy, top5_accuracy: present if the arguments are given: the
        task-aware matrix, its mean over the images seen after each task, and `top5` as a list.
      Numbers that need a second task are None after one task.

    Raises:
      ValueError: if there is no row, a row is too short, or there are fewer sizes than rows.
    """
    n = len(accuracy_matrix)
    if n == 0 or len(task_sizes) < n:
        raise ValueError(f"{n} rows of accuracies need as many task sizes, not {len(task_sizes)}")
    if any(len(row) < t + 1 for t, row in enumerate(accuracy_matrix)):
        raise ValueError("row t of the accuracy matrix needs t + 1 entries")
    rows, seen = _triangle(accuracy_matrix, task_sizes)
    last = rows[-1]
    earlier = range(n - 1)
    best = [max(rows[t][j] for t in range(j, n - 1)) for j in earlier]
    summary = {
        "accuracy_matrix": rows,
        "seen_accuracy": seen,
        "old_accuracy": [
            float(np.average(row[:-1], weights=task_sizes[: len(row) - 1])) if row[1:] else None
            for row in rows
        ],
        "new_accuracy": [row[-1] for row in rows],
        "average_incremental_accuracy": _mean(seen),
        "average_incremental_accuracy_without_first": _mean(seen[1:]),
        "last_accuracy": seen[-1],
        "forgetting": _mean([best[j] - last[j] for j in earlier]),
        "backward_transfer": _mean([last[j] - rows[j][j] for j in earlier]),
    }
    if task_aware is not None:
        matrix, means = _triangle(task_aware, task_sizes)
        summary["task_aware_matrix"], summary["task_aware_accuracy"] = matrix, means
    if top5 is not None:
        summary["top5_accuracy"] = list(top5)
    return summary


def _triangle(
    matrix: Sequence[Sequence[float]], weights: Sequence[int]
) -> tuple[list[list[float]], list[float]]:
    """Returns the lower triangle of a matrix and the weighted mean of each of its rows."""
    rows = [[float(x) for x in row[: t + 1]] for t, row in enumerate(matrix)]
    return rows, [float(np.average(row, weights=weights[: len(row)])) for row in rows]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def linear_cka(features: np.ndarray, others: np.ndarray) -> float:
    """Compares two representations of the same images by linear centred kernel alignment.

    Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, eq. 3 with linear kernels. Rotating or
    scaling a representation changes nothing.

    Args:
      features: float [N, D], of one network.
      others: float [N, E], of the same images by another network.

    Returns:
      A similarity in 0..1; 1 if the representations are equal up to rotation and scale. It is 0
      if all rows of one of them are equal.
    """
    x, y = (np.asarray(z, np.float64) - np.mean(z, axis=0) for z in (features, others))
    norm = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norm) if norm else 0.0


def mean_drift(
    then: np.ndarray, now: np.ndarray, labels: np.ndarray, classes: Sequence[int]
) -> float:
    """Computes how far the mean features of classes have turned.

    Args:
      then: float [N, D], features of images by an earlier network. Components that are 0 for all of
        them are left out of both: a growing network did not have them then.
      now: float [N, D], of the same images by a later network.
      labels: int [N].
      classes: the classes, each with at least one image.

    Returns:
      The angle between the means then and now in degrees, averaged over the classes.
    """
    in_use = np.any(then != 0, axis=0)
    angles = []
    for label in classes:
        one, other = (x[labels == label][:, in_use].mean(axis=0) for x in (then, now))
        lengths = np.linalg.norm(one) * np.linalg.norm(other)
        angles.append(np.arccos(np.clip(one @ other / max(lengths, 1e-12), -1, 1)))
    return float(np.degrees(np.mean(angles)))


def calibration_error(confidence: np.ndarray, is_right: np.ndarray, n_bins: int = 15) -> float:
    """Computes the expected calibration error.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3: the mean distance between confidence
    and accuracy over bins of equal width, weighted by their number of predictions.

    Args:
      confidence: float [N], the probability of each prediction, in 0..1.
      is_right: bool [N], which predictions are right.
      n_bins: number of bins; the paper has 15.

    Returns:
      The error in 0..1.
    """
    edges = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.searchsorted(edges, confidence, side="left")  # a bin includes its upper edge
    gaps = np.bincount(bins, np.asarray(confidence) - np.asarray(is_right, float), n_bins)
    return float(np.abs(gaps).sum() / len(bins))


def size_in_mb(n_parameters: int, exemplar_bytes: int) -> float:
    """Computes what a network and exemplars take together, in units of 2^20 bytes.

    Zhou et al. 2023, https://arxiv.org/abs/2302.03648.

    Args:
      n_parameters: number of parameters in use, each a float32.
      exemplar_bytes: bytes of all exemplars.
    """
    return (BYTES_PER_PARAMETER * n_parameters + exemplar_bytes) / MB


def area_over_budgets(budgets: Sequence[float], accuracies: Sequence[float]) -> float:
    """Computes the area under the accuracy over memory budgets, by the trapezoid rule.

    With average incremental accuracies this is AUC-A of Zhou et al. 2023, section "memory-agnostic
    measure" (https://arxiv.org/abs/2302.03648), with last accuracies AUC-L. Only areas over the
    same range of budgets can be compared.

    Args:
      budgets: in MB, increasing; at least two.
      accuracies: fractions in 0..1, one for each budget.

    Returns:
      The area, in MB.

    Raises:
      ValueError: if there are fewer than two budgets, or they do not increase.
    """
    if len(budgets) < 2 or any(b <= a for a, b in itertools.pairwise(budgets)):
        raise ValueError(f"the budgets {list(budgets)} are not two or more that increase")
    return float(np.trapezoid(accuracies, budgets))
