"""What every method keeps to. A new method passes this file as it is."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cil_jax import heads, memory, models, schedules
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer, with_room
from cil_jax.methods import METHODS, Batch, build
from cil_jax.settings.loading import preset
from cil_jax.training.engine import Engine
from cil_jax.training.streaming import Streamed

ROOM, SHAPE, PER_CLASS = 6, (8, 8, 1), 5
SIZES = (2, 2, 1)


@pytest.fixture(params=sorted(METHODS))
def engine(request):
    config = preset(request.param)
    if hasattr(config, "memory"):
        config = dataclasses.replace(config, memory=12)
    method = build(config, models.build("tiny"), mirror_means=False)
    return Engine(method, schedules.SGD(), Augmentation(0, False), batch_size=4)


def new_learner(engine, room=ROOM):
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.3))
    return engine.create(SHAPE, room, normalizer, jax.random.key(0), jax.random.key(1))


def task_pool(engine, learner, index):
    first = sum(SIZES[:index])
    labels = np.repeat(np.arange(first, first + SIZES[index]), PER_CLASS)
    padded = np.full(max(SIZES) * PER_CLASS, -1, np.int32)
    padded[: len(labels)] = labels
    rng = np.random.RandomState(index)
    images = rng.randint(0, 256, (len(padded), *SHAPE)).astype(np.uint8)
    return engine.pool(learner, images, padded, max(SIZES), PER_CLASS)


def learned(engine, n_tasks, room=ROOM):
    """A learner after so many tasks of one update each."""
    learner = new_learner(engine, room)
    for index in range(n_tasks):
        learner = engine.begin_task(learner, jnp.int32(SIZES[index]))
        pool = task_pool(engine, learner, index)
        learner, _ = engine.train(
            learner, pool, engine.no_sums(), jnp.float32(0.1), jnp.float32(0.01), jnp.int32(1)
        )
        learner = engine.end_task(learner.replace(step=jnp.int32(0)), pool)
    return learner


def in_second_task(engine, room=ROOM):
    return engine.begin_task(learned(engine, 1, room), jnp.int32(SIZES[1]))


def batch_of(learner, labels):
    images = jax.random.normal(jax.random.key(7), (len(labels), *SHAPE))
    return Batch(images, jnp.array(labels, jnp.int32))


def loss_and_grads(engine, learner, batch):
    function = jax.jit(jax.value_and_grad(engine.method.loss, has_aux=True))
    return function(learner.weights.params, learner, batch, jax.random.key(3))


def test_a_method_holds_no_arrays_and_can_be_compared(engine):
    same = dataclasses.replace(engine.method)
    assert same == engine.method and hash(same) == hash(engine.method)
    assert not [x for x in vars(engine.method).values() if isinstance(x, (jax.Array, np.ndarray))]


def test_the_learner_keeps_its_structure_through_all_tasks(engine):
    learners = [new_learner(engine), *(learned(engine, n) for n in (1, 2, 3))]
    chex.assert_trees_all_equal_shapes_and_dtypes(*learners)
    chex.assert_tree_all_finite([(x.weights, x.teacher, x.means) for x in learners])
    assert [int(x.n_seen) for x in learners] == [0, 2, 4, 5]
    assert [int(x.task) for x in learners] == [0, 1, 2, 3]


def test_a_task_begins_with_the_old_network_as_teacher(engine):
    before = learned(engine, 1)
    after = engine.begin_task(before, jnp.int32(2))
    chex.assert_trees_all_equal(after.teacher, before.weights)
    same = jax.tree.map(
        np.array_equal, after.weights.params["backbone"], before.weights.params["backbone"]
    )
    kernels = [v for k, v in jax.tree_util.tree_leaves_with_path(same) if k[-1].key == "kernel"]
    # A method that keeps all data begins anew, every other goes on from where it was.
    assert all(kernels) if not engine.method.keeps_all_data else not any(kernels)
    assert (int(after.n_old), int(after.n_seen)) == (2, 4)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(after.momentum))


def test_the_loss_is_finite_and_named_and_teaches(engine):
    learner = in_second_task(engine)
    (loss, (parts, output)), grads = loss_and_grads(engine, learner, batch_of(learner, [2, 3, 2]))
    chex.assert_shape(loss, ())
    chex.assert_tree_all_finite((loss, parts, grads))
    assert set(parts) == set(engine.method.parts)
    chex.assert_shape(output.logits, (3, ROOM))
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(grads))


def test_closed_columns_are_never_moved(engine):
    learner = in_second_task(engine)
    _, grads = loss_and_grads(engine, learner, batch_of(learner, [2, 3, 2]))
    for grad in grads["head"].values():
        chex.assert_trees_all_equal(grad[..., 4:], jnp.zeros_like(grad[..., 4:]))


def test_a_padded_head_is_a_resized_head_in_loss_and_gradient(engine):
    wide = in_second_task(engine)
    narrow = new_learner(engine, room=4)
    cut = {k: v[..., :4] for k, v in wide.weights.params["head"].items()}
    old = {k: v[..., :4] for k, v in wide.teacher.params["head"].items()}
    narrow = narrow.replace(
        weights=wide.weights.replace(params={**wide.weights.params, "head": cut}),
        teacher=wide.teacher.replace(params={**wide.teacher.params, "head": old}),
        n_old=wide.n_old,
        n_seen=wide.n_seen,
    )
    batch = batch_of(wide, [2, 3, 2, 3])
    (loss, _), grads = loss_and_grads(engine, narrow, batch)
    (padded_loss, _), padded = loss_and_grads(engine, wide, batch)
    chex.assert_trees_all_close(padded_loss, loss, rtol=1e-6)
    padded = {**padded, "head": {k: v[..., :4] for k, v in padded["head"].items()}}
    chex.assert_trees_all_close(padded, grads, rtol=1e-5, atol=1e-7)


def test_more_room_changes_nothing_and_opens_with_its_classes(engine):
    """Where all outputs are open from the start, which those of the new room are not."""
    method = dataclasses.replace(engine.method, outputs="fixed")
    key = jax.random.key(5)
    narrow = method.begin_task(new_learner(engine), jnp.int32(2), key)
    wide = with_room(narrow, 9)
    chex.assert_trees_all_equal_shapes(wide, engine.blank(SHAPE, 9, narrow.normalizer))
    narrow, wide = (method.begin_task(x, jnp.int32(2), key) for x in (narrow, wide))
    assert int(method.n_open(wide)) == int(method.n_open(narrow)) == ROOM
    batch = batch_of(wide, [2, 3, 2, 3])
    fixed = dataclasses.replace(engine, method=method)
    (loss, _), grads = loss_and_grads(fixed, narrow, batch)
    (wide_loss, _), wide_grads = loss_and_grads(fixed, wide, batch)
    chex.assert_trees_all_close(wide_loss, loss, rtol=1e-6)
    assert all(np.all(np.asarray(g[..., ROOM:]) == 0) for g in wide_grads["head"].values())
    cut = {k: v[..., :ROOM] for k, v in wide_grads["head"].items()}
    chex.assert_trees_all_close({**wide_grads, "head": cut}, grads, rtol=1e-5, atol=1e-7)

    features = jax.random.normal(key, (5, wide.means.shape[1]))
    for score in method.classifiers().values():
        same = score(wide, features)[:, :ROOM], score(narrow, features)
        chex.assert_trees_all_close(*same, rtol=1e-6)

    more = method.begin_task(wide, jnp.int32(4), key)
    assert int(method.n_open(more)) == int(more.n_seen) == 8
    kernel = np.asarray(more.weights.params["head"]["kernel"])
    assert np.all(np.any(kernel[:, :8] != 0, axis=0)) and np.all(kernel[:, 8:] == 0)
    assert np.array_equal(more.task_of, [0, 0, 0, 0, 0, 0, 0, 0, -2])


def test_the_teacher_is_in_evaluation_mode(engine):
    """What it says of an image does not depend on the batch, and it never moves."""
    learner = in_second_task(engine)
    batch = batch_of(learner, [2, 3, 2])
    alone = Batch(batch.images[:1], batch.labels[:1])
    chex.assert_trees_all_close(
        engine.method.teacher(learner, batch).logits[:1],
        engine.method.teacher(learner, alone).logits,
        rtol=1e-5,
        atol=1e-5,
    )
    pool = task_pool(engine, learner, 1)
    after, _ = engine.train(
        learner, pool, engine.no_sums(), jnp.float32(0.1), jnp.float32(0.0), jnp.int32(1)
    )
    chex.assert_trees_all_equal(after.teacher, learner.teacher)


def test_evaluation_mode_moves_no_statistics(engine):
    learner = in_second_task(engine)
    batch = batch_of(learner, [2, 3])
    _, (_, output) = engine.method.loss(
        learner.weights.params, learner, batch, jax.random.key(0), train=False
    )
    chex.assert_trees_all_equal(output.batch_stats, learner.weights.batch_stats)
    learner, batch = engine.begin_task(new_learner(engine), jnp.int32(2)), batch_of(learner, [0, 1])
    _, (_, output) = engine.method.loss(
        learner.weights.params, learner, batch, jax.random.key(0), train=True
    )
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(output.batch_stats, learner.weights.batch_stats)


def test_every_classifier_answers_with_seen_classes(engine):
    learner = learned(engine, 2)
    features = jax.random.normal(jax.random.key(0), (50, learner.means.shape[1]))
    classifiers = engine.method.classifiers()
    assert "linear" in classifiers and engine.method.headline in classifiers
    for score in classifiers.values():
        scores = score(learner, features)
        chex.assert_shape(scores, (50, ROOM))
        assert np.all(np.asarray(scores)[:, 4:] == heads.CLOSED)
        assert int(scores.argmax(axis=1).max()) < 4


def test_memory_holds_new_exemplars_only_if_the_method_keeps_any(engine):
    learner = learned(engine, 3)
    kept = learner.memory.counts.tolist()
    size = engine.method.memory_size
    assert kept == ([0] * ROOM if size is None else [12 // 5] * 5 + [0])
    chex.assert_trees_all_equal_shapes(learner.memory, memory.create(size or 0, SHAPE, ROOM))


def test_a_task_ends_the_same_where_its_images_stay_on_the_host(engine):
    """A method whose `end_task` says more than `select` and `keep` fails here."""
    learner, streamed = in_second_task(engine), Streamed(engine)
    host = task_pool(streamed, learner, 1)
    assert host.index.images is None
    one, other = (
        [ended.weights, ended.memory, ended.means, ended.task, ended.epoch]
        for ended in (
            streamed.end_task(learner, host),
            engine.end_task(learner, task_pool(engine, learner, 1)),
        )
    )
    chex.assert_trees_all_close(one, other, rtol=1e-6, atol=1e-6)


def test_no_program_is_compiled_twice(engine):
    programs = (Engine.begin_task, Engine.train, Engine.end_task, Engine.pool)
    learned(engine, 1)
    before = [program._cache_size() for program in programs]
    learned(engine, 3)
    assert [program._cache_size() for program in programs] == before
