"""PASS: the loss over classes and rotations by NumPy, and the points around old means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import (
    FACTS,
    N_OLD,
    N_SEEN,
    ROOM,
    Small,
    batch_of,
    learner_of,
    log_softmax,
    loss_of,
)

from cil_jax.errors import UserError
from cil_jax.methods.pass_ import PASS, around
from cil_jax.methods.plan import Do


def method_of(**settings):
    return PASS(Small(), **FACTS, **settings)


@pytest.fixture(scope="module")
def learner():
    """Classes 0 to 3 are old. The features of old and new network differ, and so do the heads."""
    return learner_of(method_of())


def features_of_turned(weights, images, train):
    """Features [4 B, D] of images turned by 0, 90, 180 and 270 degrees."""
    turned = np.concatenate([np.rot90(images, k, axes=(1, 2)) for k in range(4)])
    variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
    features, _ = Small().apply(variables, turned, train=train, mutable=["batch_stats"])
    return np.float64(features)


def logits_of(params, features):
    """Outputs [N, 4, classes seen]: those of each rotation side by side."""
    heads = [params["head"]] + [
        jax.tree.map(lambda x, k=k: x[k], params["turned"]) for k in range(3)
    ]
    return np.stack(
        [features @ np.float64(h["kernel"]) + np.float64(h["bias"]) for h in heads], axis=1
    )[:, :, :N_SEEN]


def test_the_loss_tells_classes_and_rotations_apart_and_holds_features_and_prototypes(learner):
    """With a radius of zero, a prototype is the mean of an old class."""
    means = np.random.RandomState(1).randn(ROOM, 4).astype(np.float32)
    own = {**learner.own, "means": jnp.asarray(means), "radius": jnp.float32(0.0)}
    method = method_of(batch_size=20_000, temperature=0.5, feature_weight=3.0, prototype_weight=2.0)
    batch = batch_of([4, 5, 5])
    loss, parts, output = loss_of(method.loss, learner.replace(own=own), batch)

    params = learner.weights.params
    features = features_of_turned(learner.weights, batch.images, train=True)
    log_p = log_softmax(logits_of(params, features).reshape(12, -1) / 0.5).reshape(4, 3, 4, N_SEEN)
    right = [[log_p[k, b, k, label] for b, label in enumerate([4, 5, 5])] for k in range(4)]
    assert parts["classification"] == pytest.approx(-np.mean(right), rel=1e-5)

    old = features_of_turned(learner.teacher, batch.images, train=False)
    assert parts["features"] == pytest.approx(np.sqrt(((features - old) ** 2).sum()), rel=1e-5)

    log_p = log_softmax(logits_of(params, np.float64(means[:N_OLD])).reshape(N_OLD, -1) / 0.5)
    expected = -np.mean([log_p[c, c] for c in range(N_OLD)])  # upright: the first columns
    assert parts["prototypes"] == pytest.approx(expected, rel=0.02)  # of 20,000 draws
    total = parts["classification"] + 3 * parts["features"] + 2 * parts["prototypes"]
    assert loss == pytest.approx(total, rel=1e-5)
    assert output.logits.shape == (3, ROOM)  # of the images as they are
    np.testing.assert_allclose(
        output.logits[:, :N_SEEN], logits_of(params, features[:3])[:, 0], rtol=1e-4, atol=1e-5
    )


def test_points_lie_around_the_means_of_old_classes_at_the_radius():
    means = jnp.arange(12.0).reshape(4, 3) ** 2
    points, classes = around(means, jnp.float32(0.5), jnp.int32(3), 30_000, jax.random.key(0))
    assert np.bincount(classes, minlength=4)[3] == 0
    assert np.abs(np.bincount(classes) / 10_000 - 1).max() < 0.05
    for c in range(3):
        own = np.asarray(points[classes == c])
        np.testing.assert_allclose(own.mean(axis=0), means[c], atol=0.03)
        np.testing.assert_allclose(np.cov(own.T), 0.25 * np.eye(3), atol=0.02)


def test_the_radius_is_the_root_of_the_mean_variance_in_the_first_task(learner):
    """Of the classes seen by then; what it is later stays."""
    own = {**learner.own, "variances": jnp.array([4.0, 14.0, 5.0, 6.0, 7.0, 8.0, 9.0])}
    taught = learner.replace(own=own, n_seen=jnp.int32(2))
    method = method_of()
    assert method.with_radius(taught, jax.random.key(0)).own["radius"] == 3.0
    changes = [
        [x for x in method.plan(is_first) if isinstance(x, Do)] for is_first in (True, False)
    ]
    assert changes == [[Do(method.with_radius)], []]


def test_images_that_are_not_square_are_refused():
    with pytest.raises(UserError, match="PASS turns images by 90 degrees: it needs square ones"):
        method_of().initial_weights((4, 5, 1), ROOM, jax.random.key(0))


def test_answers_are_given_by_the_outputs_of_upright_images(learner):
    features = jax.random.normal(jax.random.key(1), (5, 4))
    scores = method_of(temperature=0.5).linear(learner, features)
    expected = logits_of(learner.weights.params, np.float64(features))[:, 0] / 0.5
    np.testing.assert_allclose(scores[:, :N_SEEN], expected, rtol=1e-4)
