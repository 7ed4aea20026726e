"""The learner: the state of a run as one tree of arrays, and the features that it computes.

The tree keeps its structure and shapes from before the first task until after the last.
"""

import enum
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from cil_jax import memory as memory_lib
from cil_jax.network import Network, Weights
from cil_jax.platform.devices import replicate, shard_batch
from cil_jax.typing import Array, ImageShape, Key, Params

# Values of `Learner.task_of` for a class that no task has brought: one that the scenario still
# brings, and spare room beyond the scenario's classes.
TO_COME, SPARE = -1, -2


class Purpose(enum.IntEnum):
    """What a random key is for; with the position in the run it determines the key."""

    BACKBONE = 0
    HEAD = 1
    SHUFFLE = 2
    AUGMENT = 3
    SELECT = 4
    ROWS = 5
    BESIDE = 6
    CHANGE = 7


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
      own: what the method itself keeps, see `Method.own`.
      teacher: the weights at the end of the previous task.
      teacher_own: what the method itself kept at the end of the previous task.
      momentum: optimizer state, reset at the start of each step of training.
      memory: the exemplars.
      means: float32 [room, D], unit-length class means of the exemplars; zero for a class without.
      normalizer: maps pixels to network inputs.
      task, place, epoch, step: int32 [], number of tasks learned, of steps of the plan done in this
        task, of epochs done in this step of the plan, and of updates done in this epoch.
      n_old, n_seen: int32 [], number of classes before this task, and including it.
      task_of: int32 [room], the task that brought each class; TO_COME or SPARE if none has.
      init_key, data_key: root keys, of initial weights and of all other random choices.
    """

    weights: Weights
    own: Params
    teacher: Weights
    teacher_own: Params
    momentum: optax.OptState
    memory: memory_lib.Memory
    means: Array
    normalizer: Normalizer
    task: Array
    place: Array
    epoch: Array
    step: Array
    n_old: Array
    n_seen: Array
    task_of: Array
    init_key: Key
    data_key: Key

    def __repr__(self) -> str:
        """Sizes only, as arrays may be those of a program in compilation."""
        n_weights = sum(x.size for x in jax.tree.leaves(self.weights.params))
        return f"Learner({n_weights:,} parameters, room for {len(self.task_of)} classes)"

    @property
    def image_shape(self) -> ImageShape:
        """(H, W, C) of the images it takes."""
        _, height, width, channels = self.memory.images.shape
        return height, width, channels

    def key(self, purpose: Purpose, step: int | Array = 0) -> Key:
        """Returns the random key for a purpose and a step of the current epoch.

        In a later training of a task, such as a second one on balanced data, batches and
        augmentation differ from those of the first, so their keys also depend on the place in the
        plan.
        """
        is_init = purpose in (Purpose.BACKBONE, Purpose.HEAD)
        root = self.init_key if is_init else self.data_key
        key = derive_key(root, purpose, self.task, self.epoch, step)
        if purpose in (Purpose.SHUFFLE, Purpose.AUGMENT, Purpose.BESIDE):
            key = jnp.where(self.place > 0, jax.random.fold_in(key, self.place), key)
        return key

    def task_key(self, purpose: Purpose) -> Key:
        """Returns the random key for a purpose that is the same throughout a task."""
        return derive_key(self.data_key, purpose, self.task, 0, 0)


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
      Bytes of "parameters" and "teacher", both with batch statistics and closed head columns; of
      the "exemplars" kept with all that is stored beside them, where empty slots do not count; and
      of the method's "own" arrays, if it has any.
    """
    trees = {"parameters": learner.weights, "teacher": learner.teacher, "own": learner.own}
    sizes = {name: n_bytes_of(tree) for name, tree in trees.items()}
    n_exemplars = int((learner.memory.labels >= 0).sum())
    if not sizes["own"]:
        del sizes["own"]
    return {**sizes, "exemplars": n_exemplars * bytes_per_exemplar(learner)}


def bytes_per_exemplar(learner: Learner) -> int:
    """Returns the bytes of an exemplar: those of its pixels and of what is stored with it."""
    memory = learner.memory
    return math.prod(learner.image_shape) + n_bytes_of(memory.extras) // len(memory.labels)


