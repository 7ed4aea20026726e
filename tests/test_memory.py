"""The exemplar memory against a memory kept in plain Python."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_jax import memory as memory_lib

N_CLASSES, TASK_ROOM, CLASS_ROOM = 7, 3, 6
join = jax.jit(memory_lib.join, static_argnums=(3, 4))


def filled(memory, pool, slots):
    """The memory after a policy has said which row fills each slot."""
    is_filled = (slots.labels >= 0)[:, None, None, None]
    n_new = (pool.labels[: pool.n_new_rows] >= 0).sum()
    return memory.replace(
        images=jnp.where(is_filled, pool.images[slots.source], jnp.uint8(0)),
        labels=slots.labels,
        n_offered=memory.n_offered + n_new,
    )


@jax.jit
def update(memory, pool, rows, available, n_old, n_seen):
    return filled(memory, pool, memory_lib.equal_shares(pool, rows, available, n_old, n_seen))


def image(c: int, i: int) -> np.ndarray:
    """An image that says which it is: class and number."""
    return np.array([[[c + 1, i + 1, 0]]], np.uint8)


def task_pool(memory, first, sizes):
    """The pool of a task with classes first, first + 1, ... of so many images each."""
    pairs = [(first + k, i) for k, n in enumerate(sizes) for i in range(n)]
    images = np.zeros((TASK_ROOM * CLASS_ROOM, 1, 1, 3), np.uint8)
    labels = np.full(len(images), -1, np.int32)
    for row, (c, i) in enumerate(pairs):
        images[row], labels[row] = image(c, i), c
    return join(images, labels, memory, TASK_ROOM, CLASS_ROOM)


def contents(memory) -> dict[int, list[int]]:
    """Which images of each class are in the memory, in order."""
    kept: dict[int, list[int]] = {}
    for pixels, label in zip(np.asarray(memory.images), np.asarray(memory.labels), strict=True):
        c, i, _ = pixels[0, 0].tolist()
        if label < 0:
            assert (c, i) == (0, 0)  # nothing is left behind in an empty slot
        else:
            assert c == label + 1
            kept.setdefault(int(label), []).append(i - 1)
    return kept


tasks = st.lists(
    st.lists(st.integers(1, CLASS_ROOM), min_size=1, max_size=3), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=60)
@given(
    tasks=tasks.filter(lambda t: sum(map(len, t)) <= N_CLASSES),
    room=st.sampled_from([7, 12, 23]),
    seed=st.integers(0, 99),
)
def test_memory_is_never_above_its_size_shares_equally_and_keeps_the_order(tasks, room, seed):
    rng = np.random.RandomState(seed)
    memory = memory_lib.create(room, (1, 1, 3))
    expected: dict[int, list[int]] = {}
    n_seen = 0
    for sizes in tasks:
        n_old, n_seen = n_seen, n_seen + len(sizes)
        pool = task_pool(memory, n_old, sizes)
        rows, mask = pool.rows_of(n_old + jnp.arange(TASK_ROOM))
        orders = [rng.permutation(n) for n in sizes]
        picks = np.tile(np.arange(CLASS_ROOM), (TASK_ROOM, 1))
        for k, order in enumerate(orders):
            picks[k, : len(order)] = order
        chosen = jnp.take_along_axis(rows, jnp.asarray(picks), axis=1)
        memory = update(memory, pool, chosen, mask.sum(1), jnp.int32(n_old), jnp.int32(n_seen))

        share = room // n_seen
        for k, order in enumerate(orders):
            expected[n_old + k] = order.tolist()
        expected = {c: order[:share] for c, order in expected.items()}
        assert contents(memory) == expected
        assert sum(map(len, expected.values())) <= room
        counts = memory.counts(N_CLASSES).tolist()
        assert counts == [len(expected.get(c, ())) for c in range(N_CLASSES)]


def test_the_pool_holds_new_images_and_exemplars_and_nothing_else():
    memory = memory_lib.create(4, (1, 1, 3))
    pool = task_pool(memory, 0, [3, 2])
    assert int(pool.count()) == 5
    rows, mask = pool.rows_of(jnp.arange(TASK_ROOM))
    assert mask.sum(axis=1).tolist() == [3, 2, 0]
    assert rows[0, :3].tolist() == [0, 1, 2] and rows[1, :2].tolist() == [3, 4]

    memory = update(memory, pool, rows, mask.sum(1), jnp.int32(0), jnp.int32(2))
    pool = task_pool(memory, 2, [4])
    present = np.asarray(pool.labels) >= 0
    assert sorted(np.asarray(pool.labels)[present].tolist()) == [0, 0, 1, 1, 2, 2, 2, 2]
    shuffled = np.asarray(pool.order(jax.random.key(0)))
    assert sorted(shuffled.tolist()) == list(range(len(pool.labels)))
    assert set(shuffled[:8].tolist()) == set(np.flatnonzero(present).tolist())


def test_a_pool_smaller_than_a_batch_is_cycled_and_rows_without_an_image_are_never_drawn():
    order = jnp.array([4, 1, 3, 0, 2])  # of which the first three have an image
    batches = [memory_lib.rows_of_step(order, jnp.int32(3), step, 4).tolist() for step in (0, 1)]
    assert batches == [[4, 1, 3, 4], [1, 3, 4, 1]]


def test_kept_images_come_class_by_class_also_where_a_class_does_not_fill_its_share():
    # Shares of three slots, of which the classes fill two, none and three.
    memory = memory_lib.Memory(
        images=jnp.asarray([image(*at) for at in [(0, 0), (0, 1), *[(9, 9)] * 4]
                            + [(2, 0), (2, 1), (2, 2), (9, 9)]]),
        labels=jnp.array([0, 0, -1, -1, -1, -1, 2, 2, 2, -1], jnp.int32),
        extras={},
        n_offered=jnp.int32(5),
    )  # fmt: skip
    images, labels = memory_lib.exemplars(memory)
    assert labels.tolist() == [0, 0, 2, 2, 2]
    assert (images[:, 0, 0, :2] - 1).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]


def test_rows_of_a_class_are_new_images_only():
    memory = memory_lib.create(4, (1, 1, 3))
    pool = task_pool(memory, 0, [3, 2])
    rows, mask = pool.rows_of(jnp.arange(TASK_ROOM))
    memory = update(memory, pool, rows, mask.sum(1), jnp.int32(0), jnp.int32(2))
    _, mask = task_pool(memory, 2, [4]).rows_of(jnp.arange(TASK_ROOM))
    assert mask.sum(axis=1).tolist() == [0, 0, 4]


def offered(memory, first, sizes, policy):
    """The memory after a task of classes first, first + 1, ... with so many images each."""
    pool = task_pool(memory, first, sizes)
    rows, mask = pool.rows_of(first + jnp.arange(TASK_ROOM))
    n_old, n_seen = jnp.int32(first), jnp.int32(first + len(sizes))
    return filled(memory, pool, policy(pool, rows, mask.sum(1), n_old, n_seen))


def test_a_class_balanced_memory_is_full_and_its_classes_are_as_equal_as_they_can_be():
    memory = memory_lib.create(10, (1, 1, 3))
    memory = offered(memory, 0, [6, 1], memory_lib.class_balanced)
    assert contents(memory) == {0: [0, 1, 2, 3, 4, 5], 1: [0]}  # room for all
    memory = offered(memory, 2, [5, 4], memory_lib.class_balanced)
    # Three for each class that has them, and the one slot that is left for the first.
    assert contents(memory) == {0: [0, 1, 2], 1: [0], 2: [0, 1, 2], 3: [0, 1, 2]}
    memory = offered(memory, 4, [6], memory_lib.class_balanced)
    assert contents(memory) == {0: [0, 1, 2], 1: [0], 2: [0, 1], 3: [0, 1], 4: [0, 1]}


def test_a_fixed_number_a_class_does_not_change_when_classes_arrive():
    policy = partial(memory_lib.equal_shares, share=2)
    memory = offered(memory_lib.create(8, (1, 1, 3)), 0, [6, 1], policy)
    assert contents(memory) == {0: [0, 1], 1: [0]}
    memory = offered(memory, 2, [3, 3], policy)
    assert contents(memory) == {0: [0, 1], 1: [0], 2: [0, 1], 3: [0, 1]}


@jax.jit
def reservoir_of_three(key):
    """The classes in a reservoir of three slots after five images of one class and then six."""
    memory = memory_lib.create(3, (1, 1, 3))
    for first, size, task_key in zip((0, 1), (5, 6), jax.random.split(key), strict=True):
        pool = task_pool_of_class(memory, first, size)
        memory = filled(memory, pool, memory_lib.reservoir(pool, memory.n_offered, task_key))
    return memory.images[:, 0, 0, :2], memory.n_offered


def task_pool_of_class(memory, c, size):
    rows = np.arange(TASK_ROOM * CLASS_ROOM)
    images = np.zeros((len(rows), 1, 1, 3), np.uint8)
    images[:size, 0, 0, 0], images[:size, 0, 0, 1] = c + 1, np.arange(size) + 1
    labels = np.where(rows < size, c, -1).astype(np.int32)
    return memory_lib.join(jnp.asarray(images), jnp.asarray(labels), memory, TASK_ROOM, CLASS_ROOM)


def test_each_image_is_in_a_reservoir_with_equal_probability():
    """Eleven images for three slots: each is kept with probability 3 / 11."""
    n = 4000
    kept, n_offered = jax.vmap(reservoir_of_three)(jax.random.split(jax.random.key(0), n))
    assert np.all(np.asarray(n_offered) == 11)
    images, counts = np.unique(np.asarray(kept).reshape(-1, 2), axis=0, return_counts=True)
    assert len(images) == 11 and counts.sum() == 3 * n  # no empty slot
    deviation = np.sqrt(3 / 11 * 8 / 11 / n)
    np.testing.assert_allclose(counts / n, 3 / 11, atol=4.5 * deviation)
    assert all(len(np.unique(one, axis=0)) == 3 for one in np.asarray(kept)[:50])


def test_exemplars_are_drawn_from_filled_slots_alone():
    memory = offered(memory_lib.create(9, (1, 1, 3)), 0, [2, 3], memory_lib.equal_shares)
    pool = task_pool(memory, 2, [4])
    rows = pool.sample_exemplars(jax.random.key(0), 200)
    drawn = pool.complete(pool.images[rows], rows)
    assert np.all(np.asarray(drawn.from_memory))
    assert {tuple(x) for x in np.asarray(drawn.images)[:, 0, 0, :2].tolist()} == {
        *((1, 1), (1, 2), (2, 1), (2, 2), (2, 3))
    }
    assert np.array_equal(drawn.labels, np.asarray(drawn.images)[:, 0, 0, 0] - 1)


def test_random_ranks_number_the_rows_of_each_class():
    labels = jnp.array([2, 0, 2, -1, 2, 0], jnp.int32)
    pool = memory_lib.Pool(None, labels, labels >= 0, {}, n_new_rows=6, task_room=3, class_room=3)
    ranks = np.array([pool.random_ranks(jax.random.key(k)) for k in range(50)])
    assert all(
        sorted(row[[0, 2, 4]]) == [0, 1, 2] and sorted(row[[1, 5]]) == [0, 1] for row in ranks
    )
    assert all(len(set(column)) == n for column, n in zip(ranks[:, :3].T, (3, 2, 3), strict=True))
