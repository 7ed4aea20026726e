"""IL2M: the rectification on numbers, and the statistics of scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import FACTS, N_SEEN, ROOM, Small, batch_of, learner_of, log_softmax, logits_of

from cil_jax import heads
from cil_jax.methods.il2m import IL2M, RECTIFIED, rectify

TASK_OF = jnp.array([0, 0, 1, 2, -1])  # of five classes; class 3 is new, and one is to come
STATISTICS = {
    "mean_init": jnp.array([0.8, 0.6, 0.9, 0.7, 1.0]),
    "mean_now": jnp.array([0.2, 0.3, 0.6, 0.7, 1.0]),
    "confidence": jnp.array([0.9, 0.6, 0.45, 1.0]),
}


def method_of(**settings):
    return IL2M(Small(), **FACTS, memory=8, mirror_means=False, **settings)


@pytest.fixture(scope="module")
def learner():
    return learner_of(method_of())


def test_old_scores_are_rectified_where_a_new_class_has_the_best_one():
    """0.8/0.2 * 0.45/0.9 = 2, 0.6/0.3 * 0.45/0.9 = 1 and 0.9/0.6 * 0.45/0.6 = 1.125."""
    scores = jnp.array([[0.3, 0.1, 0.2, 0.4, 0.0], [0.5, 0.0, 0.1, 0.4, 0.0]])
    found = rectify(scores, STATISTICS, TASK_OF, 2)
    expected = [[0.6, 0.1, 0.225, 0.4, 0.0], [0.5, 0.0, 0.1, 0.4, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.argmax(axis=1).tolist() == [0, 0]


def test_in_the_first_task_no_class_is_old():
    scores = jnp.array([[0.7, 0.3, 0.0, 0.0, 0.0]])
    task_of = jnp.array([0, 0, -1, -1, -1])
    assert np.array_equal(rectify(scores, STATISTICS, task_of, 0), scores)


def test_statistics_are_means_of_softmax_scores_by_class(learner):
    """Over two batches, one with a row that holds no image. Class 3 has no exemplar."""
    method = method_of()
    own = {**learner.own, "mean_init": jnp.full(ROOM, 0.5), "mean_now": jnp.full(ROOM, 0.25)}
    learner = learner.replace(own=own)
    batches = [batch_of([4, 5, 4, 0, 1]), batch_of([2, 2, 5, -1])]
    sums = method.no_sums(learner)
    for batch in batches:
        sums = jax.jit(method.with_sums_of)(learner, sums, batch)
    found = method.with_statistics(learner, sums, jax.random.key(0)).own

    labels = np.concatenate([batch.labels for batch in batches])
    logits = [logits_of(learner.weights, batch.images, train=False)[0] for batch in batches]
    scores = np.exp(log_softmax(np.concatenate(logits)[:, :N_SEEN]))
    means = [scores[labels == c, c].mean() for c in (0, 1, 2, 4, 5)]
    init = [0.5, 0.5, 0.5, 0.5, *means[3:], 0.5]  # those of old classes stay as they were
    now = [*means[:3], 0.25, *means[3:], 0.25]
    np.testing.assert_allclose(found["mean_init"], init, rtol=1e-4)
    np.testing.assert_allclose(found["mean_now"], now, rtol=1e-4)
    confidence = scores[labels >= 4].max(axis=1).mean()
    np.testing.assert_allclose(found["confidence"], [1.0, 1.0, confidence, 1.0], rtol=1e-4)


@pytest.mark.parametrize("ended", [False, True])
def test_the_rectified_classifier_knows_which_task_is_the_newest(learner, ended):
    """Before the end of a task and after it. Means make each old score twice what it is."""
    own = {**learner.own, "mean_init": jnp.full(ROOM, 1.0), "mean_now": jnp.full(ROOM, 0.5)}
    learner = learner.replace(own=own, task=learner.task + ended)
    features = jax.random.normal(jax.random.key(0), (50, 4))
    method = method_of()
    found = np.asarray(jax.jit(method.rectified)(learner, features))
    scores = np.exp(log_softmax(method.linear(learner, features)[:, :N_SEEN]))
    is_new_best = scores.argmax(axis=1) >= 4
    assert 5 < is_new_best.sum() < 45
    factors = np.where(is_new_best[:, None] & (np.arange(N_SEEN) < 4), 2.0, 1.0)
    np.testing.assert_allclose(found[:, :N_SEEN], factors * scores, rtol=1e-4)
    assert np.all(found[:, N_SEEN:] == heads.CLOSED)
    shown = np.asarray(RECTIFIED.apply(found))
    np.testing.assert_allclose(shown.sum(axis=1), 1.0, rtol=1e-5)
    assert np.array_equal(shown.argmax(axis=1), found.argmax(axis=1))


@pytest.mark.parametrize("answer", ["rectified", "linear", "nme"])
def test_the_answer_comes_first_among_three_classifiers(answer):
    method = method_of(answer=answer)
    names = list(method.classifiers())
    assert names[0] == method.headline == answer
    assert set(names) == {"rectified", "linear", "nme"}
