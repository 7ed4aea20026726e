"""ACIL: equal to the ridge regression of all data at once, by NumPy in float64."""

import numpy as np
import pytest
from frozen_features import D, after_tasks, all_of, difference, engine_of

from cil_jax.methods.acil import ACIL

M = 64


@pytest.fixture(scope="module")
def engine():
    return engine_of(ACIL, n_random=M)


@pytest.mark.parametrize("tasks", [((0, 1, 2, 3, 4),), ((0, 1), (2,), (3, 4)), ((4, 3), (2, 1, 0))])
def test_the_weights_are_those_of_all_data_at_once(engine, tasks):
    learner = after_tasks(engine, *tasks)
    projection = np.asarray(learner.own["projection"], np.float64)
    assert projection.shape == (D, M) and 0.9 < np.abs(projection).max() * D**0.5 <= 1.0
    points, targets = all_of(*sum(tasks, ()))
    random = np.maximum(points @ projection, 0.0)
    gram = random.T @ random + 0.1 * np.eye(M)
    assert np.linalg.cond(gram) > 1e4
    weights = np.linalg.solve(gram, random.T @ targets)
    assert difference(learner.own["weights"][:5], weights.T) < 1e-5
    assert not np.any(learner.own["weights"][5:])
    scores = engine.method.classifiers()["ridge"](learner, points.astype(np.float32))
    assert difference(scores[:, :5], random @ weights) < 1e-5
    right = np.asarray(scores).argmax(axis=1) == targets.argmax(axis=1)
    assert right.mean() > 0.9
