"""The worked examples of docs/definitions.md: our numbers, and those of other libraries.

The definitions of the others are written out here from their descriptions, not taken from our code.
"""

from pathlib import Path

import numpy as np
import pytest

from cil_jax import metrics

PAGE = (Path(__file__).parents[1] / "docs" / "definitions.md").read_text()

RECOVERS = [[0.60], [0.50, 0.80], [0.70, 0.50, 0.70]]  # the first task is best at the end
RISES = [[0.60], [0.70, 0.80], [0.50, 0.60, 0.70]]  # and here best after the second task


def square(rows):
    """The matrix [T, T] with zeros above the diagonal, as PyCIL keeps it."""
    return np.array([[*row, *[0.0] * (len(rows) - len(row))] for row in rows])


def pycil_forgetting(rows):
    matrix = square(rows)
    return np.mean((matrix.max(axis=0) - matrix[-1])[:-1])


def avalanche_forgetting(rows):
    matrix = square(rows)
    return np.mean((np.diagonal(matrix) - matrix[-1])[:-1])


@pytest.mark.parametrize(
    ("rows", "ours", "elsewhere", "theirs"),
    [(RECOVERS, 0.10, pycil_forgetting, 0.15), (RISES, 0.20, avalanche_forgetting, 0.15)],
)
def test_forgetting_as_in_the_worked_examples(rows, ours, elsewhere, theirs):
    assert metrics.summarize(rows, [1, 1, 1])["forgetting"] == pytest.approx(ours)
    assert elsewhere(rows) == pytest.approx(theirs)
    for row in rows:
        assert " ".join(f"{x:.2f}".removeprefix("0") for x in row) in PAGE
    assert f"**{ours:.2f}**".replace("0.", ".") in PAGE
    assert f"**{theirs:.2f}**".replace("0.", ".") in PAGE


def test_a_large_first_task_weighs_more_than_in_a_mean_over_tasks():
    summary = metrics.summarize([[0.9], [0.70, 0.50]], [50, 10])
    assert f"**{summary['last_accuracy']:.3f}**".replace("0.", ".") in PAGE
    assert summary["last_accuracy"] == pytest.approx((50 * 0.7 + 10 * 0.5) / 60)
    mean_over_tasks = np.mean(summary["accuracy_matrix"][-1])
    assert mean_over_tasks == pytest.approx(0.6)
    assert f"**{mean_over_tasks:.3f}**".replace("0.", ".") in PAGE


def test_the_area_over_budgets_as_in_the_worked_example():
    area = metrics.area_over_budgets([2.0, 4.0, 10.0], [0.50, 0.60, 0.70])
    assert f"**{area:.1f}** MB" in PAGE
    network = 463_504 + 64 * 100 + 100
    assert f"{metrics.size_in_mb(network, 2000 * 3072):.2f} MB here" in PAGE
    assert metrics.size_in_mb(463_504, 2000 * 3072) == pytest.approx(7.6, abs=0.05)
