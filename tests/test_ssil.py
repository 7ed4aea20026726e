"""SS-IL: the separated softmax, the distillation of each task, and the slower updates."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import (
    FACTS,
    ROOM,
    Small,
    batch_of,
    cross_entropy,
    learner_of,
    log_softmax,
    logits_of,
    loss_of,
)

from cil_jax.heads import CLOSED
from cil_jax.methods.ssil import SSIL, separated


def method_of(**settings):
    return SSIL(Small(), **FACTS, memory=8, replay_batch_size=3, mirror_means=False, **settings)


@pytest.fixture(scope="module")
def learner():
    return learner_of(method_of())


def test_an_image_is_classified_among_the_classes_of_its_side():
    logits = jnp.arange(10.0).reshape(2, 5)
    found = separated(logits, jnp.array([1, 3]), 2, 4)
    sides = np.array([[True, True, False, False, False], [False, False, True, True, False]])
    assert np.array_equal(found, np.where(sides, logits, CLOSED))


def test_the_loss_is_two_separated_softmaxes_and_a_distillation_of_each_old_task(learner):
    """Five new images of classes 4 and 5, and three exemplars of the tasks of 0, 1 and 2, 3."""
    batch = batch_of([4, 5, 4, 4, 5, 1, 2, 0], n_exemplars=3)
    loss, parts, output = loss_of(method_of(temperature=2.0).loss, learner, batch)
    logits, statistics = logits_of(learner.weights, batch.images)
    new = 5 * cross_entropy(logits[:5, 4:6], batch.labels[:5] - 4)
    old = 3 * cross_entropy(logits[5:, :4], batch.labels[5:])
    teacher = logits_of(learner.teacher, batch.images, train=False)[0]
    distillation = 0.0
    for columns in (slice(0, 2), slice(2, 4)):
        soft_labels = np.exp(log_softmax(teacher[:, columns] / 2))
        distillation -= 4 * (soft_labels * log_softmax(logits[:, columns] / 2)).sum(axis=1).mean()
    chex.assert_trees_all_close(
        parts, {"classification": (new + old) / 8, "distillation": distillation}, rtol=1e-4
    )
    assert loss == pytest.approx((new + old) / 8 + distillation, rel=1e-4)
    chex.assert_trees_all_close(output.batch_stats, statistics, rtol=1e-5)


def test_new_images_do_not_move_old_outputs_except_through_distillation(learner):
    def classification(params, batch):
        return method_of().loss(params, learner, batch, jax.random.key(0))[1][0]["classification"]

    head = jax.jit(jax.grad(classification))(learner.weights.params, batch_of([4, 5, 4]))["head"]
    moved = np.any(np.asarray(head["kernel"]) != 0, axis=0)
    assert moved.tolist() == [False] * 4 + [True, True] + [False] * (ROOM - 6)


def test_exemplars_are_drawn_beside_the_new_images_after_the_first_task():
    (first, _), (later, _) = (method_of().plan(is_first) for is_first in (True, False))
    assert (first.beside, later.beside) == (0, 3)
    assert first.rows is later.rows is not None


def test_updates_of_the_third_task_are_divided_by_three(learner):
    factors = jax.tree.leaves(method_of().trainable(learner))
    np.testing.assert_allclose(factors, 1 / 3, rtol=1e-6)
    assert method_of(slower=False).trainable(learner) is None
