"""SimpleCIL: the cosine to the mean of all features of a class, by NumPy."""

import numpy as np
import pytest
from frozen_features import after_tasks, all_of, difference, engine_of, features_of, images_of

from cil_jax.heads import CLOSED
from cil_jax.methods.simplecil import SimpleCIL


@pytest.fixture(scope="module")
def engine():
    return engine_of(SimpleCIL)


@pytest.mark.parametrize("tasks", [((0, 1, 2, 3, 4),), ((4, 3), (2,), (1, 0))])
def test_the_scores_are_cosines_to_the_means_of_all_data(engine, tasks):
    """Means of features that are not scaled to one length before."""
    learner, names = after_tasks(engine, *tasks), sum(tasks, ())
    points, _ = all_of(*names)
    means = np.array([features_of(images_of(name)).mean(axis=0) for name in names])
    lengths = np.linalg.norm(points, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    scores = engine.method.classifiers()["prototypes"](learner, points.astype(np.float32))
    assert difference(scores[:, :5], points @ means.T / lengths) < 1e-6
    assert np.all(np.asarray(scores)[:, 5:] == CLOSED)


def test_while_the_first_task_is_trained_the_outputs_answer(engine):
    learner = after_tasks(engine, (0, 1))
    training = learner.replace(task=0 * learner.task)
    points = all_of(0, 1)[0].astype(np.float32)
    score = engine.method.classifiers()["prototypes"]
    np.testing.assert_array_equal(score(training, points), engine.method.linear(learner, points))
    assert difference(score(learner, points)[:, :2], score(training, points)[:, :2]) > 0.1
