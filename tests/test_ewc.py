"""EWC: the Fisher information of a linear softmax, the penalty by hand, and merged tasks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images
from flax import linen as nn

from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer
from cil_jax.methods.ewc import EWC
from cil_jax.methods.penalty import penalty_of
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

N_IMAGES, SHAPE = 70, (1, 3, 1)  # more than one batch of the fold


class Pixels(nn.Module):
    """The pixels are the features, each times a weight that starts at 1."""

    n_features = 3

    @nn.compact
    def __call__(self, images, train):
        return images.reshape(len(images), -1) * self.param("gain", nn.initializers.ones, (3,))


def engine_of(**settings):
    method = EWC(Pixels(), n_classes=4, n_tasks=2, task_room=2, **settings)
    return Engine(method, SGD(), Augmentation(0, False, "mean", 0.0), batch_size=16)


@pytest.fixture(scope="module")
def engine():
    return engine_of()


def learner_of(engine):
    """In the first task, of two classes."""
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.25))
    learner = engine.create(SHAPE, 4, normalizer, jax.random.key(0), jax.random.key(1))
    return engine.begin_task(learner, jnp.int32(2))


def fisher_after_task(engine, learner, images, labels, n_rows=80):
    """The learner after the fold; rows without an image must not count."""
    padded = np.zeros((n_rows, *SHAPE), np.uint8), np.full(n_rows, -1, np.int32)
    for all_rows, rows in zip(padded, (images, labels), strict=True):
        all_rows[: len(rows)] = rows
    pool = engine.pool(learner, *padded, task_room=2, class_room=n_rows)
    _, fold = engine.method.plan(is_first=True)
    return engine.fold(learner, pool, kind=engine.kind(fold))


def images_of(seed, n=N_IMAGES):
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), np.uint8)


def numpy_softmax(learner, images, n_seen):
    """Features [N, D] and probabilities [N, n_seen] by NumPy alone."""
    features = (images.reshape(len(images), -1) / 255.0 - 0.5) / 0.25
    head = jax.device_get(learner.weights.params["head"])
    logits = features @ head["kernel"][:, :n_seen] + head["bias"][:n_seen]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return features, powers / powers.sum(axis=1, keepdims=True)


def test_the_fisher_information_of_a_linear_softmax_with_true_labels(engine):
    """d log p_y / d W_dc = x_d (1[y = c] - p_c), so F is the mean of its square."""
    learner, images = learner_of(engine), images_of(0)
    labels = np.arange(N_IMAGES, dtype=np.int32) % 2
    own = fisher_after_task(engine, learner, images, labels).own
    x, p = numpy_softmax(learner, images, 2)
    error = np.eye(2)[labels] - p
    fisher = own["importance"]["head"]
    expected = np.mean((x[:, :, None] * error[:, None, :]) ** 2, axis=0)
    np.testing.assert_allclose(fisher["kernel"][:, :2], expected, rtol=1e-4)
    np.testing.assert_allclose(fisher["bias"][:2], np.mean(error**2, axis=0), rtol=1e-4)
    assert not np.any(fisher["kernel"][:, 2:]) and not np.any(fisher["bias"][2:])
    kernel = np.asarray(learner.weights.params["head"]["kernel"])[:, :2]
    gain = np.mean((x * (error @ kernel.T)) ** 2, axis=0)  # d log p_y / d gain_d
    np.testing.assert_allclose(own["importance"]["backbone"]["gain"], gain, rtol=1e-4)
    chex.assert_trees_all_equal(own["anchor"], learner.weights.params)


def test_the_fisher_information_with_sampled_labels_does_not_depend_on_the_true_ones():
    """Over y ~ p, the mean of (1[y = c] - p_c)^2 is p_c (1 - p_c)."""
    engine, images = engine_of(fisher_labels="sampled"), images_of(0, 4000)
    learner = learner_of(engine)
    labels = np.zeros(4000, np.int32)
    fisher = fisher_after_task(engine, learner, images, labels, 4000).own["importance"]["head"]
    x, p = numpy_softmax(learner, images, 2)
    expected = np.mean(x[:, :, None] ** 2 * (p * (1 - p))[:, None, :], axis=0)
    np.testing.assert_allclose(fisher["kernel"][:, :2], expected, rtol=0.1)


@pytest.mark.parametrize(
    ("merge", "before", "now"), [("sum", 1, 1), ("classes", 2 / 3, 1 / 3), ("online", 0.25, 1)]
)
def test_a_second_task_of_one_class_is_merged_and_limited(merge, before, now):
    engine = engine_of(merge=merge, gamma=0.25, fisher_limit=0.05)
    labels = np.arange(N_IMAGES, dtype=np.int32) % 2
    learner = fisher_after_task(engine, learner_of(engine), images_of(0), labels)
    first = learner.own["importance"]
    assert max(float(x.max()) for x in jax.tree.leaves(first)) == pytest.approx(0.05)
    learner = engine.begin_task(engine.end_task(learner), jnp.int32(1))
    last = fisher_after_task(engine, learner, images_of(1), np.full(N_IMAGES, 2, np.int32))
    forgetful = learner.replace(own=jax.tree.map(jnp.zeros_like, learner.own))
    alone = fisher_after_task(engine, forgetful, images_of(1), np.full(N_IMAGES, 2, np.int32))
    expected = jax.tree.map(lambda f, g: before * f + g, first, alone.own["importance"])
    chex.assert_trees_all_close(last.own["importance"], expected, rtol=1e-5)
    _, p = numpy_softmax(learner, images_of(1), 3)
    bias = np.minimum(np.mean((np.array([0, 0, 1]) - p) ** 2, axis=0), 0.05)
    np.testing.assert_allclose(alone.own["importance"]["head"]["bias"][:3], now * bias, rtol=1e-4)


def test_the_penalty_and_its_gradient_by_hand(engine):
    """2 * 3^2 + 4 * 1^2 = 22, with the gradient 2 * importance * (params - anchor)."""
    trees = ({"w": jnp.array(x)} for x in ([4.0, 1.0, 5.0], [2.0, 4.0, 0.0], [1.0, 2.0, 9.0]))
    value, grad = jax.value_and_grad(penalty_of)(*trees)
    assert float(value) == 22.0
    assert np.array_equal(grad["w"], [12.0, -8.0, 0.0])


def test_the_loss_adds_lambda_times_the_penalty(engine):
    """In the second task; no weight of it that is new is held back."""
    learner = fisher_after_task(engine, learner_of(engine), images_of(0), np.zeros(70, np.int32))
    learner = engine.begin_task(engine.end_task(learner), jnp.int32(2))
    moved = jax.tree.map(lambda x: x + 0.1, learner.weights.params)
    batch = new_images(jnp.ones((2, *SHAPE)), [2, 3])

    def loss_and_grad(lambda_):
        loss = engine_of(lambda_=lambda_).method.loss
        return jax.value_and_grad(loss, has_aux=True)(moved, learner, batch, jax.random.key(0))

    (plain, _), plain_grads = loss_and_grad(0.0)
    (loss, (parts, _)), grads = loss_and_grad(30.0)
    fisher = learner.own["importance"]
    total = sum(float(x.sum()) for x in jax.tree.leaves(fisher))
    old = {k: v[..., :2] for k, v in learner.weights.params["head"].items()}
    chex.assert_trees_all_equal(
        old, {k: v[..., :2] for k, v in learner.own["anchor"]["head"].items()}
    )
    # New columns have moved further from the anchor, where they were zero, and do not count.
    assert float(parts["penalty"]) == pytest.approx(30.0 / 2 * 0.1**2 * total, rel=1e-4)
    assert float(loss - plain) == pytest.approx(float(parts["penalty"]), rel=1e-4)
    pull = jax.tree.map(lambda f: 30.0 * f * 0.1, fisher)
    chex.assert_trees_all_close(
        jax.tree.map(jnp.add, plain_grads, pull), grads, rtol=1e-3, atol=1e-5
    )
    # With the softmax over new outputs, the labels move no old one.
    assert not np.any(plain_grads["head"]["kernel"][:, :2])
