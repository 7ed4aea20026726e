"""The exemplar memory, the policies that fill it, and the pool that it forms with new images.

The memory has a fixed number of slots. A slot holds the raw pixels of an image, its label and
whatever else a method stores with it, so no other image of an old task is needed again. At the end
of a task a policy says which row of the pool fills each slot: see `Slots`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from cil_jax.typing import Array, ImageShape, Key, Params

Index = TypeVar("Index", Array, np.ndarray)


class Memory(struct.PyTreeNode):
    """The exemplars of all classes.

    Attributes:
      images: uint8 [slots, H, W, C].
      labels: int32 [slots]; -1 for an empty slot.
      extras: what a method stores with each exemplar, by name; arrays [slots, ...].
      n_offered: int32 [], number of images that the memory could have kept so far.
    """

    images: Array
    labels: Array
    extras: Params
    n_offered: Array

    def __repr__(self) -> str:
        return f"Memory({len(self.labels)} slots, images {self.images.shape[1:]})"

    def counts(self, n_classes: int) -> Array:
        """Returns the number of exemplars of each class, int32 [n_classes]."""
        return (self.labels[:, None] == jnp.arange(n_classes)).sum(axis=0, dtype=jnp.int32)


class Slots(NamedTuple):
    """Which row of the pool fills each slot of the memory.

    Attributes:
      source: int32 [slots], rows of the pool; those of the memory itself are from
        `Pool.n_new_rows` on.
      labels: int32 [slots]; -1 for a slot that stays empty.
    """

    source: Array
    labels: Array


def create(n_slots: int, image_shape: ImageShape, extras: Params | None = None) -> Memory:
    """Creates an empty memory.

    Args:
      n_slots: number of slots. At least one is made, as checkpoints cannot hold empty arrays.
      image_shape: (H, W, C).
      extras: shapes and types of the extras of one exemplar, by name.
    """
    n_slots = max(n_slots, 1)
    return Memory(
        images=jnp.zeros((n_slots, *image_shape), jnp.uint8),
        labels=jnp.full(n_slots, -1, jnp.int32),
        extras=jax.tree.map(lambda x: jnp.zeros((n_slots, *x.shape), x.dtype), extras or {}),
        n_offered=jnp.int32(0),
    )


def exemplars(memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """Copies the exemplars to the host.

    Returns:
      Images uint8 [N, H, W, C] and their labels int [N], sorted by class and, within a class, by
      slot: in the order of selection if a policy has selected them one after another.
    """
    labels = np.asarray(memory.labels)
    slots = np.argsort(labels, kind="stable")
    slots = slots[labels[slots] >= 0]
    return np.asarray(memory.images)[slots], labels[slots].astype(int)


# Policies: which images the memory keeps.


def equal_shares(
    pool: "Pool",
    picks: Array,
    n_available: Array,
    n_old: Array,
    n_seen: Array,
    share: int | Array | None = None,
) -> Slots:
    """Gives each class seen the same number of slots; an old class keeps its first exemplars.

    With m slots per class, class c owns slots c m .. c m + m - 1, filled in the order of selection.
    If m falls when new classes arrive, each old class keeps the first m of its exemplars (Rebuffi
    et al. 2017, https://arxiv.org/abs/1611.07725, Algorithms 4 and 5).

    Args:
      pool: the images of the task, among them the memory.
      picks: int [K, M]; row k has pool rows of class n_old + k, in the order of selection.
      n_available: int [K], how many entries of each row are valid images.
      n_old, n_seen: int [], number of classes before this task, and including it.
      share: slots per class (default: all slots divided equally among the classes seen).
    """
    chex.assert_rank([picks, n_available], [2, 1])
    n_slots = pool.n_slots
    each: Array = jnp.asarray(n_slots // n_seen if share is None else share, jnp.int32)
    slot = jnp.arange(n_slots)
    owner, rank = slot // each.clip(1), slot % each.clip(1)
    return _filled(pool, picks, n_available, n_old, n_seen, each, owner, rank)


def class_balanced(
    pool: "Pool", picks: Array, n_available: Array, n_old: Array, n_seen: Array
) -> Slots:
    """Fills all slots and keeps the sizes of the classes as equal as the images allow.

    Unlike `equal_shares`, it gives the slots that small classes leave to the others, and those that
    can't be divided equally to the first classes. This is the memory of Prabhu et al. (2020)
    after all images of a task have been offered.

    Args:
      pool, picks, n_available, n_old, n_seen: see `equal_shares`.
    """
    n_slots = pool.n_slots
    classes = jnp.arange(n_slots)  # there are at most as many classes as slots
    new = jnp.minimum(n_available, picks.shape[1])[(classes - n_old).clip(0, len(picks) - 1)]
    offered = jnp.where(classes < n_old, _class_sizes(pool.memory_labels), new)
    offered = jnp.where(classes < n_seen, offered, 0)
    # The largest level to which all classes can be filled, by bisection.
    low, high = jnp.int32(0), jnp.int32(n_slots)
    for _ in range(n_slots.bit_length()):
        middle = (low + high + 1) // 2
        fits = jnp.minimum(offered, middle).sum() <= n_slots
        low, high = jnp.where(fits, middle, low), jnp.where(fits, high, middle - 1)
    has_more = offered > low
    sizes = jnp.minimum(offered, low)
    sizes += has_more & (jnp.cumsum(has_more) <= n_slots - sizes.sum())
    ends = jnp.cumsum(sizes)
    slot = jnp.arange(n_slots)
    owner = jnp.searchsorted(ends, slot, side="right").astype(jnp.int32)
    rank = slot - (ends - sizes)[owner.clip(max=n_slots - 1)]
    return _filled(pool, picks, n_available, n_old, n_seen, jnp.int32(n_slots), owner, rank)


def reservoir(pool: "Pool", n_offered: Array, key: Key) -> Slots:
    """Keeps a uniform sample of all images offered so far: reservoir sampling (Vitter 1985).

    The new images are offered one after another in random order. The first ones fill the slots; the
    n-th one, counted from 0, replaces a slot drawn from 0..n, or nothing if there is no such slot.

    Args:
      pool: the images of the task, among them the memory.
      n_offered: int [], number of images offered before this task: `Memory.n_offered`.
      key: a random key.
    """
    n_slots, n_new_rows = pool.n_slots, pool.n_new_rows
    order_key, slot_key = jax.random.split(key)
    labels = pool.labels[:n_new_rows]
    rows = _shuffled(order_key, labels >= 0)
    number = n_offered + jnp.arange(n_new_rows)
    drawn = (jax.random.uniform(slot_key, (n_new_rows,)) * (number + 1)).astype(jnp.int32)
    slot = jnp.where(number < n_slots, number, jnp.minimum(drawn, number))
    slot = jnp.where(labels[rows] >= 0, slot, n_slots)  # outside, and so dropped

    def offer(i: Array, source: Array) -> Array:
        return source.at[slot[i]].set(rows[i].astype(jnp.int32), mode="drop")

    source = n_new_rows + jnp.arange(n_slots, dtype=jnp.int32)
    source = lax.fori_loop(0, n_new_rows, offer, source)
    return Slots(source, pool.labels[source])


def _filled(
    pool: "Pool",
    picks: Array,
    n_available: Array,
    n_old: Array,
    n_seen: Array,
    share: Array,
    owner: Array,
    rank: Array,
) -> Slots:
    """Fills slots, given the class that owns each and its rank within the class.

    Args:
      pool, picks, n_available, n_old, n_seen: see `equal_shares`.
      share: the largest number of exemplars of a class.
      owner, rank: int [slots].
    """
    n_slots, labels = pool.n_slots, pool.memory_labels
    # The slots of old exemplars by class and, within a class, in the order of selection.
    in_order = jnp.argsort(jnp.where(labels >= 0, labels, n_slots), stable=True)
    sizes = _class_sizes(labels)
    owner_in_range = owner.clip(max=n_slots - 1)
    place = (jnp.cumsum(sizes) - sizes)[owner_in_range] + rank
    old_row = pool.n_new_rows + in_order[place.clip(max=n_slots - 1)]

    k = (owner - n_old).clip(0, len(picks) - 1)
    new_row = picks[k, rank.clip(max=picks.shape[1] - 1)]
    n_new = jnp.minimum(n_available[k], picks.shape[1])

    is_old = owner < n_old
    n_kept = jnp.minimum(jnp.where(is_old, sizes[owner_in_range], n_new), share)
    is_filled = (owner < n_seen) & (rank < n_kept)
    return Slots(
        source=jnp.where(is_old, old_row, new_row).astype(jnp.int32),
        labels=jnp.where(is_filled, owner, -1).astype(jnp.int32),
    )


def _class_sizes(labels: Array) -> Array:
    """Counts the slots of each class, int [slots]: there are at most as many classes as slots."""
    n_slots = labels.shape[0]
    return (
        jnp.zeros(n_slots, jnp.int32)
        .at[jnp.where(labels >= 0, labels, n_slots)]
        .add(1, mode="drop")
    )


def _shuffled(key: Key, is_image: Array) -> Array:
    """Returns all rows in random order, int [R]; rows without an image come last."""
    place = jax.random.uniform(key, is_image.shape)
    return jnp.argsort(jnp.where(is_image, place, 2.0))


class Pool(struct.PyTreeNode):
    """The images that a task trains on: first its new images, then the exemplars.

    Attributes:
      images: uint8 [R, H, W, C], or None if they stay on the host.
      labels: int32 [R]; -1 for a row without an image.
      active: bool [R], the rows that are trained on.
      extras: what the memory stores with its images; arrays [slots, ...].
      n_new_rows: static; rows below this hold new images, the others exemplars.
      task_room: static; the largest number of classes in a task.
      class_room: static; the largest number of images in a class.
    """

    images: Array | None
    labels: Array
    active: Array
    extras: Params
    n_new_rows: int = struct.field(pytree_node=False)
    task_room: int = struct.field(pytree_node=False)
    class_room: int = struct.field(pytree_node=False)

    @property
    def n_slots(self) -> int:
        """Number of slots of the memory."""
        return self.labels.shape[0] - self.n_new_rows

    @property
    def memory_labels(self) -> Array:
        """The labels of the memory's slots, int32 [slots]."""
        return self.labels[self.n_new_rows :]

    def count(self) -> Array:
        """Returns the number of images that are trained on."""
        return jnp.sum(self.active)

    def order(self, key: Key) -> Array:
        """Returns all rows in random order, int [R]; rows that are not trained on come last."""
        return _shuffled(key, self.active)

    def draws(
        self, key: Key, batch_size: int, n_beside: int, key_of: Callable[[Array], Key]
    ) -> Callable[[Array], "Drawn"]:
        """Returns a function from a step of the epoch to its images [batch_size + n_beside].

        Args:
          key: of the order of this epoch.
          batch_size: number of images drawn in that order.
          n_beside: number of exemplars drawn beside them, at random and with repetition.
          key_of: returns the key of a step, for these exemplars.
        """
        images, order, count = self.device_images(), self.order(key), self.count()

        def draw(step: Array) -> Drawn:
            rows = rows_of_step(order, count, step, batch_size)
            if n_beside:
                beside = self.sample_exemplars(key_of(step), n_beside)
                rows = jnp.concatenate([rows, beside])
            return self.complete(images[rows], rows)

        return draw

    def complete(self, images: Array, rows: Array) -> "Drawn":
        """Completes the images in the given rows by all that the pool knows of them.

        Args:
          images: uint8 [..., H, W, C].
          rows: int [...], where they are from.
        """
        slots = (rows - self.n_new_rows).clip(min=0)
        return Drawn(
            images=images,
            labels=self.labels[rows],
            extras=jax.tree.map(lambda x: x[slots], self.extras),
            from_memory=rows >= self.n_new_rows,
        )

    def sample_exemplars(self, key: Key, n: int) -> Array:
        """Draws n rows of the memory, with repetition; int [n]. The memory must not be empty."""
        is_filled = self.memory_labels >= 0
        filled = jnp.argsort(~is_filled, stable=True)
        number = jax.random.randint(key, (n,), 0, jnp.maximum(is_filled.sum(), 1))
        return self.n_new_rows + filled[number]

    def random_ranks(self, key: Key) -> Array:
        """Returns the place of each row among those of its class, in random order; int [R]."""
        order = jnp.lexsort((jax.random.uniform(key, self.labels.shape), self.labels))
        labels = self.labels[order]
        ranks = jnp.arange(len(labels)) - jnp.searchsorted(labels, labels)
        return jnp.zeros_like(ranks).at[order].set(ranks)

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


class Drawn(struct.PyTreeNode):
    """Images drawn from a pool, as they are stored.

    Attributes:
      images: uint8 [..., H, W, C].
      labels: int32 [...]; -1 for a row without an image.
      extras: of the exemplars among them; arrays [..., ...], undefined for new images.
      from_memory: bool [...], which of them are exemplars.
    """

    images: Array
    labels: Array
    extras: Params
    from_memory: Array


class Chunk(struct.PyTreeNode):
    """The batches of several consecutive steps, made from images that stay on the host.

    Attributes:
      drawn: the images [S, B] of S steps.
      first_step: int32 [], the step of the epoch that the first batch is for.
    """

    drawn: Drawn
    first_step: Array | np.int32

    def draws(self, *_: object) -> Callable[[Array], Drawn]:
        """Returns the same function as `Pool.draws`; the arguments are not used."""

        def draw(step: Array) -> Drawn:
            return jax.tree.map(lambda x: x[step - self.first_step], self.drawn)

        return draw


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
    all_labels = jnp.concatenate([labels, memory.labels])
    return Pool(
        images=None if images is None else jnp.concatenate([images, memory.images]),
        labels=all_labels,
        active=all_labels >= 0,
        extras=memory.extras,
        n_new_rows=labels.shape[0],
        task_room=task_room,
        class_room=class_room,
    )
