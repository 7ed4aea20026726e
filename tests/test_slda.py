"""SLDA: equal to the discriminant analysis of all data at once, by NumPy in float64."""

import numpy as np
import pytest
from frozen_features import after_tasks, all_of, difference, engine_of, features_of, images_of

from cil_jax.methods.slda import SLDA


@pytest.fixture(scope="module")
def engine():
    return engine_of(SLDA, shrinkage=0.01)


def numpy_scores(points, *names):
    """Scores [B, C] of points [B, D] by the definition, from all data at once."""
    means, offsets = [], []
    for name in names:
        x = features_of(images_of(name))
        means.append(x.mean(axis=0))
        offsets.append(x - means[-1])
    offsets, means = np.concatenate(offsets), np.array(means)
    covariance = offsets.T @ offsets / len(offsets)
    inverse = np.linalg.inv(0.99 * covariance + 0.01 * np.eye(len(covariance)))
    return points @ inverse @ means.T - 0.5 * np.sum(means @ inverse * means, axis=1)


@pytest.mark.parametrize("tasks", [((0, 1, 2, 3, 4),), ((0, 1), (2,), (3, 4)), ((4, 3), (2, 1, 0))])
def test_the_scores_are_those_of_all_data_at_once(engine, tasks):
    names = sum(tasks, ())
    points, targets = all_of(*names)
    learner = after_tasks(engine, *tasks)
    scores = engine.method.classifiers()["lda"](learner, points.astype(np.float32))
    expected = numpy_scores(points, *names)
    assert difference(scores[:, :5], expected) < 1e-5
    right = np.asarray(scores).argmax(axis=1) == targets.argmax(axis=1)
    assert right.mean() > 0.9
