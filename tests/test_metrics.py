"""The accuracy matrix and its summary."""

import numpy as np
import pytest

from cil_jax import metrics

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


def test_task_sizes_weigh_the_seen_accuracy():
    summary = metrics.summarize([[1.0], [0.0, 1.0]], [50, 10])
    assert summary["seen_accuracy"] == pytest.approx([1.0, 10 / 60])


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
