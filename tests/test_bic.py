"""BiC: a planted bias is recovered, held-out images, and what each training leaves alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images
from flax import linen as nn

from cil_jax import heads
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer, Purpose
from cil_jax.methods.bic import BiC, corrected
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

SHAPE, N_ROWS = (1, 4, 1), 5000
SLOPE, OFFSET = 2.0, 1.5  # of the planted bias


class Pixels(nn.Module):
    """The pixels are the features, after a normalisation whose statistics must stay."""

    n_features = 4

    @nn.compact
    def __call__(self, images, train):
        images = images.reshape(len(images), -1)
        return nn.BatchNorm(use_running_average=not train)(images)


@pytest.fixture(scope="module")
def engine():
    method = BiC(
        Pixels(),
        n_classes=4,
        n_tasks=2,
        task_room=2,
        memory=20,
        held_out=0.2,
        selection="random",
        mirror_means=False,
    )
    return Engine(method, SGD(0.9, "all"), Augmentation(0, False, "mean", 0.0), batch_size=500)


@pytest.fixture(scope="module")
def learner(engine):
    """In the second task. Its teacher has a head of two classes."""
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.25))
    learner = engine.create(SHAPE, 4, normalizer, jax.random.key(0), jax.random.key(1))
    learner = engine.end_task(engine.begin_task(learner, jnp.int32(2)))
    return engine.begin_task(learner, jnp.int32(2))


@pytest.fixture(scope="module")
def steps(engine):
    return engine.method.plan(is_first=False)


def with_params(learner, **params):
    params = {**learner.weights.params, **params}
    return learner.replace(weights=learner.weights.replace(params=params))


def trained(engine, learner, pool, step, n_steps, rate):
    learner = engine.advance(learner, starts_training=True)
    kind = engine.kind(step)
    rates = jnp.float32(rate), jnp.float32(0.0)
    learner, sums = engine.train(
        learner, pool, engine.no_sums(kind), *rates, jnp.int32(n_steps), kind=kind
    )
    return learner, {name: float(value) for name, value in sums.items()}


def test_the_second_training_recovers_a_planted_bias(engine, learner, steps):
    """Labels follow the softmax of z; the newest logits are SLOPE * z + OFFSET.

    The best scale is 1 / SLOPE and the best shift -OFFSET / SLOPE.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (N_ROWS, *SHAPE), np.uint8)
    kernel = generator.normal(size=(4, 4))
    logits = (images.reshape(N_ROWS, 4) / 255.0 - 0.5) / 0.25 @ kernel
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    planted = np.where(np.arange(4) < 2, 1.0, SLOPE) * kernel
    bias = np.where(np.arange(4) < 2, 0.0, OFFSET)
    learner = with_params(learner, head={"kernel": jnp.asarray(planted, jnp.float32),
                                         "bias": jnp.asarray(bias, jnp.float32)})  # fmt: skip
    pool = engine.pool(learner, images, labels, task_room=2, class_room=N_ROWS)
    after, sums = trained(engine, learner, pool, steps[1], n_steps=200, rate=0.1)
    assert sums["steps"] == 200
    correction = after.weights.params["correction"]
    assert float(correction["scale"][1]) == pytest.approx(1 / SLOPE, abs=0.05)
    assert float(correction["shift"][1]) == pytest.approx(-OFFSET / SLOPE, abs=0.1)
    # All else stays as it was, to the last bit.
    assert float(correction["scale"][0]) == 1 and float(correction["shift"][0]) == 0
    chex.assert_trees_all_equal(
        with_params(after, correction=0).weights, with_params(learner, correction=0).weights
    )


def test_the_first_training_leaves_the_corrections(engine, learner, steps):
    """Also from weight decay, which is for all parameters here."""
    correction = {"scale": jnp.array([1.0, 0.5]), "shift": jnp.array([0.0, 0.25])}
    before = with_params(learner, correction=correction)
    images = np.random.default_rng(1).integers(0, 256, (N_ROWS, *SHAPE), np.uint8)
    labels = np.full(N_ROWS, 2, np.int32)
    pool = engine.pool(before, images, labels, task_room=2, class_room=N_ROWS)
    after, _ = trained(engine, before, pool, steps[0], n_steps=2, rate=0.1)
    chex.assert_trees_all_equal(after.weights.params["correction"], correction)
    assert np.any(after.weights.params["head"]["kernel"] != before.weights.params["head"]["kernel"])


