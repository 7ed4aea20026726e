"""The accuracy matrix and its summary."""

import jax
import numpy as np
import pytest

from cil_jax import metrics
from cil_jax.classifiers import Counts

MATRIX = [[0.8], [0.9, 0.7], [0.5, 0.6, 0.9]]


def test_summary_of_three_tasks_by_hand():
    summary = metrics.summarize(MATRIX, [1, 1, 1])
    assert summary["accuracy_matrix"] == MATRIX
    assert summary["seen_accuracy"] == pytest.approx([0.8, 0.8, 2 / 3])
    assert summary["average_incremental_accuracy"] == pytest.approx((0.8 + 0.8 + 2 / 3) / 3)
    assert summary["average_incremental_accuracy_without_first"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert summary["last_accuracy"] == pytest.approx(2 / 3)
    # Best before the last task: .9 and .7. When just learned: .8 and .7.
    assert summary["forgetting"] == pytest.approx((0.4 + 0.1) / 2)
    assert summary["backward_transfer"] == pytest.approx((-0.3 - 0.1) / 2)


def test_a_task_that_is_at_its_best_in_the_end_has_negative_forgetting():
    # Best before the last task: 0.6 and 0.5. The 0.8 at the end does not count among them.
    summary = metrics.summarize([[0.4], [0.6, 0.5], [0.8, 0.2, 0.9]], [1, 1, 1])
    assert summary["forgetting"] == pytest.approx((-0.2 + 0.3) / 2)
    assert summary["backward_transfer"] == pytest.approx((0.4 - 0.3) / 2)


def test_old_and_new_classes_the_told_task_and_top5_by_hand():
    summary = metrics.summarize(
        MATRIX, [1, 1, 2], task_aware=[[1.0], [1.0, 0.8], [1.0, 0.6, 0.9]], top5=[None, None, 0.97]
    )
    assert summary["old_accuracy"] == pytest.approx([None, 0.9, 0.55])
    assert summary["new_accuracy"] == pytest.approx([0.8, 0.7, 0.9])
    assert summary["task_aware_accuracy"] == pytest.approx([1.0, 0.9, (1.0 + 0.6 + 2 * 0.9) / 4])
    assert summary["top5_accuracy"] == [None, None, 0.97]


@pytest.mark.parametrize("sizes", [[1, 2, 4], [2, 3], [3, 3], [2] * 5, [7]])
def test_scores_are_a_plain_count_whatever_the_task_sizes(sizes):
    """Against answers taken one by one; room is left for classes that have not come."""
    n, room, rng = sum(sizes), sum(sizes) + 2, np.random.RandomState(0)
    task_of = np.full(room, -1)
    task_of[:n] = np.repeat(np.arange(len(sizes)), sizes)
    labels = rng.randint(0, n, 200)
    points = rng.randn(200, room).astype(np.float32)
    points[np.arange(200), labels] += 1.0
    points[:, n:] = -1e9
    exists = np.arange(200) < 190
    counts = jax.device_get(Counts.none(room).plus(points, labels, exists, task_of))
    got = metrics.scores(counts, sizes)

    points, labels = points[:190], labels[:190]
    right = points.argmax(axis=1) == labels
    told = [
        p[task_of == task_of[c]].argmax() == np.flatnonzero(task_of == task_of[c]).tolist().index(c)
        for p, c in zip(points, labels, strict=True)
    ]
    top5 = [c in np.argsort(-p)[:5] for p, c in zip(points, labels, strict=True)]
    assert got["seen_accuracy"] == pytest.approx(right.mean())
    assert got["top5"] == (pytest.approx(np.mean(top5)) if n > 5 else None)
    for t in range(len(sizes)):
        mine = task_of[labels] == t
        assert got["task_accuracy"][t] == pytest.approx(right[mine].mean())
        assert got["task_aware"][t] == pytest.approx(np.array(told)[mine].mean())
    assert counts.confusion.sum() == 190


def test_task_sizes_weigh_the_seen_accuracy():
    summary = metrics.summarize([[1.0], [0.0, 1.0]], [50, 10])
    assert summary["seen_accuracy"] == pytest.approx([1.0, 10 / 60])


def test_task_sizes_weigh_the_old_accuracy():
    summary = metrics.summarize([[1.0], [0.5, 0.0], [0.8, 0.4, 0.0]], [1, 3, 5])
    # Of the four old classes one is in the first task and three are in the second.
    assert summary["old_accuracy"] == pytest.approx([None, 0.5, (0.8 + 3 * 0.4) / 4])


def test_entries_beyond_the_diagonal_are_ignored():
    square = np.full((3, 3), np.nan)
    for t, row in enumerate(MATRIX):
        square[t, : t + 1] = row
    assert metrics.summarize(square, [1, 1, 1]) == metrics.summarize(MATRIX, [1, 1, 1])


def test_one_task_has_no_forgetting():
    summary = metrics.summarize([[0.5]], [10])
    assert summary["average_incremental_accuracy"] == 0.5
    for name in ("average_incremental_accuracy_without_first", "forgetting", "backward_transfer"):
        assert summary[name] is None


@pytest.mark.parametrize(
    ("matrix", "sizes"), [([], []), ([[0.5], [0.5]], [1, 1]), ([[0.5], [0.5, 0.5]], [1])]
)
def test_what_is_no_matrix_is_refused(matrix, sizes):
    with pytest.raises(ValueError, match="row"):
        metrics.summarize(matrix, sizes)


def test_task_accuracies_from_a_confusion_matrix():
    confusion = np.array([[8, 1, 1], [0, 6, 4], [5, 0, 5]])
    assert metrics.task_accuracies(confusion, [2, 1]) == pytest.approx([14 / 20, 5 / 10])
    assert metrics.accuracy(confusion) == pytest.approx(19 / 30)
    with pytest.raises(ValueError, match="2 classes"):
        metrics.task_accuracies(confusion, [2])
