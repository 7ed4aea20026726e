"""The learner: the state of a run as one tree of arrays, and the forward pass of its network.

The tree keeps its structure and shapes from before the first task until after the last.
"""

import enum
import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from cil_jax import heads
from cil_jax import memory as memory_lib
from cil_jax.errors import UserError
from cil_jax.platform.devices import replicate, shard_batch
from cil_jax.typing import Array, Backbone, ImageShape, Key, Params

# Values of `Learner.task_of` for a class that no task has brought: one that the scenario still
# brings, and spare room beyond the scenario's classes.
TO_COME, SPARE = -1, -2


class Purpose(enum.IntEnum):
    """What a random key is for; with the task, epoch and step it determines the key."""

    BACKBONE = 0
    HEAD = 1
    SHUFFLE = 2
    AUGMENT = 3
    SELECT = 4


class Weights(struct.PyTreeNode):
    """The arrays that a network computes with.

    Attributes:
      params: {"backbone": ..., "head": {"kernel" [D, room], "bias" [room]}}.
      batch_stats: running statistics of the backbone's normalisation layers.
    """

    params: Params
    batch_stats: Params


class Normalizer(struct.PyTreeNode):
    """Maps pixels 0..255 to network inputs: (pixels / 255 - mean) / std.

    Attributes:
      mean, std: float32 [H, W, C] or [1, 1, C].
    """

    mean: Array
    std: Array

    def __call__(self, images: Array) -> Array:
        """Normalises images uint8 [B, H, W, C] to float32."""
        return (images.astype(jnp.float32) / 255.0 - self.mean) / self.std


class Learner(struct.PyTreeNode):
    """Everything that a resumed run needs.

    Attributes:
      weights: of the network in training.
      teacher: the weights at the end of the previous task.
      momentum: optimizer state, reset at the start of each task.
      memory: the exemplars.
      means: float32 [room, D], unit-length class means of the exemplars; zero for a class without.
      normalizer: maps pixels to network inputs.
      task, epoch, step: int32 [], number of tasks learned, of epochs done in this task, and of
        updates done in this epoch.
      n_old, n_seen: int32 [], number of classes before this task, and including it.
      task_of: int32 [room], the task that brought each class; TO_COME or SPARE if none has.
      init_key, data_key: root keys, of initial weights and of all other random choices.
    """

    weights: Weights
    teacher: Weights
    momentum: optax.OptState
    memory: memory_lib.Memory
    means: Array
    normalizer: Normalizer
    task: Array
    epoch: Array
    step: Array
    n_old: Array
    n_seen: Array
    task_of: Array
    init_key: Key
    data_key: Key

    @property
    def image_shape(self) -> ImageShape:
        """(H, W, C) of the images it takes."""
        _, height, width, channels = self.memory.images.shape
        return height, width, channels

    def key(self, purpose: Purpose, step: int | Array = 0) -> Key:
        """Returns the random key for a purpose and a step of the current task and epoch."""
        is_init = purpose in (Purpose.BACKBONE, Purpose.HEAD)
        root = self.init_key if is_init else self.data_key
        return derive_key(root, purpose, self.task, self.epoch, step)


def derive_key(
    root: Key, purpose: Purpose, task: int | Array, epoch: int | Array, step: int | Array
) -> Key:
    """Derives the random key for a purpose, task, epoch and step from a root key."""
    key = root
    for number in (purpose, task, epoch, step):
        key = jax.random.fold_in(key, number)
    return key


def n_bytes(learner: Learner) -> dict[str, int]:
    """Measures what the learner stores.

    Returns:
      Bytes of "parameters" and "teacher", both with batch statistics and closed head columns, and
      of the "exemplars" kept; empty slots do not count.
    """
    networks = {"parameters": learner.weights, "teacher": learner.teacher}
    n_exemplars = int(learner.memory.counts.sum())
    return {
        **{name: sum(x.nbytes for x in jax.tree.leaves(w)) for name, w in networks.items()},
        "exemplars": n_exemplars * math.prod(learner.image_shape),
    }


def root_keys(seed: int, data_seed: int) -> tuple[Key, Key]:
    """Makes the init_key and data_key of a learner; they differ even if the seeds are equal."""
    return (
        jax.random.fold_in(jax.random.key(seed), 0),
        jax.random.fold_in(jax.random.key(data_seed), 1),
    )


def with_room(learner: Learner, n_classes: int) -> Learner:
    """Enlarges the learner's room to n_classes; its predictions and training stay the same.

    With fixed outputs, the added columns are closed until their classes arrive, unlike those of the
    original room.
    """
    n_added = n_classes - learner.means.shape[0]

    def widen(path: tuple[Any, ...], array: Array) -> Array:
        if not any(getattr(key, "key", None) == "head" for key in path):
            return array
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, n_added)])

    narrow = (learner.weights, learner.teacher, learner.momentum)
    weights, teacher, momentum = jax.tree_util.tree_map_with_path(widen, narrow)
    memory = learner.memory.replace(counts=jnp.pad(learner.memory.counts, (0, n_added)))
    return learner.replace(
        weights=weights,
        teacher=teacher,
        momentum=momentum,
        memory=memory,
        means=jnp.pad(learner.means, ((0, n_added), (0, 0))),
        task_of=jnp.pad(learner.task_of, (0, n_added), constant_values=SPARE),
    )


