"""The compiled programs: an epoch cut anywhere is the same epoch, and evaluation counts right."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images, small_config

from cil_jax.classifiers import class_means, nearest_class_mean
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Purpose, embed, root_keys
from cil_jax.methods.icarl import ICaRL
from cil_jax.methods.plan import Keep, Train
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback
from cil_jax.training.evaluation import Evaluation
from cil_jax.training.loop import Run
from cil_jax.training.streaming import Streamed


class PlainImages(ICaRL):
    def plan(self, is_first):
        return (Train(augmented=False), Keep())


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


def ended(run, learner, pool):
    """A learner after the exemplars of its task were kept."""
    return run.engine.end_task(run.engine.keep(learner.replace(step=jnp.int32(0)), pool))


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
    order = np.asarray(pool.order(learner.key(2)))
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


def test_equal_seeds_make_two_roots():
    init_key, data_key = map(jax.random.key_data, root_keys(7, 7))
    assert not np.array_equal(init_key, data_key)


def test_keys_of_a_task_are_the_same_wherever_it_is_resumed_and_trainings_differ(run):
    learner = run.new_learner()

    def numbers(key):
        return jax.random.key_data(key).tolist()

    later = learner.replace(epoch=jnp.int32(3), step=jnp.int32(2), place=jnp.int32(1))
    assert numbers(later.task_key(Purpose.ROWS)) == numbers(learner.task_key(Purpose.ROWS))
    other_task = learner.replace(task=jnp.int32(1))
    assert numbers(other_task.task_key(Purpose.ROWS)) != numbers(learner.task_key(Purpose.ROWS))
    second = learner.replace(place=jnp.int32(1))
    for purpose in (Purpose.SHUFFLE, Purpose.AUGMENT):
        assert numbers(second.key(purpose)) != numbers(learner.key(purpose))
    assert numbers(second.key(Purpose.SELECT)) == numbers(learner.key(Purpose.SELECT))


def test_an_epoch_leaves_out_a_rest_and_has_one_update_at_least(run):
    assert [run.engine.n_steps(n) for n in (1, 31, 32, 63, 64)] == [1, 1, 1, 1, 2]


def test_the_updates_of_a_task_are_those_of_its_images_and_a_full_memory(run):
    first, _, last = (run.scenario.n_images(task) for task in range(3))
    assert last // 32 != (last + 20) // 32  # so that the memory shows
    assert (run.course.n_updates(0), run.course.n_updates(2)) == (
        2 * (first // 32),
        2 * ((last + 20) // 32),
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
    key, room = learner.key(Purpose.BACKBONE), learner.means.shape[0]
    expected = jax.jit(run.engine.method.initial_weights, static_argnums=(0, 1))(
        learner.image_shape, room, key
    )
    chex.assert_trees_all_close(learner.weights, expected, rtol=1e-6)


def test_training_learns(run, begun):
    """Two digits are told apart, on the very images that the memory then keeps."""
    learner, pool = begun
    for epoch in range(12):
        learner, sums = trained(run, learner.replace(epoch=jnp.int32(epoch)), pool, [9])
        learner = learner.replace(step=jnp.int32(0))
    assert float(sums["n_new_right"]) > 0.9 * float(sums["n_new"])


@pytest.mark.parametrize("streamed", [False, True])
def test_evaluation_is_a_plain_count(run, begun, streamed):
    """Confusion matrices against scores computed image by image, over a range of rows.

    Sixteen images at once, so that there are several batches and a rest.
    """
    learner, pool = begun
    learner, _ = trained(run, learner, pool, [8])
    learner = ended(run, learner, pool)
    start, stop = 3, run.evaluation.bounds[1]
    assert (stop - start) // 16 > 1 and (stop - start) % 16
    means = jax.random.normal(jax.random.key(1), learner.means.shape)
    engine = dataclasses.replace(run.engine, eval_batch_size=16)
    programs = Streamed(engine) if streamed else engine
    test_set, labels, _ = run.scenario.test_set()
    counts, loss = programs.evaluate(
        learner, test_set, labels, jnp.int32(start), jnp.int32(stop), means
    )
    method = run.engine.method
    images = learner.normalizer(jnp.asarray(test_set[start:stop]))
    features = method.network(learner.weights, images, learner.n_seen).features
    labels = labels[start:stop]
    scorers = {**method.classifiers(), "ncm": lambda _, f: nearest_class_mean(f, means, 2)}
    assert set(counts) == set(scorers)
    for name, score in scorers.items():
        expected = np.zeros((5, 5), int)
        np.add.at(expected, (labels, np.asarray(score(learner, features).argmax(axis=1))), 1)
        chex.assert_trees_all_equal(np.asarray(counts[name].confusion), expected.astype(np.int32))
    batch = new_images(images, jnp.asarray(labels))
    expected_loss, _ = method.loss(
        learner.weights.params, learner, batch, jax.random.key(0), train=False
    )
    chex.assert_trees_all_close(loss, expected_loss, rtol=1e-4)


def test_the_test_accuracy_of_an_epoch_is_that_of_the_outputs(run, begun):
    """Whatever the method's own classifier: here the outputs always say the first class."""
    learner, pool = begun
    learner = ended(run, learner, pool)
    head = learner.weights.params["head"]
    params = {**learner.weights.params, "head": {**head, "bias": head["bias"].at[0].set(1e6)}}
    learner = learner.replace(weights=learner.weights.replace(params=params))
    n_first, n_all = (int(x) for x in np.bincount(run.scenario.test_set()[1]).cumsum()[:2])
    accuracy, _ = run.evaluation.of_task(learner, 0)
    assert accuracy == pytest.approx(n_first / n_all)


