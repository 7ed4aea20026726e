"""FeCAM: its distance by NumPy, class by class."""

import numpy as np
import pytest
from frozen_features import D, after_tasks, all_of, difference, engine_of, features_of, images_of

from cil_jax.methods.fecam import FeCAM


def numpy_distance(points, x, tukey, diagonal, others):
    """Distances [B] of points [B, D] to the class of images with features x [N, D]."""

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    covariance = np.cov((x**tukey).T)
    for _ in range(2):
        is_other = ~np.eye(D, dtype=bool)
        mean_variance, mean_other = np.diag(covariance).mean(), covariance[is_other].mean()
        covariance = (
            covariance + diagonal * mean_variance * np.eye(D) + others * mean_other * is_other
        )
    deviations = np.sqrt(np.diag(covariance))
    inverse = np.linalg.pinv(covariance / np.outer(deviations, deviations))
    offsets = unit(points**tukey) - unit(x.mean(axis=0) ** tukey)
    return np.sum(offsets @ inverse * offsets, axis=1)


@pytest.mark.parametrize(
    ("tasks", "settings"),
    [
        (((0, 1), (2,), (3, 4)), (0.5, 1.0, 1.0)),
        (((4, 3, 2), (1, 0)), (1.0, 0.1, 0.3)),
    ],
)
def test_the_scores_are_minus_the_distances_to_each_class(tasks, settings):
    tukey, diagonal, others = settings
    engine = engine_of(FeCAM, tukey=tukey, shrinkage=diagonal, shrinkage_other=others)
    learner, names = after_tasks(engine, *tasks), sum(tasks, ())
    points, targets = all_of(*names)
    expected = [numpy_distance(points, features_of(images_of(n)), *settings) for n in names]
    scores = engine.method.classifiers()["mahalanobis"](learner, points.astype(np.float32))
    assert difference(scores[:, :5], -np.transpose(expected)) < 1e-4
    right = np.asarray(scores).argmax(axis=1) == targets.argmax(axis=1)
    assert right.mean() > 0.8


def test_a_class_of_one_image_or_of_constant_features_has_finite_distances():
    method = engine_of(FeCAM).method
    correlations = method.correlations(np.zeros((1, D, D), np.float32))
    np.testing.assert_array_equal(correlations[0], np.eye(D))
