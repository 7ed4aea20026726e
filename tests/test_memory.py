"""The exemplar memory against a memory kept in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_jax import memory as memory_lib

N_CLASSES, TASK_ROOM, CLASS_ROOM = 7, 3, 6
join = jax.jit(memory_lib.join, static_argnums=(3, 4))


@jax.jit
def update(memory, pool, rows, available, n_old, n_seen):
    after, from_pool = memory_lib.reallocate(memory, rows, available, n_old, n_seen)
    return memory_lib.fill(memory, after, pool.images[from_pool], n_old)


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
    for pixels, label in zip(np.asarray(memory.images), np.asarray(memory.labels()), strict=True):
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
    memory = memory_lib.create(room, (1, 1, 3), N_CLASSES)
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
        assert memory.counts.tolist()[:n_seen] == [len(expected[c]) for c in range(n_seen)]
        assert memory.counts.tolist()[n_seen:] == [0] * (N_CLASSES - n_seen)


def test_the_pool_holds_new_images_and_exemplars_and_nothing_else():
    memory = memory_lib.create(4, (1, 1, 3), N_CLASSES)
    pool = task_pool(memory, 0, [3, 2])
    assert int(pool.count()) == 5
    rows, mask = pool.rows_of(jnp.arange(TASK_ROOM))
    assert mask.sum(axis=1).tolist() == [3, 2, 0]
    assert rows[0, :3].tolist() == [0, 1, 2] and rows[1, :2].tolist() == [3, 4]

    memory = update(memory, pool, rows, mask.sum(1), jnp.int32(0), jnp.int32(2))
    pool = task_pool(memory, 2, [4])
    present = np.asarray(pool.labels) >= 0
    assert sorted(np.asarray(pool.labels)[present].tolist()) == [0, 0, 1, 1, 2, 2, 2, 2]
    shuffled = np.asarray(pool.shuffled(jax.random.key(0)))
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
        counts=jnp.array([2, 0, 3], jnp.int32),
        share=jnp.int32(3),
    )  # fmt: skip
    images, labels = memory_lib.exemplars(memory)
    assert labels.tolist() == [0, 0, 2, 2, 2]
    assert (images[:, 0, 0, :2] - 1).tolist() == [[0, 0], [0, 1], [2, 0], [2, 1], [2, 2]]


def test_rows_of_a_class_are_new_images_only():
    memory = memory_lib.create(4, (1, 1, 3), N_CLASSES)
    pool = task_pool(memory, 0, [3, 2])
    rows, mask = pool.rows_of(jnp.arange(TASK_ROOM))
    memory = update(memory, pool, rows, mask.sum(1), jnp.int32(0), jnp.int32(2))
    _, mask = task_pool(memory, 2, [4]).rows_of(jnp.arange(TASK_ROOM))
    assert mask.sum(axis=1).tolist() == [0, 0, 4]