def test_embedding_in_batches_is_embedding_at_once_and_mirrors(run, begun):
    learner, _ = begun
    network = run.engine.method.network
    images = run.evaluation.images[:23]
    at_once = embed(network, learner, images)
    in_batches = embed(network, learner, images, batch_size=10)
    chex.assert_trees_all_close(in_batches, at_once, rtol=1e-5, atol=1e-6)
    mirrored = embed(network, learner, images, mirrored=True)
    chex.assert_trees_all_close(
        mirrored, embed(network, learner, images[:, :, ::-1]), rtol=1e-5, atol=1e-6
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


def test_a_training_may_ask_for_images_without_augmentation(run, begun):
    learner, pool = begun
    learners = []
    for augmentation in (Augmentation(2, False), Augmentation(0, False)):
        method = PlainImages(**vars(run.engine.method))
        engine = dataclasses.replace(run.engine, method=method, augmentation=augmentation)
        learners.append(
            engine.train(
                learner, pool, engine.no_sums(), jnp.float32(1.0), jnp.float32(0.0), jnp.int32(1)
            )
        )
    chex.assert_trees_all_equal(*learners)


def test_an_update_moves_every_parameter_by_rate_momentum_and_decay(run, begun):
    """Against w - rate (momentum b + g + decay w), without decay for biases and normalisation."""
    learner, pool = begun
    learner = learner.replace(momentum=jax.tree.map(jnp.ones_like, learner.momentum))
    plain = dataclasses.replace(run.engine, augmentation=Augmentation(0, False))
    rate, decay, momentum = 0.5, 0.25, plain.optimizer.momentum
    numbers = (jnp.float32(rate), jnp.float32(decay), jnp.int32(1))
    after, _ = plain.train(learner, pool, plain.no_sums(), *numbers)

    rows = pool.order(learner.key(Purpose.SHUFFLE))[: plain.batch_size]
    batch = new_images(learner.normalizer(pool.images[rows]), pool.labels[rows])
    gradient = jax.jit(jax.grad(plain.method.loss, has_aux=True))
    params = learner.weights.params
    grads, _ = gradient(params, learner, batch, learner.data_key)

    def moved(path, weight, grad):
        decays = path[-1].key == "kernel"
        return weight - rate * (momentum * 1.0 + grad + decays * decay * weight)

    expected = jax.tree_util.tree_map_with_path(moved, params, grads)
    chex.assert_trees_all_close(after.weights.params, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("answer", [0, 2])
def test_training_accuracy_is_that_of_new_images(run, begun, answer):
    """A head that always says one class is right on its images, which count if they are new."""
    learner, pool = begun
    learner = ended(run, learner, pool)
    learner = run.engine.begin_task(learner, jnp.int32(2))
    assert learner.memory.counts(2).tolist() == [10, 10]
    head = learner.weights.params["head"]
    head = {**head, "bias": head["bias"].at[answer].set(1e6)}
    params = {**learner.weights.params, "head": head}
    learner = learner.replace(weights=learner.weights.replace(params=params))

    pool, no_rate = run.pool(learner, run.scenario.task(1)), jnp.float32(0.0)
    _, sums = run.engine.train(
        learner, pool, run.engine.no_sums(), no_rate, jnp.float32(0.0), jnp.int32(6)
    )
    order = np.asarray(pool.order(learner.key(Purpose.SHUFFLE)))
    labels = np.asarray(pool.labels)[order][: 6 * run.engine.batch_size]
    assert (labels == 0).any() and (labels == 2).any()
    assert float(sums["n_new"]) == (labels >= 2).sum()
    assert float(sums["n_new_right"]) == ((labels == 2).sum() if answer == 2 else 0)


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_means_of_all_data_count_mirror_images_where_training_mirrors(run, begun, mirror, streamed):
    learner, pool = begun
    learner = ended(run, learner, pool)
    engine = dataclasses.replace(run.engine, augmentation=Augmentation(1, mirror))
    host = Streamed(engine) if streamed else None
    evaluation = Evaluation(engine, run.scenario, ncm=True, streamed=host)
    task = run.scenario.task(0)
    sides = [embed(engine.method.network, learner, task.images, mirrored=m) for m in (False, True)]
    sides = sides if mirror else sides[:1]
    expected = class_means(jnp.concatenate(sides), jnp.tile(task.labels, len(sides)), 5)
    means = evaluation._all_data_means(learner)
    chex.assert_trees_all_close(means, expected, atol=1e-5)
