"""Teaches new classes to a learner outside a run, as one more task.

As in a run, the learner is trained on the images of the new classes and on its exemplars.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.data.user_data import name_problems
from cil_jax.errors import UserError
from cil_jax.learner import Learner, root_keys, with_room
from cil_jax.memory import Pool
from cil_jax.methods import Method
from cil_jax.settings.config import Config
from cil_jax.training.build import schedule_of
from cil_jax.training.callbacks import Position
from cil_jax.training.engine import Engine


@dataclasses.dataclass(frozen=True)
class Lesson:
    """Images of new classes.

    Attributes:
      images: uint8 [N, H, W, C].
      labels: int [N], indices into `class_names`.
      class_names: the names of the new classes.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def checked_images(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Checks images, and adds the channel axis if it is missing.

    Args:
      images: uint8 [N, H, W, C], or [N, H, W] if they are grey.
      image_shape: (H, W, C) of the images that the learner takes.

    Returns:
      uint8 [N, H, W, C].

    Raises:
      UserError: if they have another type or shape.
    """
    images, (height, width, channels) = np.asarray(images), image_shape
    if images.dtype != np.uint8:
        raise UserError(f"the images are {images.dtype}; pixels must be uint8, 0..255")
    shape = images.shape
    if len(shape) == 3 and channels == 1:
        images = images[..., None]
    if images.shape[1:] != image_shape:
        colours = {1: "grey", 3: "in colour"}.get(channels, f"of {channels} channels")
        raise UserError(
            f"the images are an array {list(shape)}; this learner takes [N, {height}, {width}, "
            f"{channels}]: {width} x {height} pixels, {colours}"
        )
    return images


def checked(
    method: Method,
    known: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
) -> Lesson:
    """Checks that a learner can learn new classes.

    Args:
      method: the method of the learner.
      known: the names of the classes that the learner knows.
      images: the result of `checked_images`.
      labels: see `Lesson`.
      class_names: see `Lesson`.

    Raises:
      UserError: if the method, the labels or the names do not allow it; says why.
    """
    if method.keeps_all_data:
        raise UserError(
            "this learner's method trains on all images of all classes, so it can't learn from "
            "images of new classes alone: start a run with the images of all classes"
        )
    if isinstance(class_names, str):
        raise UserError(f"the class names are one string, {class_names!r}: give a list of names")
    labels, names = np.asarray(labels), tuple(class_names)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"the labels are {labels.dtype} {list(labels.shape)}; {len(images)} images need "
            f"integers [{len(images)}], one per image"
        )
    labels = labels.astype(np.int64)
    if not names or not len(images):
        raise UserError("there is nothing to learn: give images of at least one new class")
    if problems := name_problems(names):
        raise UserError(problems[0])
    for name in names:
        if name in known:
            raise UserError(f"class {name!r} is known already: only new classes can be learned")
    last = len(names) - 1
    if labels.min() < 0 or labels.max() > last:
        raise UserError(
            f"the labels lie in {labels.min()}..{labels.max()}; with {len(names)} new classes they "
            f"must lie in 0..{last}, indices into the list of names"
        )
    counts = np.bincount(labels, minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise UserError(f"class {name!r} has no image")
    n_seen, size = len(known) + len(names), method.memory_size
    if size is not None and size < n_seen:
        raise UserError(
            f"the memory holds {size} exemplars, too few for {n_seen} classes: use a learner from "
            "a run with a larger --memory"
        )
    return Lesson(images, labels, names)


def taught(
    engine: Engine,
    config: Config,
    learner: Learner,
    lesson: Lesson,
    *,
    epochs: int | None = None,
    seed: int | None = None,
    progress: Callable[[Position], None] | None = None,
) -> Learner:
    """Trains a learner on a lesson as its next task.

    If the arrays of the learner have too few rows for the new classes, their number is at least
    doubled.

    Args:
      engine: the compiled programs.
      config: the settings of training.
      learner: the learner, between two tasks.
      lesson: the new classes.
      epochs: passes over the lesson and the exemplars (default: as the config says).
      seed: seed of new weights, order, augmentation and random exemplars (default: continue the
        learner's own random keys).
      progress: called after each epoch with the position of training.

    Returns:
      The learner after the task.

    Raises:
      UserError: if `epochs` or `seed` is out of range, or the loss becomes infinite or NaN.
    """
    if seed is not None and not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
        raise UserError(f"seed is {seed!r}; it must be an integer in 0..{2**32 - 1}")
    n_old, room = int(learner.n_seen), learner.means.shape[0]
    n_seen = n_old + len(lesson.class_names)
    if n_seen > room:
        learner = with_room(learner, max(n_seen, 2 * room))
    if seed is not None:
        init_key, data_key = root_keys(seed, seed)
        learner = learner.replace(init_key=init_key, data_key=data_key)
    schedule = schedule_of(config, int(learner.task))
    if epochs is not None:
        if epochs < 1:
            raise UserError(f"epochs is {epochs}; it must be at least 1")
        schedule = dataclasses.replace(schedule, epochs=epochs)

    learner = engine.begin_task(learner, jnp.int32(n_seen - n_old))
    pool = engine.pool(
        learner,
        lesson.images,
        (n_old + lesson.labels).astype(np.int32),
        task_room=n_seen - n_old,
        class_room=int(np.bincount(lesson.labels).max()),
    )
    n_steps = engine.n_steps(int(pool.count()))
    for epoch in range(schedule.epochs):
        rate = schedule.rate_at(epoch)
        learner, position = _trained_epoch(
            engine, learner, pool, rate, schedule.weight_decay, n_steps
        )
        if progress:
            progress(position)
    return jax.block_until_ready(engine.end_task(learner, pool))


def _trained_epoch(
    engine: Engine, learner: Learner, pool: Pool, rate: float, weight_decay: float, n_steps: int
) -> tuple[Learner, Position]:
    """Trains one pass over the pool; returns the learner and the position of training."""
    task, epoch, start = int(learner.task), int(learner.epoch), time.perf_counter()
    learner, sums = engine.train(
        learner,
        pool,
        engine.no_sums(),
        jnp.float32(rate),
        jnp.float32(weight_decay),
        jnp.int32(n_steps),
    )
    loss, *parts = (float(sums[name]) / n_steps for name in ("loss", *engine.method.parts))
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is no longer finite in epoch {epoch + 1}, at learning rate {rate:g}; the "
            "learner is unchanged"
        )
    speed = n_steps * engine.batch_size / (time.perf_counter() - start)
    learner = learner.replace(epoch=jnp.int32(epoch + 1), step=jnp.int32(0))
    return learner, Position(
        *(task, epoch, n_steps, n_steps, loss, speed, rate),
        parts=dict(zip(engine.method.parts, parts, strict=True)),
    )
