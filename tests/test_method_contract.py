"""What every method keeps to. A new method passes this file as it is."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_images

from cil_jax import heads, models, schedules
from cil_jax.data.augment import Augmentation
from cil_jax.learner import Normalizer, widened
from cil_jax.methods import METHODS, Batch, build
from cil_jax.methods.base import Method
from cil_jax.methods.foster import FOSTER
from cil_jax.methods.memo import MEMO
from cil_jax.methods.plan import Do, Fold, Keep, Train, problem_of
from cil_jax.settings.loading import preset
from cil_jax.training.engine import Engine
from cil_jax.training.streaming import Streamed

ROOM, SHAPE, PER_CLASS = 6, (8, 8, 1), 5
SIZES = (2, 2, 1)


def engine_of(method_name, room=ROOM, **settings):
    config = preset(method_name, **settings)
    for name, value in {"memory": 12, "n_random": 16}.items():
        if hasattr(config, name):
            config = dataclasses.replace(config, **{name: value})
    facts = {"n_classes": room, "n_tasks": 4, "task_room": max(SIZES), "mirror_means": False}
    method = build(config, models.build("tiny"), **facts)
    return Engine(method, schedules.SGD(), Augmentation(0, False), batch_size=4)


HOOKS = ("network", "initial_weights", "own", "extras", "updated", "policy", "keeps_all_data")


def parts_of(name):
    """What the engine sees of a method: the hooks that it has of its own, and its steps."""
    method = engine_of(name).method
    hooks = {hook for hook in HOOKS if getattr(type(method), hook) is not getattr(Method, hook)}
    steps = [step for first in (True, False) for step in method.plan(first)]
    hooks |= {"frozen backbones"} if method.network.slots > 1 else set()
    return hooks | {(type(step), getattr(step, "beside", 0) > 0) for step in steps}


def effort(name):
    """What tests take time for: trainings of the first and a later task, and room for networks."""
    method = engine_of(name).method
    steps = [step for first in (True, False) for step in method.plan(first)]
    return sum(isinstance(step, Train) for step in steps), method.network.slots


def covering(without=()):
    """A few methods that have all parts among them, and take little time.

    Args:
      without: parts, as of `parts_of`, that need not be among them.
    """
    parts = {name: parts_of(name) - {*without} for name in sorted(METHODS)}
    efforts = {name: effort(name) for name in parts}
    chosen, covered = [], set()

    def gain(name):
        n_trainings, n_networks = efforts[name]
        return len(parts[name] - covered) / n_trainings, -n_networks

    while set().union(*parts.values()) - covered:
        chosen.append(max(parts, key=gain))
        covered |= parts[chosen[-1]]
    return chosen


COVERING = covering()


def some(names, covering=COVERING):
    """Parameters of a test: methods, of which those that are not in `covering` are slow."""
    return [
        pytest.param(name, marks=() if name in covering else pytest.mark.slow) for name in names
    ]


# What trains in later tasks is compiled for these alone; each method's own tests do so as well.
of_some_methods = pytest.mark.parametrize("engine", some(sorted(METHODS)), indirect=True)


@pytest.fixture(params=sorted(METHODS))
def engine(request):
    return engine_of(request.param)


@pytest.fixture
def engine_of_room(request, engine):
    """Returns an engine of the same method whose learner has another room."""
    name = request.node.callspec.params["engine"]
    return lambda room, **settings: engine_of(name, room, **settings)


def new_learner(engine):
    normalizer = Normalizer(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1, 1), 0.3))
    keys = jax.random.key(0), jax.random.key(1)
    return uncompiled(Engine.create, engine, SHAPE, engine.method.n_classes, normalizer, *keys)


def uncompiled(program, engine, *arguments):
    """What a program of the engine computes, operation by operation.

    Methods, rooms and steps have nearly all operations in common, but no whole program, so this
    saves most of the time of compiling.
    """
    return program.__wrapped__(engine, *arguments)


def task_pool(engine, learner, index):
    first = sum(SIZES[:index])
    labels = np.repeat(np.arange(first, first + SIZES[index]), PER_CLASS)
    padded = np.full(max(SIZES) * PER_CLASS, -1, np.int32)
    padded[: len(labels)] = labels
    rng = np.random.RandomState(index)
    images = rng.randint(0, 256, (len(padded), *SHAPE)).astype(np.uint8)
    return engine.pool(learner, images, padded, max(SIZES), PER_CLASS)


def begun(engine, learner, index):
    return engine.begin_task(learner, jnp.int32(SIZES[index]))


@functools.cache  # tests share learners, as no function changes one
def learned(engine, n_tasks):
    """A learner after so many tasks of one update in each training."""
    if n_tasks == 0:
        return new_learner(engine)
    index = n_tasks - 1
    return after_plan(engine, engine, begun(engine, learned(engine, index), index), index)


def after_plan(engine, programs, learner, index):
    """A learner after the plan of a task, where `programs` has its images."""
    pool = task_pool(programs, learner, index)
    for place, step in enumerate(engine.method.plan(is_first=index == 0)):
        kind = engine.kind(step)
        if place:
            learner = engine.advance(learner, starts_training=isinstance(step, Train))
        if isinstance(step, Train):
            restricted = programs.restrict(learner, pool, kind=kind)
            images = restricted
            if programs is not engine:
                images, _ = next(programs.chunks(learner, restricted, 1, kind))
            rates = jnp.float32(0.1), jnp.float32(0.01), jnp.int32(1)
            sums = engine.no_sums(kind)
            learner, _ = engine.train(learner, images, sums, *rates, kind=kind)
            learner = learner.replace(epoch=jnp.int32(1), step=jnp.int32(0))
        elif isinstance(step, Fold):
            learner = programs.fold(learner, programs.restrict(learner, pool, kind=kind), kind=kind)
        elif isinstance(step, Do):
            learner = engine.do(learner, kind=kind)
        else:
            assert isinstance(step, Keep)
            learner = programs.keep(learner, pool)
    return engine.end_task(learner)


@functools.cache
def in_second_task(engine):
    return begun(engine, learned(engine, 1), 1)


def batch_of(learner, labels):
    images = jax.random.normal(jax.random.key(7), (len(labels), *SHAPE))
    extras = jax.tree.map(lambda x: jnp.repeat(x[:1], len(labels), 0), learner.memory.extras)
    return new_images(images, labels).replace(extras=extras)


def loss_and_grads(engine, learner, batch):
    loss = jax.value_and_grad(engine.method.loss, has_aux=True)
    return loss(learner.weights.params, learner, batch, jax.random.key(3))


def corner(small, large):
    """The entries of large arrays that small ones of the same structure have."""
    return jax.tree.map(lambda s, x: x[tuple(slice(0, n) for n in s.shape)], small, large)


def test_a_method_holds_no_arrays_and_can_be_compared(engine):
    same = dataclasses.replace(engine.method)
    assert same == engine.method and hash(same) == hash(engine.method)
    assert not [x for x in vars(engine.method).values() if isinstance(x, (jax.Array, np.ndarray))]


@of_some_methods
def test_the_learner_keeps_its_structure_through_all_tasks(engine):
    learners = [new_learner(engine), *(learned(engine, n) for n in (1, 2, 3))]
    chex.assert_trees_all_equal_shapes_and_dtypes(*learners)
    chex.assert_tree_all_finite([(x.weights, x.own, x.teacher, x.means) for x in learners])
    assert [int(x.n_seen) for x in learners] == [0, 2, 4, 5]
    assert [int(x.task) for x in learners] == [0, 1, 2, 3]


def test_a_task_begins_with_the_old_network_as_teacher(engine):
    before = learned(engine, 1)
    after = engine.begin_task(before, jnp.int32(2))
    chex.assert_trees_all_equal((after.teacher, after.teacher_own), (before.weights, before.own))
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
    (loss, (parts, output)), grads = loss_and_grads(
        engine, learner, batch_of(learner, [2, 3, 2, 3])
    )
    chex.assert_shape(loss, ())
    chex.assert_tree_all_finite((loss, parts, grads))
    assert set(parts) == set(engine.method.parts)
    chex.assert_shape(output.logits, (4, ROOM))
    # What a method adds to backbone and head may be trained elsewhere.
    network = {name: grads[name] for name in ("backbone", "head")}
    assert all(np.any(np.asarray(g) != 0) for g in jax.tree.leaves(network))


@of_some_methods
def test_each_training_of_its_plans_names_its_parts_and_says_what_it_trains(engine):
    trainings = {
        is_first: [step for step in engine.method.plan(is_first) if isinstance(step, Train)]
        for is_first in (True, False)
    }
    assert trainings[True]
    is_first = not trainings[False]  # its later tasks may have none
    learner = begun(engine, learned(engine, 0), 0) if is_first else in_second_task(engine)
    pool, params = task_pool(engine, learner, int(learner.task)), learner.weights.params
    for step in trainings[is_first]:
        kind = engine.kind(step)
        rows = engine.restrict(learner, pool, kind=kind)
        assert 0 < int(rows.count()) <= int(pool.count())
        drawn = rows.draws(jax.random.key(0), engine.batch_size, step.beside, jax.random.key)(0)
        assert np.all(np.asarray(drawn.labels) >= 0)
        images = learner.normalizer(drawn.images)
        batch = Batch(images, drawn.labels, drawn.extras, drawn.from_memory)
        loss = step.loss or engine.method.loss
        value, (parts, output) = loss(params, learner, batch, jax.random.key(3))
        chex.assert_tree_all_finite((value, parts))
        assert set(parts) == set(engine.parts(kind))
        chex.assert_trees_all_equal_shapes(output.batch_stats, learner.weights.batch_stats)
        factors = (step.trainable or engine.method.trainable)(learner)
        if factors is not None:  # which must broadcast to the parameters
            updates = jax.tree.map(lambda x, f: jnp.ones_like(x) * f, params, factors)
            chex.assert_trees_all_equal_shapes(updates, params)


def test_a_plan_is_the_same_each_time_and_its_rows_do_not_depend_on_the_step(engine):
    """Else a resumed run would follow another plan, or train on images that it has held out."""
    learner = in_second_task(engine)
    pool = task_pool(engine, learner, 1)
    for is_first in (True, False):
        plan = engine.method.plan(is_first)
        assert plan == engine.method.plan(is_first) and not problem_of(plan)
        assert all(step in engine.steps for step in plan)
    for step in filter(lambda step: isinstance(step, Train | Fold) and step.rows, plan):
        kind = engine.kind(step)
        later = learner.replace(place=jnp.int32(1), epoch=jnp.int32(2), step=jnp.int32(1))
        one, other = (engine.restrict(x, pool, kind=kind).active for x in (learner, later))
        assert np.array_equal(one, other)


def test_closed_columns_are_never_moved(engine):
    learner = in_second_task(engine)
    _, grads = loss_and_grads(engine, learner, batch_of(learner, [2, 3, 2, 3]))
    for grad in filter(np.ndim, grads["head"].values()):
        chex.assert_trees_all_equal(grad[..., 4:], jnp.zeros_like(grad[..., 4:]))


@of_some_methods
def test_a_padded_head_is_a_resized_head_in_loss_and_gradient(engine, engine_of_room):
    wide = in_second_task(engine)
    resized = engine_of_room(4)
    narrow = corner(new_learner(resized), wide)
    batch = batch_of(wide, [2, 3, 2, 3])
    batch = batch.replace(extras=corner(batch_of(narrow, [2, 3, 2, 3]).extras, batch.extras))
    (loss, _), grads = loss_and_grads(resized, narrow, batch)
    (padded_loss, _), padded = loss_and_grads(engine, wide, batch_of(wide, [2, 3, 2, 3]))
    chex.assert_trees_all_close(padded_loss, loss, rtol=1e-6)
    chex.assert_trees_all_close(corner(grads, padded), grads, rtol=1e-5, atol=1e-7)


@of_some_methods
def test_more_room_changes_nothing_and_opens_with_its_classes(engine, engine_of_room):
    """Where all outputs are open from the start, which those of the new room are not."""
    fixed, larger = (engine_of_room(room, outputs="fixed") for room in (ROOM, 9))

    def begun(engine, learner, n_new):
        return uncompiled(Engine.begin_task, engine, learner, jnp.int32(n_new))

    narrow = begun(fixed, new_learner(fixed), 2)
    wide = widened(narrow, new_learner(larger))
    chex.assert_trees_all_equal_shapes(wide, larger.blank(SHAPE, 9, narrow.normalizer))
    narrow, wide = (begun(e, x, 2) for e, x in ((fixed, narrow), (larger, wide)))
    assert int(larger.method.n_open(wide)) == int(fixed.method.n_open(narrow)) == ROOM
    (loss, _), grads = loss_and_grads(fixed, narrow, batch_of(narrow, [2, 3, 2, 3]))
    (wide_loss, _), wide_grads = loss_and_grads(larger, wide, batch_of(wide, [2, 3, 2, 3]))
    chex.assert_trees_all_close(wide_loss, loss, rtol=1e-6)
    added = [g[..., ROOM:] for g in filter(np.ndim, wide_grads["head"].values())]
    assert not any(np.any(np.asarray(g) != 0) for g in added)
    # Of a large gradient, such as PASS has, more digits are lost where terms cancel.
    largest = max(1.0, *(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads)))
    same = corner(grads, wide_grads), grads
    chex.assert_trees_all_close(*same, rtol=1e-5, atol=1e-7 * largest)

    features = jax.random.normal(jax.random.key(5), (5, wide.means.shape[1]))
    of_wide, of_narrow = larger.method.classifiers(), fixed.method.classifiers()
    for name in of_wide:
        same = of_wide[name](wide, features)[:, :ROOM], of_narrow[name](narrow, features)
        chex.assert_trees_all_close(*same, rtol=1e-6)

    more = begun(larger, wide, 4)
    assert int(larger.method.n_open(more)) == int(more.n_seen) == 8
    kernel = np.asarray(more.weights.params["head"]["kernel"]).reshape(-1, 9)
    assert np.all(np.any(kernel[:, :8] != 0, axis=0)) and np.all(kernel[:, 8:] == 0)
    assert np.array_equal(more.task_of, [0, 0, 0, 0, 0, 0, 0, 0, -2])


@of_some_methods
def test_the_teacher_is_in_evaluation_mode(engine):
    """What it says of an image does not depend on the batch, and it never moves."""
    learner = in_second_task(engine)
    batch = batch_of(learner, [2, 3, 2, 3])
    others = batch.replace(images=batch.images.at[1:].multiply(3.0))
    one, other = (engine.method.teacher(learner, x).logits[:1] for x in (batch, others))
    chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-5)
    pool = task_pool(engine, learner, 1)
    after, _ = engine.train(
        learner, pool, engine.no_sums(), jnp.float32(0.1), jnp.float32(0.0), jnp.int32(1)
    )
    chex.assert_trees_all_equal(after.teacher, learner.teacher)


@of_some_methods
def test_evaluation_mode_moves_no_statistics(engine):
    learner = in_second_task(engine)
    batch = batch_of(learner, [2, 3, 2, 3])
    loss, key = engine.method.loss, jax.random.key(0)
    _, (_, output) = loss(learner.weights.params, learner, batch, key, train=False)
    chex.assert_trees_all_equal(output.batch_stats, learner.weights.batch_stats)
    learner = begun(engine, learned(engine, 0), 0)
    batch = batch_of(learner, [0, 1, 0, 1])
    _, (_, output) = loss(learner.weights.params, learner, batch, key)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(output.batch_stats, learner.weights.batch_stats)


@of_some_methods
def test_every_classifier_answers_with_seen_classes(engine):
    learner = learned(engine, 2)
    features = jax.random.normal(jax.random.key(0), (50, learner.means.shape[1]))
    classifiers = engine.method.classifiers()
    assert {engine.method.headline, engine.method.classifier_in_training} <= set(classifiers)
    for score in classifiers.values():
        scores = score(learner, features)
        chex.assert_shape(scores, (50, ROOM))
        assert np.all(np.asarray(scores)[:, 4:] == heads.CLOSED)
        assert int(scores.argmax(axis=1).max()) < 4


@of_some_methods
def test_memory_holds_exemplars_of_seen_classes_only_if_the_method_keeps_any(engine):
    memory, size = learned(engine, 3).memory, engine.method.memory_size
    counts = memory.counts(ROOM).tolist()
    if size is None:
        assert counts == [0] * ROOM
    else:
        assert 5 <= sum(counts) <= size == len(memory.labels) and counts[5:] == [0]
        assert int(memory.n_offered) == 5 * PER_CLASS


@of_some_methods
def test_a_task_is_the_same_where_its_images_stay_on_the_host(engine):
    """Every leaf of the state, after each step of the plan has been taken."""
    streamed = Streamed(engine)
    assert task_pool(streamed, new_learner(engine), 0).index.images is None
    one, other = (
        after_plan(engine, programs, in_second_task(engine), 1) for programs in (streamed, engine)
    )
    chex.assert_trees_all_close(_plain(one), _plain(other), rtol=1e-5, atol=1e-5)


def _plain(learner):
    """Its arrays, with random keys as numbers."""
    keys = {name: jax.random.key_data(getattr(learner, name)) for name in ("init_key", "data_key")}
    return learner.replace(**keys)


@of_some_methods
def test_no_program_is_compiled_twice(engine):
    programs = (Engine.begin_task, Engine.train, Engine.keep, Engine.end_task, Engine.pool)
    learned(engine, 2)
    before = [program._cache_size() for program in programs]
    learned(engine, 3)
    assert [program._cache_size() for program in programs] == before


@of_some_methods
def test_on_a_gpu_updates_are_one_loop_that_never_asks_the_host(engine):
    """A branch, a callback or a transfer would stop the GPU at each update."""
    learner = in_second_task(engine)
    pool, rate = task_pool(engine, learner, 1), jnp.float32(0.1)
    for step in filter(lambda step: isinstance(step, Train), engine.steps):
        kind = engine.kind(step)
        train = jax.jit(functools.partial(Engine.train.__wrapped__, engine, kind=kind))
        arguments = (learner, pool, engine.no_sums(kind), rate, rate, jnp.int32(1))
        text = train.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
        asks = re.findall(r"stablehlo\.(?:case|if|infeed|outfeed|send|recv|custom_call)\b.*", text)
        assert not asks
        # One round for each frozen backbone in use is a second loop. A third is the gradient
        # through MEMO's; FOSTER has a second network.
        has_third = isinstance(engine.method, MEMO | FOSTER)
        n_loops = 1 if engine.method.network.slots == 1 else 2 + has_third
        assert len(re.findall(r"stablehlo\.while\b", text)) <= n_loops