def n_bytes_of(tree: Any) -> int:
    """Measures a tree of arrays, or of their shapes and types, in bytes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def schema(learner: Learner) -> dict[str, str]:
    """Returns the type and shape of each array, such as 'float32[64,100]', by its path.

    Checkpoints compare it before arrays are read, since Orbax casts an array of another type
    silently.
    """
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {jax.tree_util.keystr(path): form_of(leaf) for path, leaf in leaves}


def form_of(array: Any) -> str:
    """Returns the type and shape of an array, such as 'float32[64,100]'."""
    return f"{array.dtype}{list(array.shape)}".replace(" ", "")


def root_keys(seed: int, data_seed: int) -> tuple[Key, Key]:
    """Makes the init_key and data_key of a learner; they differ even if the seeds are equal."""
    return (
        jax.random.fold_in(jax.random.key(seed), 0),
        jax.random.fold_in(jax.random.key(data_seed), 1),
    )


def widened(learner: Learner, wider: Learner) -> Learner:
    """Moves a learner into a new one that has room for more classes or tasks.

    Its predictions and training stay the same. With fixed outputs, the added columns are closed
    until their classes arrive, unlike those of the original room.

    Args:
      learner: the learner.
      wider: a new learner of the same method whose arrays are at least as large along each axis;
        the old arrays are written into their first corner.
    """

    def place_in_corner(old: Array, new: Array) -> Array:
        if old.shape == new.shape:
            return old
        return new.at[tuple(slice(0, n) for n in old.shape)].set(old)

    n_classes = learner.task_of.shape[0]
    is_added = jnp.arange(wider.task_of.shape[0]) >= n_classes
    task_of = jnp.where(is_added, SPARE, wider.task_of)
    return jax.tree.map(place_in_corner, learner, wider.replace(task_of=task_of))


def with_whole_tasks(learner: Learner) -> Learner:
    """Returns the learner as it was at the end of its last finished task.

    If a further task is in progress, the teacher is the network of that time, and memory and means
    have not changed since, as exemplars are chosen in the last step of a plan.
    """
    is_known = (learner.task_of >= 0) & (learner.task_of < learner.task)
    is_newest = is_known & (learner.task_of == learner.task - 1)
    n_seen = is_known.sum().astype(jnp.int32)
    if bool(n_seen == learner.n_seen):
        return learner
    zero = jnp.int32(0)
    return learner.replace(
        weights=learner.teacher,
        own=learner.teacher_own,
        place=zero,
        epoch=zero,
        step=zero,
        n_old=n_seen - is_newest.sum().astype(jnp.int32),
        n_seen=n_seen,
        task_of=jnp.where(is_known | (learner.task_of < 0), learner.task_of, TO_COME),
    )


def embed(
    network: Network,
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
        new = network(learner.weights, batch, learner.n_seen).features
        return lax.dynamic_update_slice_in_dim(features, new, start, 0)

    zeros = jnp.zeros((n, learner.means.shape[1]))
    return replicate(lax.fori_loop(0, n_batches, add_batch, zeros))


def views(network: Network, learner: Learner, images: Array, mirrored: bool) -> list[Array]:
    """Computes features [N, D] of images and, if `mirrored`, also of their mirror images.

    See `embed`.
    """
    sides = (False, True) if mirrored else (False,)
    return [embed(network, learner, images, mirrored=side) for side in sides]


def create(
    weights: Weights,
    *,
    image_shape: ImageShape,
    n_features: int,
    n_classes: int,
    memory_size: int,
    normalizer: Normalizer,
    optimizer: optax.GradientTransformation,
    init_key: Key,
    data_key: Key,
) -> Learner:
    """Creates a learner that has seen no class, has no exemplars' extras and no `own` arrays.

    Args:
      weights: of a network with no open column.
      image_shape: (H, W, C).
      n_features: number of features per image.
      n_classes: room of the head.
      memory_size: number of exemplars over all classes; 0 for none.
      normalizer: maps pixels to network inputs.
      optimizer: the optax transformation whose state the learner holds.
      init_key, data_key: root keys.
    """
    chex.assert_rank(normalizer.mean, 3)
    zero = jnp.int32(0)
    return Learner(
        weights=weights,
        own={},
        teacher=weights,
        teacher_own={},
        momentum=optimizer.init(weights.params),
        memory=memory_lib.create(memory_size, image_shape),
        means=jnp.zeros((n_classes, n_features)),
        normalizer=normalizer,
        task=zero,
        place=zero,
        epoch=zero,
        step=zero,
        n_old=zero,
        n_seen=zero,
        task_of=jnp.full(n_classes, TO_COME, jnp.int32),
        init_key=init_key,
        data_key=data_key,
    )
