"""FeTrIL: which features are moved where, and the loss, by NumPy; the new classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from frozen_features import D, after_tasks, engine_of, features_of, images_of
from third_task import FACTS, N_OLD, N_SEEN, ROOM, Small, batch_of, learner_of, log_softmax

from cil_jax.methods.fetril import FeTrIL, translations


@pytest.fixture(scope="module")
def learner():
    """Classes 0 to 3 are old, 4 and 5 new."""
    means = np.random.RandomState(0).randn(ROOM, Small.n_features).astype(np.float32)
    learner = learner_of(FeTrIL(Small(), **FACTS))
    return learner.replace(own={"means": jnp.asarray(means), "variances": jnp.ones(ROOM)})


def test_an_old_class_takes_the_features_of_the_new_class_with_the_nearest_mean():
    """By the angle, not the distance: class 0 is nearest to class 3 by length alone."""
    means = jnp.array([[1.0, 0.1], [0.0, 2.0], [9.0, 1.0], [0.5, 1.0], [9.0, 0.9]])
    found = translations(means, jnp.array([3, 2, 3]), 2, 4)
    #  old class      0      1
    assert found.tolist() == [
        [False, True, False, False, False],  # an image of class 3
        [True, False, False, False, False],  # an image of class 2
        [False, True, False, False, False],
    ]


def test_the_loss_is_the_mean_cross_entropy_of_new_and_moved_features(learner):
    batch = batch_of([4, 5, 5, 4, 4])
    method = FeTrIL(Small(), **FACTS)
    loss, (parts, output) = jax.jit(method.loss_of_head)(
        learner.weights.params, learner, batch, jax.random.key(0)
    )
    head = {k: np.float64(x) for k, x in learner.weights.params["head"].items()}
    means, features = np.float64(learner.own["means"]), np.float64(output.features)

    def loss_of(feature, label):
        logits = feature @ head["kernel"] + head["bias"]
        return -log_softmax(logits[:N_SEEN])[label]

    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    losses = []
    for feature, label in zip(features, batch.labels.tolist(), strict=True):
        losses.append(loss_of(feature, label))
        for old in range(N_OLD):
            if N_OLD + np.argmax(unit[N_OLD:N_SEEN] @ unit[old]) == label:
                losses.append(loss_of(feature + means[old] - means[label], old))
    assert len(losses) > 5
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert parts["classification"] == loss
    statistics = jax.tree.map(np.array_equal, output.batch_stats, learner.weights.batch_stats)
    assert all(jax.tree.leaves(statistics))


def test_only_the_classifier_is_trained_after_the_first_task(learner):
    describe, change, train = FeTrIL(Small(), **FACTS, head_epochs=7).plan(is_first=False)
    factors = train.trainable(learner)
    assert jax.tree.leaves(factors["backbone"]) == [0.0] * 4 and not train.augmented
    assert all(np.all(x == 1) for x in jax.tree.leaves(factors["head"]))
    assert (train.schedule.epochs, train.schedule.rate_at(0), describe.source) == (7, 0.05, "new")
    changed = change.change(learner, jax.random.key(5)).weights.params["head"]["kernel"]
    assert np.all(changed[:, :N_SEEN] != learner.weights.params["head"]["kernel"][:, :N_SEEN])


def test_means_and_variances_are_those_of_all_images_of_a_class():
    learner = after_tasks(engine_of(FeTrIL), (0, 1), (2,))
    for name in range(3):
        x = features_of(images_of(name))
        np.testing.assert_allclose(learner.own["means"][name], x.mean(axis=0), rtol=1e-5)
        expected = np.trace(np.cov(x.T)) / D
        np.testing.assert_allclose(learner.own["variances"][name], expected, rtol=1e-3)
    assert not np.any(learner.own["means"][3:])
