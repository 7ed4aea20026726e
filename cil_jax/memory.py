"""The exemplar memory, and the pool that it forms with a task's new images.

The memory has a fixed number of slots, divided equally among the classes seen: with a share of m
images per class, class c owns slots c m .. c m + m - 1, filled in the order of selection. When new
classes arrive, m falls and each old class keeps the first m of its exemplars. The memory stores raw
pixels, so no other image of an old task is needed again.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cil_jax.typing import Array, ImageShape, Key

Index = TypeVar("Index", Array, np.ndarray)


class Memory(struct.PyTreeNode):
    """The exemplars of all classes.

    Attributes:
      images: uint8 [room, H, W, C].
      counts: int32 [classes], the number of exemplars of each class; at most `share`.
      share: int32 [], the number of slots that each class owns; 0 while the memory is empty.
    """

    images: Array
    counts: Array
    share: Array

    def labels(self) -> Array:
        """Returns the class of each slot, int32 [room]; -1 for an empty slot."""
        slot = jnp.arange(self.images.shape[0])
        owner, rank = slot // jnp.maximum(self.share, 1), slot % jnp.maximum(self.share, 1)
        n_classes = self.counts.shape[0]
        n_kept = jnp.where(owner < n_classes, self.counts[owner.clip(max=n_classes - 1)], 0)
        return jnp.where(rank < n_kept, owner, -1).astype(jnp.int32)


def exemplars(memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Copies the exemplars to the host.

    Returns:
      Images uint8 [N, H, W, C] and their labels int [N], sorted by class and, within a class, by
      the order of selection.
    """
    counts = np.asarray(memory.counts)
    labels = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(memory.images)[labels * int(memory.share) + rank], labels


def create(room: int, image_shape: ImageShape, n_classes: int) -> Memory:
    """Creates an empty memory.

    Args:
      room: number of slots. At least one is made, as checkpoints cannot hold empty arrays.
      image_shape: (H, W, C).
      n_classes: number of classes that may come.
    """
    return Memory(
        images=jnp.zeros((max(room, 1), *image_shape), jnp.uint8),
        counts=jnp.zeros(n_classes, jnp.int32),
        share=jnp.int32(0),
    )


def largest_share(room: int, n_classes: int | Array) -> int | Array:
    """Returns how many exemplars each of n_classes may have in a memory of `room` slots."""
    return room // n_classes


def reallocate(
    memory: Memory, rows: Array, n_available: Array, n_old: Array, n_seen: Array
) -> tuple[Memory, Array]:
    """Divides the slots among old and new classes; `fill` then moves the images.

    Args:
      memory: the memory before this task.
      rows: int [K, M]; row k has the pool rows of class n_old + k, in the order of selection.
      n_available: int [K], how many entries of each row of `rows` are valid.
      n_old: int [], number of classes before this task.
      n_seen: int [], number of classes including this task.

    Returns:
      The memory with its new counts and share, but its old images; and int [room], the pool row
      that fills each slot of a new class.
    """
    chex.assert_rank([rows, n_available], [2, 1])
    room, n_classes = memory.images.shape[0], memory.counts.shape[0]
    share = largest_share(room, n_seen)

    classes = jnp.arange(n_classes)
    arrival = (classes - n_old).clip(0, len(n_available) - 1)
    counts = jnp.where(classes < n_old, memory.counts, n_available[arrival])
    counts = jnp.where(classes < n_seen, jnp.minimum(counts, share), 0).astype(jnp.int32)
    after = Memory(memory.images, counts, jnp.int32(share))

    labels = after.labels()
    rank = jnp.arange(room) % jnp.maximum(share, 1)
    from_pool = rows[(labels - n_old).clip(0, rows.shape[0] - 1), rank.clip(max=rows.shape[1] - 1)]
    return after, from_pool


def fill(memory: Memory, after: Memory, new_images: Array, n_old: Array) -> Memory:
    """Moves the images of old and new classes into their new slots.

    Args:
      memory: the memory before this task.
      after: the memory that `reallocate` returned.
      new_images: uint8 [room, H, W, C], the image for each slot of a new class; the images of other
        slots are ignored.
      n_old: int [], number of classes before this task.
    """
    labels, room = after.labels(), memory.images.shape[0]
    rank = jnp.arange(room) % jnp.maximum(after.share, 1)
    from_memory = (labels * memory.share + rank).clip(0, room - 1)

    def choose(mask: Array, images: Array, others: Array) -> Array:
        return jnp.where(mask[:, None, None, None], images, others)

    images = choose(labels < n_old, memory.images[from_memory], new_images)
    return after.replace(images=choose(labels >= 0, images, jnp.uint8(0)))


