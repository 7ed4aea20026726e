"""DER: frozen backbones, new rows of the head, the auxiliary loss, and both endings of a task."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images
from flax import linen as nn

from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer
from cil_jax.methods.der import DER
from cil_jax.methods.plan import Do, Keep, Train
from cil_jax.network import n_parameters_in_use
from cil_jax.schedules import SGD
from cil_jax.training.engine import Engine

SHAPE, ROOM, D, N_TASKS = (1, 5, 1), 6, 4, 3


class Small(nn.Module):
    n_features = D

    @nn.compact
    def __call__(self, images, train):
        x = nn.Dense(self.n_features)(images.reshape(len(images), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x))


def engine_of(**settings):
    facts = {"n_classes": ROOM, "n_tasks": N_TASKS, "task_room": 2, "mirror_means": False}
    method = DER(Small(), **facts, **{"memory": 12, "selection": "random", **settings})
    return Engine(method, SGD(0.9, "all"), Augmentation(0, False), batch_size=8)


def pool_of(engine, learner, task):
    """Two classes with 10 images each."""
    rng = np.random.RandomState(task)
    images = rng.randint(0, 256, (20, *SHAPE)).astype(np.uint8)
    labels = np.repeat([2 * task, 2 * task + 1], 10).astype(np.int32)
    return engine.pool(learner, images, labels, 2, 10)


def train(engine, learner, pool, step):
    kind = engine.kind(step)
    pool = engine.restrict(learner, pool, kind=kind)
    rates = jnp.float32(0.1), jnp.float32(0.01), jnp.int32(2)
    learner, sums = engine.train(learner, pool, engine.no_sums(kind), *rates, kind=kind)
    assert all(np.isfinite(value) for value in sums.values())
    return learner.replace(epoch=jnp.int32(0), step=jnp.int32(0))


def learned(engine, n_tasks=N_TASKS):
    """The learners at the start of each task, after its main training, and at its end."""
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.25))
    learner = engine.create(SHAPE, ROOM, normalizer, jax.random.key(0), jax.random.key(1))
    states = []
    for task in range(n_tasks):
        before = engine.begin_task(learner, jnp.int32(2))
        pool = pool_of(engine, before, task)
        learner = trained = train(engine, before, pool, engine.method.plan(task == 0)[0])
        for step in engine.method.plan(task == 0)[1:]:
            learner = engine.advance(learner, starts_training=isinstance(step, Train))
            if isinstance(step, Do):
                learner = engine.do(learner, kind=engine.kind(step))
            elif isinstance(step, Train):
                learner = train(engine, learner, pool, step)
            else:
                assert isinstance(step, Keep)
                learner = engine.keep(learner, pool)
        learner = engine.end_task(learner)
        states.append((before, trained, learner))
    return states


@pytest.fixture(scope="module")
def engine():
    return engine_of()


@pytest.fixture(scope="module")
def states(engine):
    programs = (Engine.begin_task, Engine.train, Engine.keep, Engine.end_task, Engine.do)
    before = [program._cache_size() for program in programs]
    found = learned(engine)
    compiled = [p._cache_size() - n for p, n in zip(programs, before, strict=True)]
    assert compiled == [1] * len(programs)  # for three tasks, with one to three backbones
    return found


def features_of(engine, learner):
    images = np.random.RandomState(9).randint(0, 256, (30, *SHAPE)).astype(np.uint8)
    features = engine.embed(learner, images, mirrored=False)
    return np.asarray(features).reshape(30, N_TASKS, D).swapaxes(0, 1)


def kernel_of(learner):
    return np.asarray(learner.weights.params["head"]["kernel"]).reshape(N_TASKS, D, ROOM)


def test_features_of_frozen_backbones_never_change(engine, states):
    """Bit for bit, though the statistics and weights of the newest one do."""
    of_task = [features_of(engine, after) for _, _, after in states]
    np.testing.assert_array_equal(of_task[2][0], of_task[1][0])
    np.testing.assert_allclose(of_task[1][0], of_task[0][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(of_task[2][1], of_task[1][1], rtol=1e-5, atol=1e-6)
    assert not of_task[0][1:].any() and not of_task[1][2:].any()
    assert not np.allclose(of_task[2][0], of_task[2][1], atol=1e-2)
    for task, (before, trained, after) in enumerate(states):
        for learner in (before, trained, after):
            frozen = learner.weights.frozen
            assert int(frozen["count"]) == task
            for slot in range(task):
                kept = states[slot][2].weights
                found = jax.tree.map(
                    lambda x, slot=slot: x[slot],
                    {"params": frozen["params"], "batch_stats": frozen["batch_stats"]},
                )
                expected = {"params": kept.params["backbone"], "batch_stats": kept.batch_stats}
                chex.assert_trees_all_equal(found, expected)


def test_a_new_backbone_starts_as_a_copy_of_the_newest(states):
    for (_, _, old), (new, _, _) in itertools.pairwise(states):
        chex.assert_trees_all_equal(
            (new.weights.params["backbone"], new.weights.batch_stats),
            (old.weights.params["backbone"], old.weights.batch_stats),
        )


def test_the_head_gets_random_weights_for_new_features_and_keeps_the_old_block(states):
    for task, (before, _, _) in enumerate(states):
        kernel, n_old = kernel_of(before), 2 * task
        if task:
            old = kernel_of(states[task - 1][2])
            np.testing.assert_array_equal(kernel[:task, :, :n_old], old[:task, :, :n_old])
        fresh = np.concatenate(
            [kernel[: task + 1, :, n_old : n_old + 2].ravel(), kernel[task, :, :n_old].ravel()]
        )
        bound = (D * (task + 1)) ** -0.5
        assert len(np.unique(fresh)) == fresh.size
        assert 0.7 * bound < np.abs(fresh).max() <= bound
        assert not kernel[task + 1 :].any() and not kernel[..., n_old + 2 :].any()


def test_empty_slots_and_closed_columns_stay_zero(states):
    for task, (_, trained, after) in enumerate(states):
        for learner in (trained, after):
            assert not kernel_of(learner)[task + 1 :].any()
            assert not kernel_of(learner)[..., 2 * task + 2 :].any()


def test_the_auxiliary_head_begins_anew_in_each_task(states):
    kernels = [np.asarray(x.weights.params["auxiliary"]["kernel"]) for s in states for x in s[:2]]
    assert kernels[0].shape == (D, 3)
    assert all(not np.allclose(a, b) for a, b in itertools.pairwise(kernels))


def test_the_loss_adds_what_the_newest_features_say_of_old_and_new(engine, states):
    learner = states[1][0]
    params, stats = learner.weights.params, learner.weights.batch_stats
    images = jax.random.normal(jax.random.key(3), (4, *SHAPE))
    batch = new_images(images, [0, 1, 2, 3])
    loss, (parts, _) = engine.method.loss(params, learner, batch, jax.random.key(0))
    variables = {"params": params["backbone"], "batch_stats": stats}
    newest, _ = Small().apply(variables, images, train=True, mutable=["batch_stats"])
    first = Small().apply(variables, images, train=False)  # a copy, frozen in evaluation mode

    def cross_entropy(features, head, labels, n_open):
        logits = np.asarray(features @ head["kernel"] + head["bias"], np.float64)[:, :n_open]
        return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), labels]).mean()

    features = jnp.concatenate([first, newest, jnp.zeros_like(newest)], axis=1)
    expected = {
        "classification": cross_entropy(features, params["head"], [0, 1, 2, 3], 4),
        "auxiliary": cross_entropy(newest, params["auxiliary"], [0, 0, 1, 2], 3),
    }
    chex.assert_trees_all_close(dict(parts), expected, rtol=1e-4)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-4)


def test_the_first_task_has_no_auxiliary_loss(engine, states):
    batch = new_images(jnp.ones((2, *SHAPE)), [0, 1])
    learner = states[0][0]
    loss, (parts, _) = engine.method.loss(learner.weights.params, learner, batch, None)
    assert float(parts["auxiliary"]) == 0.0 and float(loss) == float(parts["classification"])


def test_gradients_are_finite_and_none_reaches_what_is_not_in_use(engine, states):
    learner = states[1][0]
    batch = new_images(jnp.ones((4, *SHAPE)), [0, 1, 2, 3])  # features without any variance
    grads, _ = jax.grad(engine.method.loss, has_aux=True)(
        learner.weights.params, learner, batch, None
    )
    chex.assert_tree_all_finite(grads)
    kernel = np.asarray(grads["head"]["kernel"]).reshape(N_TASKS, D, ROOM)
    assert not kernel[2].any() and not kernel[..., 4:].any() and kernel[0, :, :4].any()


def test_parameters_are_counted_as_they_are_in_use(states):
    backbone, auxiliary = (5 * D + D) + 2 * D, 3 * D + 3
    for task, (_, _, after) in enumerate(states):
        n_seen, n_backbones = 2 * task + 2, task + 1
        expected = n_backbones * backbone + n_seen * (n_backbones * D + 1) + auxiliary
        assert n_parameters_in_use(after.weights, n_seen) == expected


def test_aligning_gives_new_classes_the_mean_length_of_old_ones(states):
    _, trained, after = states[1]
    before, kernel = (np.linalg.norm(kernel_of(x), axis=(0, 1)) for x in (trained, after))
    np.testing.assert_allclose(kernel[2:4].mean(), before[:2].mean(), rtol=1e-5)
    np.testing.assert_allclose(kernel[2] / kernel[3], before[2] / before[3], rtol=1e-5)
    np.testing.assert_array_equal(kernel_of(after)[..., :2], kernel_of(trained)[..., :2])
    assert after.weights.params["head"]["bias"].tolist() == (
        trained.weights.params["head"]["bias"].tolist()
    )
    assert abs(kernel[2] - before[2]) > 1e-3


def test_retraining_makes_a_new_head_and_leaves_the_features():
    engine = engine_of(ending="retrain")
    (_, _, _), (_, trained, after) = learned(engine, n_tasks=2)
    new, old = kernel_of(after), kernel_of(trained)
    assert not np.any(np.isclose(new[:2, :, :4], old[:2, :, :4], rtol=1e-6))
    assert not new[2:].any() and not new[..., 4:].any()
    chex.assert_trees_all_equal(
        (after.weights.params["backbone"], after.weights.batch_stats, after.weights.frozen),
        (trained.weights.params["backbone"], trained.weights.batch_stats, trained.weights.frozen),
    )
    batch = new_images(jax.random.normal(jax.random.key(3), (4, *SHAPE)), [0, 1, 2, 3])
    loss, (_, output) = engine.method.loss_of_head(after.weights.params, after, batch, None)
    logits = np.asarray(output.logits[:, :4], np.float64) / 5
    expected = (np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_a_learner_of_one_task_has_room_to_be_taught():
    assert DER(Small(), n_tasks=1).network.slots == 2
