"""The nearest-mean classifier."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

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