class Pool(struct.PyTreeNode):
    """The images that a task trains on: first its new images, then the exemplars.

    Attributes:
      images: uint8 [R, H, W, C], or None if they stay on the host.
      labels: int32 [R]; -1 for a row without an image.
      n_new_rows: static; rows below this hold new images, the others exemplars.
      task_room: static; the largest number of classes in a task.
      class_room: static; the largest number of images in a class.
    """

    images: Array | None
    labels: Array
    n_new_rows: int = struct.field(pytree_node=False)
    task_room: int = struct.field(pytree_node=False)
    class_room: int = struct.field(pytree_node=False)

    def count(self) -> Array:
        """Returns the number of images."""
        return jnp.sum(self.labels >= 0)

    def shuffled(self, key: Key) -> Array:
        """Returns all rows in random order, int [R]; rows without an image come last."""
        place = jax.random.uniform(key, self.labels.shape)
        return jnp.argsort(jnp.where(self.labels >= 0, place, 2.0))

    def batches(self, key: Key, batch_size: int) -> Callable[[Array], tuple[Array, Array]]:
        """Returns a function from a step of the epoch to images [B, H, W, C] and labels [B]."""
        images, order, count = self.device_images(), self.shuffled(key), self.count()

        def batch(step: Array) -> tuple[Array, Array]:
            rows = rows_of_step(order, count, step, batch_size)
            return images[rows], self.labels[rows]

        return batch

    def device_images(self) -> Array:
        """Returns `images`.

        Raises:
          TypeError: if they stay on the host.
        """
        if self.images is None:
            raise TypeError(
                "the images of this pool are on the host: use cil_jax.training.streaming"
            )
        return self.images

    def rows_of(self, classes: Array) -> tuple[Array, Array]:
        """Finds the new images of classes [K].

        Returns:
          Rows int [K, class_room], and a mask of the same shape that marks the valid ones.
        """
        is_member = self.labels[None, : self.n_new_rows] == classes[:, None]
        rows = jnp.argsort(~is_member, axis=1, stable=True)[:, : self.class_room]
        return rows, jnp.take_along_axis(is_member, rows, axis=1)


class Chunk(struct.PyTreeNode):
    """The batches of several consecutive steps, made from images that stay on the host.

    Attributes:
      images: uint8 [S, B, H, W, C].
      labels: int32 [S, B].
      first_step: int32 [], the step of the epoch that the first batch is for.
    """

    images: Array
    labels: Array
    first_step: Array | np.int32

    def batches(self, key: Key, batch_size: int) -> Callable[[Array], tuple[Array, Array]]:
        """Returns the same function as `Pool.batches`; the arguments are not used."""
        del key, batch_size

        def batch(step: Array) -> tuple[Array, Array]:
            index = step - self.first_step
            return self.images[index], self.labels[index]

        return batch


def rows_of_step(order: Index, count: Index, step: Index, batch_size: int) -> Index:
    """Returns the pool rows of the batch of a step; a pool smaller than a batch is cycled.

    It works on the device and on the host.

    Args:
      order: int [R], the rows of the pool in the order of this epoch.
      count: int [], how many of them, from the first on, hold an image.
      step: int [], or [S, 1] for several steps at once; from 0 within the epoch.
      batch_size: B.

    Returns:
      int [B], or [S, B].
    """
    places: Any = (step * batch_size + np.arange(batch_size, dtype=np.int32)) % count
    return order[places]


def join(
    images: Array | None, labels: Array, memory: Memory, task_room: int, class_room: int
) -> Pool:
    """Makes the pool of a task from its new images and the exemplars.

    Args:
      images: uint8 [N, H, W, C], or None if they stay on the host.
      labels: int32 [N]; -1 for a row without an image.
      memory: the exemplars.
      task_room, class_room: see `Pool`.
    """
    return Pool(
        images=None if images is None else jnp.concatenate([images, memory.images]),
        labels=jnp.concatenate([labels, memory.labels()]),
        n_new_rows=labels.shape[0],
        task_room=task_room,
        class_room=class_room,
    )