def with_whole_tasks(learner: Learner) -> Learner:
    """Returns the learner as it was at the end of its last finished task.

    If a further task is in progress, the teacher holds the network of that time, and memory and
    means have not changed since.
    """
    is_known = (learner.task_of >= 0) & (learner.task_of < learner.task)
    is_newest = is_known & (learner.task_of == learner.task - 1)
    n_seen = is_known.sum().astype(jnp.int32)
    if bool(n_seen == learner.n_seen):
        return learner
    zero = jnp.int32(0)
    return learner.replace(
        weights=learner.teacher,
        epoch=zero,
        step=zero,
        n_old=n_seen - is_newest.sum().astype(jnp.int32),
        n_seen=n_seen,
        task_of=jnp.where(is_known | (learner.task_of < 0), learner.task_of, TO_COME),
    )


class Output(struct.PyTreeNode):
    """The output of a network for a batch.

    Attributes:
      features: float [B, D].
      logits: float [B, room]; closed columns are `heads.CLOSED`.
      batch_stats: the running statistics after this batch.
    """

    features: Array
    logits: Array
    batch_stats: Params


def forward(
    backbone: Backbone,
    weights: Weights,
    images: Array,
    n_open: int | Array,
    *,
    train: bool = False,
) -> Output:
    """Applies the network to normalised images [B, H, W, C].

    Args:
      backbone: the module that computes features.
      weights: its parameters and the head's.
      images: normalised images.
      n_open: number of open head columns.
      train: whether to normalise with batch statistics and to update the running ones.
    """
    variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
    if train:
        features, updated = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
        batch_stats = updated["batch_stats"]
    else:
        features, batch_stats = backbone.apply(variables, images, train=False), weights.batch_stats
    logits = heads.logits(weights.params["head"], features, n_open)
    return Output(features, logits, batch_stats)


def embed(
    backbone: Backbone,
    learner: Learner,
    images: Array,
    *,
    mirrored: bool = False,
    batch_size: int = 500,
) -> Array:
    """Computes features [N, D] of pixels uint8 [N, H, W, C].

    The network is in evaluation mode and the images are not augmented. All batches have the same
    size; the last one overlaps the one before it. With `mirrored`, images are first flipped from
    left to right.
    """
    n = images.shape[0]
    batch_size = min(batch_size, n)
    n_batches = -(-n // batch_size)

    def add_batch(i: Array, features: Array) -> Array:
        start = jnp.minimum(i * batch_size, n - batch_size)
        batch = shard_batch(lax.dynamic_slice_in_dim(images, start, batch_size))
        batch = learner.normalizer(batch[:, :, ::-1] if mirrored else batch)
        new = forward(backbone, learner.weights, batch, learner.n_seen).features
        return lax.dynamic_update_slice_in_dim(features, new, start, 0)

    zeros = jnp.zeros((n, learner.means.shape[1]))
    return replicate(lax.fori_loop(0, n_batches, add_batch, zeros))


def views(backbone: Backbone, learner: Learner, images: Array, mirrored: bool) -> list[Array]:
    """Computes features [N, D] of images and, if `mirrored`, also of their mirror images.

    See `embed`.
    """
    sides = (False, True) if mirrored else (False,)
    return [embed(backbone, learner, images, mirrored=side) for side in sides]


def initial_weights(
    backbone: Backbone, image_shape: ImageShape, n_classes: int, key: Key
) -> Weights:
    """Initialises a network; its head has room for n_classes and no open column."""
    variables = backbone.init(key, jnp.zeros((1, *image_shape)), train=False)
    head = heads.create(n_features(backbone, image_shape), n_classes)
    return Weights(
        {"backbone": variables["params"], "head": head}, variables.get("batch_stats", {})
    )


def n_features(backbone: Backbone, image_shape: ImageShape) -> int:
    """Returns the number of features that a backbone computes of an image.

    Raises:
      UserError: if it has no attribute `n_features` and its output is not an array [B, n_features].
    """
    if hasattr(backbone, "n_features"):  # nothing is traced
        return backbone.n_features
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    features, _ = jax.eval_shape(
        partial(backbone.init_with_output, train=False), jax.random.key(0), images
    )
    if not isinstance(features, jax.ShapeDtypeStruct) or len(features.shape) != 2:
        raise UserError(f"{type(backbone).__name__} must return one array [B, n_features]")
    return features.shape[1]


def create(
    backbone: Backbone,
    *,
    image_shape: ImageShape,
    n_classes: int,
    memory_size: int,
    normalizer: Normalizer,
    optimizer: optax.GradientTransformation,
    init_key: Key,
    data_key: Key,
) -> Learner:
    """Creates a learner that has seen no class.

    Args:
      backbone: a Linen module that maps images to features.
      image_shape: (H, W, C).
      n_classes: room of the head.
      memory_size: number of exemplars over all classes; 0 for none.
      normalizer: maps pixels to network inputs.
      optimizer: the optax transformation whose state the learner holds.
      init_key, data_key: root keys.
    """
    chex.assert_rank(normalizer.mean, 3)
    zero = jnp.int32(0)
    key = derive_key(init_key, Purpose.BACKBONE, task=0, epoch=0, step=0)
    weights = initial_weights(backbone, image_shape, n_classes, key)
    return Learner(
        weights=weights,
        teacher=weights,
        momentum=optimizer.init(weights.params),
        memory=memory_lib.create(memory_size, image_shape, n_classes),
        means=jnp.zeros((n_classes, n_features(backbone, image_shape))),
        normalizer=normalizer,
        task=zero,
        epoch=zero,
        step=zero,
        n_old=zero,
        n_seen=zero,
        task_of=jnp.full(n_classes, TO_COME, jnp.int32),
        init_key=init_key,
        data_key=data_key,
    )
