"""The nearest-mean classifier."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import classifiers, heads


def test_nearest_mean_by_hand():
    means = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    features = jnp.array([[0.9, 0.2], [0.1, 0.5], [-3.0, 1.0], [0.6, 0.5]])
    chex.assert_trees_all_equal(classifiers.nearest_mean(features, means), jnp.array([0, 1, 2, 0]))


def test_distance_is_euclidean_for_means_of_any_length():
    # The direction of the second mean is nearer, the point of the first one is.
    means = jnp.array([[1.0, 0.0], [10.0, 10.0]])
    assert classifiers.nearest_mean(jnp.array([[1.0, 0.9]]), means).tolist() == [0]


def test_scores_are_minus_squared_distances():
    features = jax.random.normal(jax.random.key(0), (5, 3))
    means = jax.random.normal(jax.random.key(1), (4, 3))
    expected = -np.square(np.asarray(features)[:, None] - np.asarray(means)[None]).sum(-1)
    scores = classifiers.negative_distances(features, means)
    chex.assert_trees_all_close(scores, expected.astype(np.float32), atol=1e-5)


def test_features_of_any_length_are_brought_to_length_1_before_they_meet_the_means():
    means = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    features = jnp.array([[3.0, 4.0], [0.0, 0.5]])  # at length 1: (.6, .8) and (0, 1)
    scores = classifiers.nearest_class_mean(features, means, 2)
    expected = jnp.array([[2 * 0.6 - 2, 2 * 0.8 - 2], [-2.0, 0.0]])
    chex.assert_trees_all_close(scores[:, :2], expected, atol=1e-6)
    assert (scores[:, 2] == heads.CLOSED).all()


def test_class_means_by_hand():
    features = jnp.array([[3.0, 0.0], [0.0, 0.5], [0.0, 7.0], [5.0, 5.0]])
    labels = jnp.array([0, 0, 1, -1])  # the last row belongs nowhere
    half = np.sqrt(0.5)
    expected = jnp.array([[half, half], [0.0, 1.0], [0.0, 0.0]])
    chex.assert_trees_all_close(classifiers.class_means(features, labels, 3), expected, atol=1e-6)


def test_ridge_regression_is_that_of_numpy():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    labels[5] = -1
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    rows, targets = np.delete(rows, 5, axis=0), np.eye(3)[np.delete(labels, 5)]
    # As least squares with the penalty as further rows.
    rows, targets = (
        np.vstack([rows, np.sqrt(0.7) * np.eye(4)]),
        np.vstack([targets, np.zeros((4, 3))]),
    )
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0]
    found = classifiers.ridge(jnp.float32(features), jnp.int32(labels), 3, 0.7)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fecams_distances_are_those_of_numpy():
    rng = np.random.default_rng(1)
    features, labels = rng.gamma(1.0, size=(40, 3)), np.arange(40) % 2
    tests = rng.gamma(1.0, size=(5, 3))
    expected = np.zeros((5, 2))
    for label in (0, 1):
        rows = np.sqrt(features[labels == label])
        covariance = np.cov(rows.T)
        covariance += 2.0 * np.diag(covariance).mean() * np.eye(3)
        spread = np.sqrt(np.diag(covariance))
        precision = np.linalg.inv(covariance / np.outer(spread, spread))
        mean = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
        for i, test in enumerate(np.sqrt(tests)):
            away = test / np.linalg.norm(test) - mean
            expected[i, label] = -away @ precision @ away
    fitted = classifiers.gaussians(
        classifiers.tukey(jnp.float32(features)), jnp.int32(labels), 2, shrinkage=2.0
    )
    found = classifiers.mahalanobis(classifiers.tukey(jnp.float32(tests)), fitted)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classifiers.tukey(jnp.array([4.0, 0.0, -9.0])), [2.0, 0.0, -3.0])


def test_a_correction_is_fitted_where_the_cross_entropy_is_least():
    """Old logits are 0. Of new logits 3, three in four are new; of new logits 1, one in four.

    So the corrected logits are log 3 and -log 3: scale * 3 + shift = -(scale + shift) = log 3.
    """
    logits = jnp.array([[0.0, 3.0]] * 4 + [[0.0, 1.0]] * 4)
    labels = jnp.array([1, 1, 1, 0, 1, 0, 0, 0])
    scale, shift = classifiers.fitted_correction(logits, labels, jnp.array([False, True]))
    assert (scale, shift) == pytest.approx((np.log(3), -2 * np.log(3)), abs=1e-3)
