"""The learner: the whole state of a run as one tree of arrays, and the network that it drives.

Its structure and shapes are the same before the first task and after the last.
"""

import enum
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from cil_jax import heads
from cil_jax import memory as memory_lib
from cil_jax.devices import spread, whole
from cil_jax.typing import Array, Key, Params

TO_COME, SPARE = -1, -2  # in task_of: of a class that no task has brought


class Purpose(enum.IntEnum):
    """What a random key is for. Keys are addressed by this, task, epoch and step."""

    BACKBONE = 0
    HEAD = 1
    SHUFFLE = 2
    AUGMENT = 3
    SELECT = 4


@struct.dataclass
class Weights:
    """What a network computes with.

    Attributes:
      params: {"backbone": ..., "head": {"kernel" [D, room], "bias" [room]}}.
      batch_stats: running statistics of the backbone's normalisation.
    """

    params: Params
    batch_stats: Params


@struct.dataclass
class Normalizer:
    """Pixels 0..255 to what the network sees: (pixels / 255 - mean) / std.

    Attributes:
      mean, std: float32 [H, W, C] or [1, 1, C].
    """

    mean: Array
    std: Array

    def __call__(self, images: Array) -> Array:
        """float32 [B, H, W, C] of uint8 images."""
        return (images.astype(jnp.float32) / 255.0 - self.mean) / self.std


@struct.dataclass
class Learner:
    """All that a resumed run needs.

    Attributes:
      weights: of the network that learns.
      teacher: of the network as it was before this task.
      momentum: state of the optimizer, reset for every task.
      memory: the exemplars.
      means: float32 [room, D], unit-length class means of exemplars; zero where there are none.
      normalizer: how pixels are normalised.
      task, epoch, step: int32 [], tasks learned, epochs done of the task, updates of the epoch.
      n_old, n_seen: int32 [], classes before this task, and with it.
      task_of: int32 [room], the task that brought a class; TO_COME for one that is expected, SPARE
        for room beyond these.
      init_key, data_key: root keys of initial weights, and of all else that is random.
    """

    weights: Weights
    teacher: Weights
    momentum: Any
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
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images it takes."""
        return self.memory.images.shape[1:]

    def key(self, purpose: Purpose, step: int | Array = 0) -> Key:
        """The random key of this task, this epoch, a step and a purpose."""
        is_init = purpose in (Purpose.BACKBONE, Purpose.HEAD)
        key = self.init_key if is_init else self.data_key
        for number in (purpose, self.task, self.epoch, step):
            key = jax.random.fold_in(key, number)
        return key


def n_bytes(learner: Learner) -> dict[str, int]:
    """The learner's own size.

    Returns:
      Bytes of "parameters" and "teacher", each with statistics and closed columns, as they are
      held; and of "exemplars", those kept.
    """
    held = {"parameters": learner.weights, "teacher": learner.teacher}
    n_kept = int(learner.memory.counts.sum())
    return {
        **{name: sum(x.nbytes for x in jax.tree.leaves(w)) for name, w in held.items()},
        "exemplars": n_kept * math.prod(learner.image_shape),
    }


def root_keys(seed: int, data_seed: int) -> tuple[Key, Key]:
    """init_key and data_key of a learner: two roots, also where the seeds are equal."""
    return (
        jax.random.fold_in(jax.random.key(seed), 0),
        jax.random.fold_in(jax.random.key(data_seed), 1),
    )


def with_room(learner: Learner, n_classes: int) -> Learner:
    """The same learner with room for n_classes, more than it has: it says and learns the same.

    Where all outputs are open from the start, those of the new room are not: they open with their
    classes.
    """
    more = n_classes - learner.means.shape[0]

    def wider(path, array):
        of_head = any(getattr(key, "key", None) == "head" for key in path)
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]) if of_head else array

    nets = (learner.weights, learner.teacher, learner.momentum)
    weights, teacher, momentum = jax.tree_util.tree_map_with_path(wider, nets)
    memory = learner.memory.replace(counts=jnp.pad(learner.memory.counts, (0, more)))
    return learner.replace(
        weights=weights,
        teacher=teacher,
        momentum=momentum,
        memory=memory,
        means=jnp.pad(learner.means, ((0, more), (0, 0))),
        task_of=jnp.pad(learner.task_of, (0, more), constant_values=SPARE),
    )


def with_whole_tasks(learner: Learner) -> Learner:
    """The learner as it was when its last task was learned, whatever it has begun since.

    The teacher is the network of that time; memory and means change at a task's end only.
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


