"""The compiled programs: an epoch cut anywhere is the same epoch, and evaluation counts right."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config

from cil_jax.classifiers import nearest_class_mean
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Purpose, embed, forward, initial_weights
from cil_jax.observer import Callback
from cil_jax.protocol import Run
from cil_jax.record import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = small_config("icarl", tmp_path_factory.mktemp("engine") / "run")
    return Run(config, RunFolder(config.folder()), Callback())


@pytest.fixture(scope="module")
def begun(run):
    """A learner at the start of the first task, and its pool."""
    learner = run.engine.begin_task(run.new_learner(), jnp.int32(2))
    return learner, run.pool(learner, run.scenario.task(0))


def trained(run, learner, pool, stops):
    sums = run.engine.no_sums()
    for stop in stops:
        learner, sums = run.engine.train(
            learner, pool, sums, jnp.float32(1.0), jnp.float32(0.0), jnp.int32(stop)
        )
    return learner, sums


def test_a_scan_over_an_epoch_is_a_loop_of_single_steps(run, begun):
    learner, pool = begun
    scan = trained(run, learner, pool, [6])
    loop = trained(run, learner, pool, range(1, 7))
    cut = trained(run, learner, pool, [2, 3, 6])
    chex.assert_trees_all_equal(scan, loop)
    chex.assert_trees_all_equal(scan, cut)
    assert int(scan[0].step) == 6 and float(scan[1]["steps"]) == 6


def test_fast_training_is_the_same_up_to_rounding(run, begun):
    learner, pool = begun
    fast = dataclasses.replace(run.engine, fast=True)
    rates = jnp.float32(0.1), jnp.float32(0.0)
    plain, quick = (
        e.train(learner, pool, e.no_sums(), *rates, jnp.int32(2)) for e in (run.engine, fast)
    )
    chex.assert_trees_all_close(plain[0].weights, quick[0].weights, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(plain[1], quick[1], rtol=1e-4)


def test_an_epoch_sees_every_image_at_most_once(run, begun):
    learner, pool = begun
    order = np.asarray(pool.shuffled(learner.key(2)))
    assert len(set(order.tolist())) == len(order)
    n = int(pool.count())
    assert np.all(np.asarray(pool.labels)[order[:n]] >= 0)


def test_epochs_differ_and_repeat(run, begun):
    learner, pool = begun
    same = trained(run, learner, pool, [1])[0]
    chex.assert_trees_all_equal(same.weights, trained(run, learner, pool, [1])[0].weights)
    later = trained(run, learner.replace(epoch=jnp.int32(1)), pool, [1])[0]
    assert not np.array_equal(
        same.weights.params["head"]["kernel"], later.weights.params["head"]["kernel"]
    )


def test_the_seeds_are_separate(run, tmp_path):
    def first_kernel(**seeds):
        config = small_config("icarl", tmp_path / "x", **seeds)
        learner = Run(config, RunFolder(config.folder()), Callback()).new_learner()
        return learner.weights.params["backbone"]["Conv_0"]["kernel"], learner.data_key

    kernel, data_key = first_kernel()
    kernel_of_other_data, other_data_key = first_kernel(data_seed=5)
    chex.assert_trees_all_equal(kernel, kernel_of_other_data)
    assert not jnp.array_equal(jax.random.key_data(data_key), jax.random.key_data(other_data_key))
    other_kernel, same_data_key = first_kernel(seed=5, data_seed=0)
    assert not np.array_equal(kernel, other_kernel)
    assert jnp.array_equal(jax.random.key_data(data_key), jax.random.key_data(same_data_key))


def test_a_new_network_comes_from_the_learners_own_key(run):
    learner = run.new_learner()
    backbone, room = run.engine.method.backbone, learner.means.shape[0]
    key = learner.key(Purpose.BACKBONE)
    expected = jax.jit(initial_weights, static_argnums=(0, 1, 2))(
        backbone, learner.image_shape, room, key
    )
    chex.assert_trees_all_close(learner.weights, expected, rtol=1e-6)


def test_training_learns(run, begun):
    """Two digits are told apart, on the very images that the memory then keeps."""
    learner, pool = begun
    for epoch in range(12):
        learner, sums = trained(run, learner.replace(epoch=jnp.int32(epoch)), pool, [9])
        learner = learner.replace(step=jnp.int32(0))
    assert float(sums["n_new_right"]) > 0.9 * float(sums["n_new"])


def test_evaluation_is_a_plain_count(run, begun):
    """Confusion matrices against scores computed image by image, over a range of rows."""
    learner, pool = begun
    learner, _ = trained(run, learner, pool, [8])
    learner = run.engine.end_task(learner.replace(step=jnp.int32(0)), pool)
    start, stop = 3, run.evaluation.bounds[1]
    means = jax.random.normal(jax.random.key(1), learner.means.shape)
    counts, loss = run.engine.evaluate(
        learner,
        run.evaluation.images,
        run.evaluation.labels,
        jnp.int32(start),
        jnp.int32(stop),
        means,
    )
    method = run.engine.method
    images = learner.normalizer(run.evaluation.images[start:stop])
    features = forward(method.backbone, learner.weights, images, learner.n_seen).features
    labels = np.asarray(run.evaluation.labels[start:stop])
    scorers = {**method.classifiers(), "ncm": lambda _, f: nearest_class_mean(f, means, 2)}
    assert set(counts) == set(scorers)
    for name, score in scorers.items():
        expected = np.zeros((5, 5), int)
        np.add.at(expected, (labels, np.asarray(score(learner, features).argmax(axis=1))), 1)
        chex.assert_trees_all_equal(np.asarray(counts[name].confusion), expected.astype(np.int32))
    from cil_jax.methods import Batch

    batch = Batch(images, jnp.asarray(labels))
    expected_loss, _ = method.loss(
        learner.weights.params, learner, batch, jax.random.key(0), train=False
    )
    chex.assert_trees_all_close(loss, expected_loss, rtol=1e-4)


def test_embedding_in_batches_is_embedding_at_once_and_mirrors(run, begun):
    learner, _ = begun
    backbone = run.engine.method.backbone
    images = run.evaluation.images[:23]
    at_once = embed(backbone, learner, images)
    in_batches = embed(backbone, learner, images, batch_size=10)
    chex.assert_trees_all_close(in_batches, at_once, rtol=1e-5, atol=1e-6)
    mirrored = embed(backbone, learner, images, mirrored=True)
    chex.assert_trees_all_close(
        mirrored, embed(backbone, learner, images[:, :, ::-1]), rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(mirrored, at_once, rtol=1e-3)


def test_training_images_are_augmented(run, begun):
    learner, pool = begun
    plain = dataclasses.replace(run.engine, augmentation=Augmentation(0, False))
    one, _ = trained(run, learner, pool, [1])
    two, _ = plain.train(
        learner, pool, plain.no_sums(), jnp.float32(1.0), jnp.float32(0.0), jnp.int32(1)
    )
    kernels = (x.weights.params["backbone"]["Conv_0"]["kernel"] for x in (one, two))
    assert not np.array_equal(*kernels)