def test_as_many_images_of_each_class_are_held_out(engine, learner, steps):
    """A fifth of 20 exemplars, over 2 old classes: 2 of each class, in both trainings the same."""
    memory = learner.memory.replace(labels=jnp.repeat(jnp.arange(2, dtype=jnp.int32), 10))
    learner = learner.replace(memory=memory)
    labels = np.repeat([2, 3, -1], [30, 8, 2]).astype(np.int32)
    pool = engine.pool(
        learner, np.zeros((40, *SHAPE), np.uint8), labels, task_room=2, class_room=30
    )
    first, second = (
        np.asarray(engine.restrict(learner, pool, kind=engine.kind(step)).active)
        for step in steps[:2]
    )
    assert np.array_equal(first | second, np.asarray(pool.labels) >= 0)
    assert not np.any(first & second)
    counts = np.bincount(np.asarray(pool.labels)[second], minlength=4)
    assert counts.tolist() == [2, 2, 2, 2]
    later = learner.replace(place=jnp.int32(1), epoch=jnp.int32(3))
    again = engine.restrict(later, pool, kind=engine.kind(steps[1])).active
    assert np.array_equal(again, second)
    other = learner.replace(data_key=jax.random.key(9))
    assert not np.array_equal(
        engine.restrict(other, pool, kind=engine.kind(steps[1])).active, second
    )


@pytest.mark.parametrize(("n_old", "expected"), [(1, 4), (3, 1), (5, 1)])
def test_a_fraction_of_an_image_is_not_held_out_but_one_always_is(engine, learner, n_old, expected):
    pool = engine.pool(
        learner,
        np.zeros((10, *SHAPE), np.uint8),
        np.full(10, 2, np.int32),
        task_room=2,
        class_room=10,
    )
    learner = learner.replace(n_old=jnp.int32(n_old))
    key = learner.task_key(Purpose.ROWS)
    assert int(engine.method.is_held_out(learner, pool, key).sum()) == expected


def test_logits_are_corrected_by_the_task_of_their_class():
    params = {"correction": {"scale": jnp.array([1.0, 2.0, 3.0]), "shift": jnp.array([0, 0.5, 9])}}
    logits = jnp.array([[1.0, 1.0, 2.0, heads.CLOSED]])
    found = corrected(params, jnp.array([0, 1, 1, -1]), logits)
    assert found.tolist() == [[1.0, 2.5, 4.5, heads.CLOSED]]


def test_the_corrections_hold_in_the_loss_the_teacher_and_the_answer(engine, learner):
    """The old outputs of both networks are doubled, by hand."""
    method, key = engine.method, jax.random.key(0)
    doubled = {"scale": jnp.array([2.0, 1.0]), "shift": jnp.zeros(2)}
    teacher = learner.teacher.replace(params={**learner.teacher.params, "correction": doubled})
    learner = with_params(learner, correction=doubled).replace(teacher=teacher)
    batch = new_images(jax.random.normal(jax.random.key(4), (3, *SHAPE)), [1, 2, 3])
    loss, (parts, output) = method.loss(learner.weights.params, learner, batch, key, train=False)
    plain = np.asarray(method.network(learner.weights, batch.images, 4).logits, np.float64)
    old = 2 * np.asarray(method.network(learner.teacher, batch.images, 2).logits[:, :2], np.float64)
    logits = plain * [2, 2, 1, 1]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    classification = -log_p[np.arange(3), [1, 2, 3]].mean()
    soft = np.exp(old / 2) / np.exp(old / 2).sum(axis=1, keepdims=True)
    halved = logits[:, :2] / 2
    log_q = halved - np.log(np.exp(halved).sum(axis=1, keepdims=True))
    distillation = -(soft * log_q).sum(axis=1).mean()
    assert float(parts["classification"]) == pytest.approx(classification, rel=1e-5)
    assert float(parts["distillation"]) == pytest.approx(distillation, rel=1e-5)
    assert float(loss) == pytest.approx((classification + distillation) / 2, rel=1e-5)
    scores = {name: score(learner, output.features) for name, score in method.classifiers().items()}
    np.testing.assert_allclose(scores["linear"], logits, rtol=1e-5)
    np.testing.assert_allclose(scores["uncorrected"], plain, rtol=1e-5)