@struct.dataclass
class Output:
    """What a network says of a batch.

    Attributes:
      features: float [B, D].
      logits: float [B, room], CLOSED where a column is not open.
      batch_stats: the running statistics after this batch.
    """

    features: Array
    logits: Array
    batch_stats: Params


def forward(
    backbone: nn.Module,
    weights: Weights,
    images: Array,
    n_open: int | Array,
    *,
    train: bool = False,
) -> Output:
    """The network on normalised images [B, H, W, C], with so many head columns open."""
    variables = {"params": weights.params["backbone"], "batch_stats": weights.batch_stats}
    if train:
        features, moved = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
        batch_stats = moved["batch_stats"]
    else:
        features, batch_stats = backbone.apply(variables, images, train=False), weights.batch_stats
    logits = heads.logits(weights.params["head"], features, n_open)
    return Output(features, logits, batch_stats)


def embed(
    backbone: nn.Module,
    learner: Learner,
    images: Array,
    *,
    mirrored: bool = False,
    batch_size: int = 500,
) -> Array:
    """Features [N, D] of pixels uint8 [N, H, W, C], in evaluation mode and without augmentation.

    Batches of one shape; the last one overlaps the one before it. `mirrored` turns each image
    left for right.
    """
    n = images.shape[0]
    batch_size = min(batch_size, n)
    n_batches = -(-n // batch_size)

    def add(i, features):
        start = jnp.minimum(i * batch_size, n - batch_size)
        batch = spread(lax.dynamic_slice_in_dim(images, start, batch_size))
        batch = learner.normalizer(batch[:, :, ::-1] if mirrored else batch)
        new = forward(backbone, learner.weights, batch, learner.n_seen).features
        return lax.dynamic_update_slice_in_dim(features, new, start, 0)

    return whole(lax.fori_loop(0, n_batches, add, jnp.zeros((n, learner.means.shape[1]))))


def views(backbone: nn.Module, learner: Learner, images: Array, mirrored: bool) -> list[Array]:
    """Features [N, D] of pixels, as `embed` gives them, and where asked of their mirror images."""
    sides = (False, True) if mirrored else (False,)
    return [embed(backbone, learner, images, mirrored=side) for side in sides]


def initial_weights(
    backbone: nn.Module, image_shape: tuple[int, int, int], n_classes: int, key: Key
) -> Weights:
    """A fresh network for images (H, W, C), whose head has room for n_classes and none open."""
    variables = backbone.init(key, jnp.zeros((1, *image_shape)))
    head = heads.create(backbone.n_features, n_classes)
    return Weights({"backbone": variables["params"], "head": head}, variables["batch_stats"])


def create(
    backbone: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    memory_size: int,
    normalizer: Normalizer,
    optimizer: Any,
    init_key: Key,
    data_key: Key,
) -> Learner:
    """A learner that knows nothing yet, with room for n_classes.

    Args:
      backbone: a Linen module that maps images to features.
      image_shape: (H, W, C).
      n_classes: room of the head.
      memory_size: exemplars in all, 0 for none.
      normalizer: how pixels are normalised.
      optimizer: the optax transformation whose state is kept.
      init_key, data_key: root keys.
    """
    chex.assert_rank(normalizer.mean, 3)
    zero = jnp.int32(0)
    # The same address as Learner.key(BACKBONE) before the first task.
    key = init_key
    for number in (Purpose.BACKBONE, 0, 0, 0):
        key = jax.random.fold_in(key, number)
    weights = initial_weights(backbone, image_shape, n_classes, key)
    return Learner(
        weights=weights,
        teacher=weights,
        momentum=optimizer.init(weights.params),
        memory=memory_lib.create(memory_size, image_shape, n_classes),
        means=jnp.zeros((n_classes, backbone.n_features)),
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
