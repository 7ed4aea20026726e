"""DS-AL: the second stream by its recursion, written again in NumPy."""

import numpy as np
import pytest
from frozen_features import after_tasks, all_of, difference, engine_of

from cil_jax.methods.dsal import DSAL

M, RIDGE, SECOND_RIDGE, COMPENSATION = 32, 0.1, 0.3, 0.6
TASKS = ((0, 1), (2,), (3, 4))


@pytest.fixture(scope="module")
def engine():
    return engine_of(DSAL, n_random=M, compensation_ridge=SECOND_RIDGE)


def recursive(inverse, weights, rows, targets):
    """The authors' update of the inverse and of weights [M, C] by rows [N, M]."""
    gain = np.linalg.inv(np.eye(len(rows)) + rows @ inverse @ rows.T)
    inverse = inverse - inverse @ rows.T @ gain @ rows @ inverse
    return inverse, weights + inverse @ rows.T @ (targets - rows @ weights)


def test_the_scores_are_those_of_the_recursion(engine):
    learner = after_tasks(engine, *TASKS)
    projection = np.asarray(learner.own["projection"], np.float64)
    first, second = (np.eye(M) / ridge for ridge in (RIDGE, SECOND_RIDGE))
    weights, residual_weights, n_old = np.zeros((M, 5)), np.zeros((M, 5)), 0
    for names in TASKS:
        points, new = all_of(*names)
        targets = np.zeros((len(points), 5))
        targets[:, n_old : n_old + len(names)] = new
        random, bent = np.maximum(points @ projection, 0.0), np.tanh(points @ projection)
        first, weights = recursive(first, weights, random, targets)
        residuals = targets - random @ weights
        residuals[:, :n_old] = 0.0  # previous label cleansing
        second, residual_weights = recursive(second, residual_weights, bent, residuals)
        n_old += len(names)
    assert difference(learner.own["residual_weights"][:5], residual_weights.T) < 1e-4
    points, _ = all_of(*range(5))
    random, bent = np.maximum(points @ projection, 0.0), np.tanh(points @ projection)
    expected = random @ weights + COMPENSATION * bent @ residual_weights
    scores = engine.method.classifiers()["ridge"](learner, points.astype(np.float32))
    assert difference(scores[:, :5], expected) < 1e-4
    assert difference(scores[:, :5], random @ weights) > 1e-2
