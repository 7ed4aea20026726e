"""The exemplar memory, and the pool that it forms with a task's new images.

The memory has fixed room, divided into equal shares: with m images a class, class c owns slots
c m .. c m + m - 1, filled in the order of selection. When classes come, m falls and each class
keeps the head of its list. Pixels are kept as they are, so nothing of an old task is ever read
again but these.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cil_jax.typing import Array, Key


@struct.dataclass
class Memory:
    """Kept images.

    Attributes:
      images: uint8 [room, H, W, C].
      counts: int32 [classes], how many images each class has; at most `share`.
      share: int32 [], slots that a class owns; 0 before anything is kept.
    """

    images: Array
    counts: Array
    share: Array

    def labels(self) -> Array:
        """int32 [room]: the class of each slot, -1 where it is empty."""
        slot = jnp.arange(self.images.shape[0])
        owner, rank = slot // jnp.maximum(self.share, 1), slot % jnp.maximum(self.share, 1)
        n_classes = self.counts.shape[0]
        kept = jnp.where(owner < n_classes, self.counts[owner.clip(max=n_classes - 1)], 0)
        return jnp.where(rank < kept, owner, -1).astype(jnp.int32)


def kept(memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """What is kept, on the host: images uint8 [N, H, W, C], by class and then in the order of
    selection, and their classes [N]."""
    counts = np.asarray(memory.counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(memory.images)[labels * int(memory.share) + rank], labels


def create(room: int, image_shape: tuple[int, int, int], n_classes: int) -> Memory:
    """An empty memory with room for so many images and classes.

    One slot at least: checkpoints do not take arrays without elements.
    """
    return Memory(
        images=jnp.zeros((max(room, 1), *image_shape), jnp.uint8),
        counts=jnp.zeros(n_classes, jnp.int32),
        share=jnp.int32(0),
    )


def largest_share(room: int, n_classes: int) -> int | Array:
    """How many images each of n_classes may keep, so that all together fit the room."""
    return room // n_classes


def shared_out(
    memory: Memory, rows: Array, available: Array, n_old: Array, n_seen: Array
) -> tuple[Memory, Array]:
    """Shrinks the old classes' shares and makes room for the new classes' exemplars.

    Args:
      memory: what was kept so far.
      rows: int [K, M], for new class n_old + k the rows of the pool, in the order of selection.
      available: int [K], how many of these exist; the others are ignored.
      n_old: int [], classes before this task.
      n_seen: int [], classes with this task.

    Returns:
      The memory with its new counts and still with its old images; and int [room], for each slot
      of a new class the row of the pool that fills it. Both are for `filled`.
    """
    chex.assert_rank([rows, available], [2, 1])
    room, n_classes = memory.images.shape[0], memory.counts.shape[0]
    share = largest_share(room, n_seen)

    classes = jnp.arange(n_classes)
    arrival = (classes - n_old).clip(0, len(available) - 1)
    counts = jnp.where(classes < n_old, memory.counts, available[arrival])
    counts = jnp.where(classes < n_seen, jnp.minimum(counts, share), 0).astype(jnp.int32)
    after = Memory(memory.images, counts, jnp.int32(share))

    labels = after.labels()
    rank = jnp.arange(room) % jnp.maximum(share, 1)
    from_pool = rows[(labels - n_old).clip(0, rows.shape[0] - 1), rank.clip(max=rows.shape[1] - 1)]
    return after, from_pool


def filled(memory: Memory, after: Memory, new_images: Array, n_old: Array) -> Memory:
    """Puts the images of old and new classes into the slots that they have now.

    Args:
      memory: what was kept so far.
      after: as `shared_out` gives it.
      new_images: uint8 [room, H, W, C], what fills a slot of a new class; others are ignored.
      n_old: int [], classes before this task.
    """
    labels, room = after.labels(), memory.images.shape[0]
    rank = jnp.arange(room) % jnp.maximum(after.share, 1)
    from_memory = (labels * memory.share + rank).clip(0, room - 1)

    def choose(condition, a, b):
        return jnp.where(condition[:, None, None, None], a, b)

    images = choose(labels < n_old, memory.images[from_memory], new_images)
    return after.replace(images=choose(labels >= 0, images, jnp.uint8(0)))


@struct.dataclass
class Pool:
    """The images that a task trains on: new ones first, exemplars after them.

    Attributes:
      images: uint8 [R, H, W, C], or None where they stay on the host.
      labels: int32 [R]; -1 where there is no image.
      n_new_rows: static; rows before this are the task's, the others the memory's.
      task_room: static; the most classes that any task brings.
      class_room: static; the most images that any class has.
    """

    images: Array | None
    labels: Array
    n_new_rows: int = struct.field(pytree_node=False)
    task_room: int = struct.field(pytree_node=False)
    class_room: int = struct.field(pytree_node=False)

    def count(self) -> Array:
        """How many images there are."""
        return jnp.sum(self.labels >= 0)

    def shuffled(self, key: Key) -> Array:
        """int [R]: all rows in random order, those without an image last."""
        place = jax.random.uniform(key, self.labels.shape)
        return jnp.argsort(jnp.where(self.labels >= 0, place, 2.0))

    def batches(self, key: Key, batch_size: int) -> Callable[[Array], tuple[Array, Array]]:
        """An epoch: what gives the images [B, H, W, C] and labels [B] of a step."""
        order, count = self.shuffled(key), self.count()

        def batch(step):
            rows = rows_of_step(order, count, step, batch_size)
            return self.images[rows], self.labels[rows]

        return batch

    def rows_of(self, classes: Array) -> tuple[Array, Array]:
        """Where the new images of classes [K] are: rows [K, class_room] and a mask of the same."""
        is_of = self.labels[None, : self.n_new_rows] == classes[:, None]
        rows = jnp.argsort(~is_of, axis=1, stable=True)[:, : self.class_room]
        return rows, jnp.take_along_axis(is_of, rows, axis=1)


@struct.dataclass
class Chunk:
    """The batches of some steps of an epoch, from images that stay on the host.

    Attributes:
      images: uint8 [S, B, H, W, C].
      labels: int32 [S, B].
      first: int32 [], the step of the first.
    """

    images: Array
    labels: Array
    first: Array

    def batches(self, key: Key, batch_size: int) -> Callable[[Array], tuple[Array, Array]]:
        """As of a pool; the order was made on the host."""
        del key, batch_size
        return lambda step: (self.images[step - self.first], self.labels[step - self.first])


def rows_of_step(order: Array, count: Array, step: Array, batch_size: int) -> Array:
    """The rows [B] of a step: the next of the order [R], whose first `count` have an image.

    A pool smaller than a batch is gone round.
    """
    return order[(step * batch_size + np.arange(batch_size, dtype=np.int32)) % count]


def join(
    images: Array | None, labels: Array, memory: Memory, task_room: int, class_room: int
) -> Pool:
    """The pool of a task: its new images [N, H, W, C] with labels [N], and the memory.

    Where no images are given, they stay on the host, and the pool has none.
    """
    return Pool(
        images=None if images is None else jnp.concatenate([images, memory.images]),
        labels=jnp.concatenate([labels, memory.labels()]),
        n_new_rows=labels.shape[0],
        task_room=task_room,
        class_room=class_room,
    )
