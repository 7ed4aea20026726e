"""GDumb: it trains on what the memory will keep, and on nothing else; CutMix, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from third_task import (
    FACTS,
    N_SEEN,
    SHAPE,
    Small,
    batch_of,
    cross_entropy,
    learner_of,
    logits_of,
    loss_of,
)

from cil_jax import memory as memory_lib
from cil_jax.methods.gdumb import GDumb, cutmix
from cil_jax.methods.plan import Do, Train

N_SLOTS, CLASS_ROOM = 10, 8


def method_of(**settings):
    return GDumb(Small(), **FACTS, memory=N_SLOTS, **settings)


@pytest.fixture(scope="module")
def learner():
    """With seven exemplars of class 0 and three of class 1."""
    learner = learner_of(method_of())
    labels = jnp.array([0, 0, 0, 1, 0, 0, 1, 0, 0, 1], jnp.int32)
    return learner.replace(memory=learner.memory.replace(labels=labels))


@pytest.fixture(scope="module")
def pool(learner):
    """Eight images of class 4 and one of class 5, then the exemplars."""
    labels = np.array([4] * 8 + [5] + [-1] * 7, np.int32)
    images = np.zeros((len(labels), *SHAPE), np.uint8)
    return memory_lib.join(images, jnp.asarray(labels), learner.memory, 2, CLASS_ROOM)


def is_trained_on(learner, pool):
    """By the training of the third task."""
    begin, train, _ = method_of().plan(is_first=False)
    assert isinstance(begin, Do) and isinstance(train, Train)
    return np.asarray(jax.jit(train.rows)(learner, pool, jax.random.key(9)))


def test_the_rows_trained_on_are_as_balanced_as_the_images_allow(learner, pool):
    counts = np.bincount(np.asarray(pool.labels)[is_trained_on(learner, pool)], minlength=7)
    assert counts.tolist() == [3, 3, 0, 0, 3, 1, 0]


def test_they_are_the_rows_that_are_kept_after_the_training(learner, pool):
    """At another place of the plan, after some epochs, and with another key."""
    later = learner.replace(place=jnp.int32(2), epoch=jnp.int32(7))
    slots = jax.jit(method_of().policy)(later, pool, None, jax.random.key(11))
    kept = np.asarray(slots.source)[np.asarray(slots.labels) >= 0]
    assert sorted(kept) == np.flatnonzero(is_trained_on(learner, pool)).tolist()
    assert np.array_equal(pool.labels[slots.source], slots.labels)


def test_they_are_drawn_again_for_other_seeds_of_the_data(learner, pool):
    other = learner.replace(data_key=jax.random.key(12))
    assert not np.array_equal(is_trained_on(learner, pool), is_trained_on(other, pool))


def test_nothing_but_the_memory_passes_from_task_to_task(learner):
    """The plan of a later task begins with a new network, whatever the old one was."""
    method, key = method_of(), jax.random.key(3)
    other = jax.tree.map(lambda x: x + 1.0, learner.weights)
    change = jax.jit(method.plan(is_first=False)[0].change)
    one, same = change(learner, key), change(learner.replace(weights=other), key)
    leaves = zip(jax.tree.leaves(one.weights), jax.tree.leaves(same.weights), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)
    kernel = np.asarray(one.weights.params["head"]["kernel"])
    assert np.all(kernel[:, :N_SEEN] != 0) and not np.any(kernel[:, N_SEEN:])
    assert isinstance(method.plan(is_first=True)[0], Train)


def test_cutmix_replaces_one_rectangle_by_that_of_another_image():
    """Image i has the value i everywhere, so that a pixel says whose it is."""
    images = jnp.ones((6, 8, 10, 1)) * jnp.arange(6.0)[:, None, None, None]
    mix = jax.jit(lambda seed: cutmix(jax.random.key(seed), images, 0.5))
    n_mixed, shares = 0, []
    for seed in range(30):
        mixed, share, partner = mix(seed)
        mixed, partner = np.asarray(mixed)[..., 0], np.asarray(partner)
        assert sorted(partner) == list(range(6))
        own = np.arange(6)[:, None, None]
        is_foreign = (mixed != own).any(axis=0)
        assert np.array_equal(mixed, np.where(is_foreign, partner[:, None, None], own))
        rows, columns = is_foreign.any(axis=1), is_foreign.any(axis=0)
        assert np.array_equal(is_foreign, rows[:, None] & columns)
        assert float(share) == pytest.approx(1 - is_foreign.mean(), abs=1e-6)
        n_mixed += float(share) < 1
        shares.append(float(share))
    assert 5 <= n_mixed <= 20  # of 30, half with a rectangle that may be empty
    assert len(set(shares)) > 5


def test_the_loss_counts_both_labels_of_a_mixed_image_by_their_areas(learner):
    batch = batch_of([0, 3, 4, 5, 4])
    mix = jax.jit(lambda seed: cutmix(jax.random.key(seed), batch.images, 1.0))
    seed = next(seed for seed in range(20) if 0 < float(mix(seed)[1]) < 1)
    images, share, partner = mix(seed)
    loss, *_ = loss_of(method_of(cutmix=1.0).loss, learner, batch, seed)
    logits = logits_of(learner.weights, images)[0][:, :N_SEEN]
    own, others = (cross_entropy(logits, x) for x in (batch.labels, batch.labels[partner]))
    assert loss == pytest.approx(float(share) * own + (1 - float(share)) * others, rel=1e-4)


def test_without_cutmix_it_is_plain_cross_entropy(learner):
    batch = batch_of([0, 3, 4, 5, 4])
    loss, *_ = loss_of(method_of(cutmix=0.0).loss, learner, batch)
    logits = logits_of(learner.weights, batch.images)[0][:, :N_SEEN]
    assert loss == pytest.approx(cross_entropy(logits, batch.labels), rel=1e-4)
