"""LUCIR: the losses by hand, imprinted columns, and what each training leaves alone."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images
from flax import linen as nn

from cil_jax import heads, losses
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer
from cil_jax.methods.lucir import LUCIR
from cil_jax.methods.plan import Fold, Train
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

SHAPE, ROOM, PER_CLASS = (1, 4, 1), 5, 3

# Three classes, each along an axis; the length of a vector must not matter.
AXES = {"kernel": jnp.array([[[2.0, 0, 0], [0, 5.0, 0], [0, 0, 0.1]]]), "scale": jnp.float32(9.0)}
# The first three vectors are images of the old class 0 with these cosines in sevenths; the last
# one is of a new class.
VECTORS = jnp.array([[2.0, 3.0, 6.0], [12.0, 4.0, 6.0], [3.0, -6.0, 2.0], [0.0, 0.0, 5.0]])
LABELS = jnp.array([0, 0, 0, 1])


def ranking(labels, n_seen=3, n_rivals=2):
    cosines = heads.Cosine().cosines(AXES, VECTORS)
    return losses.margin_ranking(cosines, labels, 1, n_seen, 0.5, n_rivals)


@pytest.mark.parametrize(
    ("n_seen", "n_rivals", "terms"),
    [
        # 0.5 - 6/7 + 2/7 and 0.5 - 3/7 - 6/7 are negative.
        (3, 2, [0.5 + 4 / 7, 0.5 + 1 / 7, 0.5 - 3 / 7, 0, 0.5 - 1 / 7, 0]),
        (3, 1, [0.5 + 4 / 7, 0.5 - 3 / 7, 0.5 - 1 / 7]),
        (2, 2, [0.5 + 1 / 7, 0, 0]),  # there is one new class, and no second rival
    ],
)
def test_margin_ranking_by_hand(n_seen, n_rivals, terms):
    np.testing.assert_allclose(ranking(LABELS, n_seen, n_rivals), np.mean(terms), rtol=1e-5)


def test_margin_ranking_is_zero_without_images_of_old_classes():
    assert float(ranking(jnp.array([1, 2, 1, 2]))) == 0.0


def test_the_cosine_distance_by_hand():
    features = jnp.array([[3.0, 4.0], [1.0, 0.0]])
    teacher = jnp.array([[40.0, 30.0], [0.0, 0.1]])
    np.testing.assert_allclose(losses.cosine_distance(features, teacher), (0.04 + 1) / 2, rtol=1e-5)


class Small(nn.Module):
    n_features = 4

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(self.n_features)(images.reshape(len(images), -1))
        return nn.BatchNorm(use_running_average=not train)(x)


def method_of(**settings):
    facts = {"n_classes": ROOM, "n_tasks": 2, "task_room": 2, "mirror_means": False}
    return LUCIR(Small(), **facts, per_class=PER_CLASS, finetune_epochs=1, **settings)


@pytest.fixture(scope="module")
def engine():
    return Engine(method_of(), SGD(0.9, "all"), Augmentation(0, False), batch_size=16)


def pool_of(engine, learner, first):
    """Two classes with 10 images each."""
    rng = np.random.RandomState(first)
    images = rng.randint(0, 256, (20, *SHAPE)).astype(np.uint8)
    labels = np.repeat([first, first + 1], 10).astype(np.int32)
    return engine.pool(learner, images, labels, 2, 10)


@pytest.fixture(scope="module")
def learner(engine):
    """At the start of the second task, with exemplars of the first."""
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.25))
    learner = engine.create(SHAPE, ROOM, normalizer, jax.random.key(0), jax.random.key(1))
    learner = engine.begin_task(learner, jnp.int32(2))
    learner = engine.end_task(engine.keep(learner, pool_of(engine, learner, 0)))
    return engine.begin_task(learner, jnp.int32(2))


@pytest.fixture(scope="module")
def imprinted(engine, learner):
    step = engine.method.plan(is_first=False)[0]
    assert isinstance(step, Fold)
    return engine.fold(learner, pool_of(engine, learner, 2), engine.kind(step))


def trained(engine, learner, step):
    kind, pool = engine.kind(step), pool_of(engine, learner, 2)
    learner = engine.advance(learner, starts_training=True)
    pool = engine.restrict(learner, pool, kind=kind)
    rates = jnp.float32(0.1), jnp.float32(0.01), jnp.int32(2)
    learner, _ = engine.train(learner, pool, engine.no_sums(kind), *rates, kind=kind)
    return learner


def test_the_weight_of_less_forget_grows_with_the_share_of_old_classes():
    weight = method_of(lambda_=5.0).weight_of_less_forget
    np.testing.assert_allclose(weight(jnp.int32(50), jnp.int32(60)), 5 * np.sqrt(5), rtol=1e-6)
    np.testing.assert_allclose(weight(jnp.int32(90), jnp.int32(100)), 15, rtol=1e-6)
    assert float(weight(jnp.int32(0), jnp.int32(10))) == 0.0


def test_the_loss_is_the_sum_of_its_parts_on_cosines_of_both_networks(learner):
    """After both networks have been taken apart; the teacher is in evaluation mode."""
    method = method_of(lambda_=3.0, margin_weight=0.25)
    kernel = learner.weights.params["backbone"]["Dense_0"]["kernel"]
    moved = {
        **learner.weights.params["backbone"],
        "Dense_0": {"kernel": kernel + 0.3, "bias": jnp.ones(4)},
    }
    head = {**learner.weights.params["head"], "scale": jnp.float32(2.5)}
    params = {**learner.weights.params, "backbone": moved, "head": head}
    images = jax.random.normal(jax.random.key(3), (6, *SHAPE))
    batch = new_images(images, [0, 1, 2, 3, 0, 2])
    loss, (parts, output) = method.loss(params, learner, batch, jax.random.key(0))

    def features(params, **mode):
        variables = {"params": params, "batch_stats": learner.weights.batch_stats}
        found = Small().apply(variables, images, **mode)
        return np.asarray(found[0] if isinstance(found, tuple) else found, np.float64)

    new = features(moved, train=True, mutable=["batch_stats"])
    old = features(learner.teacher.params["backbone"], train=False)
    columns = np.asarray(params["head"]["kernel"], np.float64)[0, :, :4]

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    cosines = unit(new) @ unit(columns.T).T
    logits = np.asarray(params["head"]["scale"]) * cosines
    picked = logits[np.arange(6), batch.labels]
    expected = {
        "classification": (np.log(np.exp(logits).sum(axis=1)) - picked).mean(),
        "less_forget": (1 - (unit(new) * unit(old)).sum(axis=1)).mean(),
        "margin": np.mean(
            [max(0, 0.5 - cosines[b, batch.labels[b]] + cosines[b, k]) for b in (0, 1, 4)
             for k in (2, 3)]  # both new classes are rivals
        ),
    }  # fmt: skip
    chex.assert_trees_all_close(dict(parts), expected, rtol=1e-4)
    weights = {"classification": 1.0, "less_forget": 3.0 * np.sqrt(2 / 2), "margin": 0.25}
    np.testing.assert_allclose(loss, sum(weights[n] * expected[n] for n in weights), rtol=1e-4)
    np.testing.assert_allclose(output.logits[:, :4], logits, rtol=1e-4, atol=1e-5)


def test_imprinted_columns_point_to_the_mean_of_their_images(engine, learner, imprinted):
    pool = pool_of(engine, learner, 2)
    features = engine.embed(learner, pool.images[:20], mirrored=False)
    features = np.asarray(features) / np.linalg.norm(features, axis=1, keepdims=True)
    before, after = (x.weights.params["head"]["kernel"][0] for x in (learner, imprinted))
    length = np.linalg.norm(before[:, :2], axis=0).mean()
    for label in (2, 3):
        mean = features[np.asarray(pool.labels[:20]) == label].mean(axis=0)
        expected = length * mean / np.linalg.norm(mean)
        np.testing.assert_allclose(after[:, label], expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(after[:, :2], before[:, :2])
    assert not np.any(np.asarray(after[:, 4:]))
    assert not np.allclose(before[:, 2:4], after[:, 2:4])


def test_the_first_task_has_nothing_to_imprint_from(engine):
    assert not any(isinstance(step, Fold) for step in engine.method.plan(is_first=True))


def test_the_main_training_leaves_the_columns_of_old_classes(engine, imprinted):
    step = engine.method.plan(is_first=False)[1]
    assert isinstance(step, Train)
    after = trained(engine, imprinted, step).weights.params
    before = imprinted.weights.params
    moved = np.any(np.asarray(after["head"]["kernel"] != before["head"]["kernel"])[0], axis=0)
    assert moved.tolist() == [False, False, True, True, False]
    assert after["head"]["scale"] != before["head"]["scale"]
    same = jax.tree.map(np.array_equal, after["backbone"], before["backbone"])
    assert not any(jax.tree.leaves(same))


def test_the_balanced_training_moves_the_columns_alone(engine, imprinted):
    step = engine.method.plan(is_first=False)[2]
    after = trained(engine, imprinted, step).weights
    before = imprinted.weights
    kernels = [x.params["head"]["kernel"][0] for x in (before, after)]
    moved = np.any(np.asarray(kernels[0] != kernels[1]), axis=0)
    assert moved.tolist() == [True, True, True, True, False]
    chex.assert_trees_all_equal(after.params["backbone"], before.params["backbone"])
    assert after.params["head"]["scale"] == before.params["head"]["scale"]
    chex.assert_trees_all_equal(after.batch_stats, before.batch_stats)


def test_the_balanced_training_is_on_as_many_images_of_each_class(engine, learner):
    step = engine.method.plan(is_first=False)[2]
    pool = engine.restrict(learner, pool_of(engine, learner, 2), kind=engine.kind(step))
    active, labels = np.asarray(pool.active), np.asarray(pool.labels)
    assert np.bincount(labels[active], minlength=ROOM).tolist() == [PER_CLASS] * 4 + [0]
    assert active[20:].sum() == 2 * PER_CLASS  # all exemplars
    other = learner.replace(data_key=jax.random.key(9))
    again = engine.restrict(other, pool_of(engine, learner, 2), kind=engine.kind(step))
    assert not np.array_equal(again.active, active)


def test_a_class_keeps_its_share_of_exemplars(engine, learner):
    """From the first task on, and the same ones in later tasks."""
    memory = learner.memory
    assert memory.counts(ROOM).tolist() == [PER_CLASS, PER_CLASS, 0, 0, 0]
    after = engine.keep(learner, pool_of(engine, learner, 2)).memory
    assert after.counts(ROOM).tolist() == [PER_CLASS] * 4 + [0]
    chex.assert_trees_all_equal(after.images[:6], memory.images[:6])
    assert LUCIR(Small(), n_classes=7, per_class=0, memory=50).memory_size == 50
