"""DER++: the stored logits, the three parts of a batch, and the loss by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer
from cil_jax.methods.base import Batch
from cil_jax.methods.derpp import DarkExperienceReplay, logit_difference
from cil_jax.methods.plan import Train
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

SHAPE, ROOM, SIZE, N_NEW = (1, 4, 1), 5, 4, 20


class Small(nn.Module):
    n_features = 4

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(self.n_features)(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


def method_of(**settings):
    facts = {"n_classes": ROOM, "n_tasks": 3, "task_room": 2, "batch_size": SIZE}
    return DarkExperienceReplay(Small(), **facts, **{"memory": 12, **settings})


def engine_of(**settings):
    return Engine(method_of(**settings), SGD(0.0, "all"), Augmentation(0, False), batch_size=SIZE)


@pytest.fixture(scope="module")
def engine():
    return engine_of(alpha=0.7, beta=0.4)


def pool_of(engine, learner, first):
    """Two classes with 10 images each, no two of them alike."""
    rng = np.random.RandomState(first)
    images = rng.randint(0, 256, (N_NEW, *SHAPE)).astype(np.uint8)
    labels = np.repeat([first, first + 1], N_NEW // 2).astype(np.int32)
    return engine.pool(learner, images, labels, 2, N_NEW // 2)


def started(engine):
    """At the start of the second task, with exemplars of the first."""
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.25))
    learner = engine.create(SHAPE, ROOM, normalizer, jax.random.key(0), jax.random.key(1))
    learner = engine.begin_task(learner, jnp.int32(2))
    learner = engine.end_task(engine.keep(learner, pool_of(engine, learner, 0)))
    return engine.begin_task(learner, jnp.int32(2))


@pytest.fixture(scope="module")
def learner(engine):
    return started(engine)


@pytest.fixture(scope="module")
def kept(engine, learner):
    """After three updates of the second task, and its exemplars."""
    step = engine.method.plan(is_first=False)[0]
    kind, pool = engine.kind(step), pool_of(engine, learner, 2)
    restricted = engine.restrict(learner, pool, kind=kind)
    rates = jnp.float32(0.1), jnp.float32(0.0), jnp.int32(3)
    learner, _ = engine.train(learner, restricted, engine.no_sums(kind), *rates, kind=kind)
    return engine.keep(learner, pool)


def logits_of(engine, learner, images):
    """What the network says of stored images, zero in closed columns."""
    n_seen = int(learner.n_seen)
    output = engine.method.network(learner.weights, learner.normalizer(images), n_seen)
    return np.asarray(jnp.where(jnp.arange(ROOM) < n_seen, output.logits, 0.0))


def test_the_difference_of_logits_by_hand():
    """The columns that were closed do not count, neither in the sum nor in the number."""
    logits = jnp.array([[1.0, 2.0, 9.0], [0.0, 3.0, 5.0]])
    stored = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = logit_difference(logits, stored, jnp.array([2, 3]))
    np.testing.assert_allclose(found, (1 + 4 + 1 + 4 + 16) / 5)
    gradient = jax.grad(logit_difference)(logits, stored, jnp.array([2, 3]))
    assert float(gradient[0, 2]) == 0.0 and float(gradient[1, 2]) != 0.0


def test_logits_are_stored_when_an_image_is_kept_and_never_change(engine, learner, kept):
    before, after = learner.memory, kept.memory
    assert before.extras["n_open"].tolist() == [2] * 12
    said = logits_of(engine, learner.replace(n_seen=jnp.int32(2)), before.images)
    np.testing.assert_allclose(before.extras["logits"], said, rtol=1e-4, atol=1e-6)

    is_old = np.asarray(after.labels) < 2
    assert 0 < is_old.sum() < 12  # slots of both tasks, so both are tested
    chex.assert_trees_all_equal(after.extras["n_open"], jnp.where(is_old, 2, 4))
    said = logits_of(engine, kept, after.images)
    np.testing.assert_allclose(
        np.asarray(after.extras["logits"])[~is_old], said[~is_old], rtol=1e-4, atol=1e-6
    )
    assert not np.allclose(said[is_old][:, :2], after.extras["logits"][is_old][:, :2], atol=1e-3)
    for slot in np.flatnonzero(is_old):
        origin = [np.array_equal(after.images[slot], image) for image in before.images].index(True)
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, slot=slot: x[slot], after.extras),
            jax.tree.map(lambda x, origin=origin: x[origin], before.extras),
        )


def test_all_columns_count_where_all_are_open():
    engine = engine_of(outputs="fixed")
    memory = started(engine).memory
    assert memory.extras["n_open"].tolist() == [ROOM] * 12
    assert np.all(np.asarray(memory.extras["logits"]) != 0)


def test_new_images_are_drawn_in_order_and_exemplars_beside_them(engine, learner):
    first, later = (engine.method.plan(is_first)[0] for is_first in (True, False))
    assert (first.beside, later.beside) == (0, 2 * SIZE)
    pool = engine.restrict(learner, pool_of(engine, learner, 2), kind=engine.kind(later))
    assert int(pool.count()) == N_NEW
    draw = pool.draws(jax.random.key(0), SIZE, later.beside, jax.random.key)
    is_exemplar = np.stack([draw(jnp.int32(step)).from_memory for step in range(5)])
    assert is_exemplar.tolist() == [[False] * SIZE + [True] * (2 * SIZE)] * 5


@pytest.fixture(scope="module")
def batch(learner):
    """Four new images, and two draws of exemplars with labels and logits of their own."""
    extras = {
        "logits": jax.random.normal(jax.random.key(5), (3 * SIZE, ROOM)),
        "n_open": jnp.full(3 * SIZE, 2, jnp.int32),
    }
    images = (
        jax.random.normal(jax.random.key(6), (3 * SIZE, *SHAPE))
        * jnp.arange(1.0, 13.0)[:, None, None, None]
    )
    labels = jnp.array([2, 3, 2, 3, *[0, 1] * 4])
    return Batch(images, labels, extras, jnp.arange(3 * SIZE) >= SIZE)


def by_hand(learner, batch, alpha, beta):
    """The loss from networks that see one part after another, and the statistics after them."""
    stats, logits = learner.weights.batch_stats, []
    n_parts = 1 + (alpha > 0) + (beta > 0)
    for part in np.split(np.arange(n_parts * SIZE), n_parts):
        features, changed = Small().apply(
            {"params": learner.weights.params["backbone"], "batch_stats": stats},
            batch.images[part],
            train=True,
            mutable=["batch_stats"],
        )
        stats, head = changed["batch_stats"], learner.weights.params["head"]
        logits.append(np.asarray(features @ head["kernel"] + head["bias"], np.float64)[:, :4])

    def cross_entropy(logits, labels):
        return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(SIZE), labels]).mean()

    stored, labels = np.asarray(batch.extras["logits"]), np.asarray(batch.labels)
    new = cross_entropy(logits[0], labels[:SIZE])
    difference = ((logits[1][:, :2] - stored[SIZE : 2 * SIZE, :2]) ** 2).mean() if alpha else 0.0
    old = cross_entropy(logits[-1], labels[(n_parts - 1) * SIZE :][:SIZE]) if beta else 0.0
    return {"classification": new, "logits": difference, "labels": old}, stats


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.4), (0.7, 0.0), (0.0, 0.4)])
def test_each_part_is_normalised_by_itself_and_has_its_own_term(learner, batch, alpha, beta):
    """DER++, DER and ER. The parts of the batch differ much in scale."""
    method = method_of(alpha=alpha, beta=beta)
    n_rows = (1 + (alpha > 0) + (beta > 0)) * SIZE
    batch = jax.tree.map(lambda x: x[:n_rows], batch)
    step = method.plan(is_first=False)[0]
    assert step.beside == n_rows - SIZE
    loss, (parts, output) = step.loss(learner.weights.params, learner, batch, jax.random.key(0))
    expected, stats = by_hand(learner, batch, alpha, beta)
    chex.assert_trees_all_close(dict(parts), expected, rtol=1e-4)
    total = expected["classification"] + alpha * expected["logits"] + beta * expected["labels"]
    np.testing.assert_allclose(loss, total, rtol=1e-4)
    chex.assert_trees_all_close(output.batch_stats, stats, rtol=1e-5, atol=1e-6)
    chex.assert_shape(output.logits, (n_rows, ROOM))


def test_without_both_terms_nothing_is_drawn():
    step = method_of(alpha=0.0, beta=0.0).plan(is_first=False)[0]
    assert isinstance(step, Train) and (step.beside, step.loss) == (0, None)
