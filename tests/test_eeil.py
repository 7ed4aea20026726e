"""EEIL: the distillation of each head in both stages, and what the second stage trains on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import (
    FACTS,
    N_SEEN,
    SHAPE,
    Small,
    batch_of,
    cross_entropy,
    learner_of,
    log_softmax,
    logits_of,
    loss_of,
)

from cil_jax import memory as memory_lib
from cil_jax.methods.eeil import EEIL
from cil_jax.methods.plan import Do, Train

HEADS = (slice(0, 2), slice(2, 4), slice(4, 6))  # columns of the three tasks


def method_of(**settings):
    return EEIL(Small(), **FACTS, memory=8, mirror_means=False, **settings)


@pytest.fixture(scope="module")
def learner():
    return learner_of(method_of())


@pytest.fixture(scope="module")
def batch():
    return batch_of([4, 5, 4, 1, 2])


def expected_of(learner, batch, teacher, heads):
    """The parts of the loss in float64; each head has a softmax of its own, at temperature 2."""
    logits = logits_of(learner.weights, batch.images)[0]
    old = logits_of(teacher, batch.images, train=False)[0]
    distillation = 0.0
    for head in heads:
        soft_labels = np.exp(log_softmax(old[:, head] / 2))
        distillation -= (soft_labels * log_softmax(logits[:, head] / 2)).sum(axis=1).mean()
    classification = cross_entropy(logits[:, :N_SEEN], batch.labels)
    return {"classification": classification, "distillation": distillation}


def test_the_first_stage_distils_every_old_head_the_newest_included(learner, batch):
    loss, parts, _ = loss_of(method_of().loss, learner, batch)
    expected = expected_of(learner, batch, learner.teacher, HEADS[:2])
    chex.assert_trees_all_close(parts, expected, rtol=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_balanced_finetuning_distils_all_heads_of_the_network_after_the_first_stage(learner, batch):
    _, change, finetune, _ = method_of().plan(is_first=False)
    assert isinstance(change, Do) and isinstance(finetune, Train)
    after = change.change(learner, jax.random.key(0))
    moved = jax.tree.map(lambda x: 0.9 * x + 0.2, learner.weights.params)
    after = after.replace(weights=after.weights.replace(params=moved))
    loss, parts, _ = loss_of(finetune.loss, after, batch)
    expected = expected_of(after, batch, learner.weights, HEADS)
    chex.assert_trees_all_close(parts, expected, rtol=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_the_network_of_the_task_before_stays_the_teacher_of_the_task(learner):
    """For a run that is stopped in between, and goes back to whole tasks."""
    after = method_of().with_new_teacher(learner, jax.random.key(0))
    chex.assert_trees_all_equal(after.teacher, learner.teacher)
    chex.assert_trees_all_equal(after.own["teacher"], learner.weights)


def test_balanced_finetuning_is_on_as_many_images_of_each_class(learner):
    memory = learner.memory.replace(labels=jnp.repeat(jnp.arange(4, dtype=jnp.int32), 2))
    learner = learner.replace(memory=memory)
    labels = np.repeat([4, 5], 6).astype(np.int32)
    images = np.zeros((12, *SHAPE), np.uint8)
    pool = memory_lib.join(images, jnp.asarray(labels), memory, 2, 6)
    finetune = method_of().plan(is_first=False)[2]
    rows = jax.jit(finetune.rows)(learner, pool, jax.random.key(1))
    assert np.bincount(np.asarray(pool.labels)[np.asarray(rows)]).tolist() == [2] * 6


def test_the_rate_of_the_finetuning_falls_after_one_and_two_quarters():
    method = method_of(finetune_epochs=40, finetune_rate=0.01, weight_decay=0.5)
    schedule = method.plan(is_first=False)[2].schedule
    rates = [schedule.rate_at(epoch) for epoch in (0, 9, 10, 19, 20, 39)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    assert (schedule.epochs, schedule.weight_decay) == (40, 0.5)


def test_the_first_task_has_one_stage_and_no_distillation(learner, batch):
    assert [type(step).__name__ for step in method_of().plan(is_first=True)] == ["Train", "Keep"]
    first = learner.replace(n_old=jnp.int32(0))
    assert loss_of(method_of().loss, first, batch)[1]["distillation"] == 0.0
