"""WA: the aligned head by hand, and the loss and the clipping in a task."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images, small_config

import cil_jax
from cil_jax import losses
from cil_jax.methods import wa
from cil_jax.training.build import Room, engine_of

# Columns: two old of length 5 and 1, two new of length 10 and 2, one that is closed.
KERNEL = np.array([[3.0, 0.0, 6.0, 2.0, 7.0], [4.0, 1.0, 8.0, 0.0, 0.0]], np.float32)
HEAD = {"kernel": jnp.asarray(KERNEL), "bias": jnp.arange(5.0)}


def test_new_columns_get_the_mean_length_of_the_old_ones():
    """The mean lengths are (5 + 1) / 2 and (10 + 2) / 2, so the new columns are halved."""
    head = wa.aligned(HEAD, jnp.int32(2), jnp.int32(4))
    halved = KERNEL * [1, 1, 0.5, 0.5, 1]
    np.testing.assert_allclose(head["kernel"], halved, rtol=1e-6)
    assert np.array_equal(head["bias"], HEAD["bias"])


def test_to_align_twice_changes_nothing():
    once = wa.aligned(HEAD, 2, 4)
    chex.assert_trees_all_close(wa.aligned(once, 2, 4), once, rtol=1e-6)


@pytest.fixture(scope="module")
def engine():
    config = small_config("wa", "unused", pad=0, mirror="no", memory=8)
    return engine_of(config, None, Room(n_classes=4, n_tasks=2, task_room=2))


@pytest.fixture(scope="module")
def learner(engine):
    """In the second task, with a teacher that differs from the network."""
    normalizer = cil_jax.learner.Normalizer(jnp.full((1, 1, 1), 0.5), jnp.ones((1, 1, 1)))
    keys = jax.random.key(0), jax.random.key(1)
    learner = engine.create((8, 8, 1), 4, normalizer, *keys)
    learner = engine.method.begin_task(learner, jnp.int32(2), jax.random.key(2))
    learner = engine.end_task(learner)
    learner = engine.method.begin_task(learner, jnp.int32(2), jax.random.key(3))
    params = jax.tree.map(lambda x: 1.5 * x, learner.weights.params)
    return learner.replace(weights=learner.weights.replace(params=params))


def test_distillation_weighs_as_much_as_old_classes_are_many(engine, learner):
    """Two of four classes are old, so each part counts half."""
    batch = new_images(jax.random.normal(jax.random.key(4), (3, 8, 8, 1)), [2, 3, 2])
    method, params = engine.method, learner.weights.params
    loss, (_, output) = method.loss(params, learner, batch, jax.random.key(0), train=False)
    teacher = method.network(learner.teacher, batch.images, 2)
    distillation = losses.distillation(output.logits[:, :2], teacher.logits[:, :2], 2.0)
    expected = 0.5 * losses.cross_entropy(output.logits, batch.labels) + 0.5 * distillation
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_step_after_the_training_aligns_the_head(engine, learner):
    train, align, _ = engine.method.plan(is_first=False)
    assert [type(step).__name__ for step in engine.method.plan(True)] == ["Train", "Keep"]
    after = engine.do(learner, kind=engine.kind(align)).weights.params["head"]
    lengths = np.linalg.norm(after["kernel"], axis=0)
    before = np.linalg.norm(learner.weights.params["head"]["kernel"], axis=0)
    assert lengths[2:].mean() == pytest.approx(before[:2].mean(), rel=1e-5)
    assert np.array_equal(lengths[:2], before[:2])
    assert train.loss is None


@pytest.mark.parametrize("clip", [False, True])
def test_weights_are_clipped_only_on_request(engine, learner, clip):
    method = wa.WA(engine.method.backbone, n_classes=4, clip_weights=clip)
    before = learner.weights.params["head"]["kernel"]
    assert (before < 0).any() and (before > 0).any()
    after = method.updated(learner, learner, {}).weights.params["head"]["kernel"]
    assert np.array_equal(after, np.maximum(before, 0) if clip else before)
