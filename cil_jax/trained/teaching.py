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
from cil_jax.learner import Learner, root_keys
from cil_jax.memory import Pool
from cil_jax.methods import Method
from cil_jax.methods.plan import Do, Fold, Keep, Step, Train
from cil_jax.schedules import Schedule
from cil_jax.settings.config import Config
from cil_jax.training.build import Room, schedule_of
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


def room_for(room: Room, learner: Learner, n_new: int) -> Room:
    """Returns the room that a learner needs for one more task of n_new classes.

    A room that is too small is at least doubled, so that few tasks need programs compiled anew.
    """
    n_seen, n_tasks = int(learner.n_seen) + n_new, int(learner.task) + 1
    return Room(
        n_classes=room.n_classes if n_seen <= room.n_classes else max(n_seen, 2 * room.n_classes),
        n_tasks=room.n_tasks if n_tasks <= room.n_tasks else 2 * n_tasks,
        task_room=max(room.task_room, n_new),
    )


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
    """Takes a learner through the method's plan for one more task.

    Args:
      engine: the compiled programs.
      config: the settings of training.
      learner: the learner, between two tasks, with room for this one: see `room_for`.
      lesson: the new classes.
      epochs: passes over the lesson and the exemplars (default: as the config says). A training
        whose schedule the method itself sets is not affected.
      seed: seed of new weights, order, augmentation and random exemplars (default: continue the
        learner's own random keys).
      progress: called after each epoch with the position of training.

    Returns:
      The learner after the task.

    Raises:
      ValueError: if the learner has no room for the task, whose arrays would be lost.
      UserError: if `epochs` or `seed` is out of range, or the loss becomes infinite or NaN.
    """
    if seed is not None and not (isinstance(seed, int | np.integer) and 0 <= seed < 2**32):
        raise UserError(f"seed is {seed!r}; it must be an integer in 0..{2**32 - 1}")
    room = Room(engine.method.n_classes, engine.method.n_tasks, engine.method.task_room)
    if room_for(room, learner, len(lesson.class_names)) != room:
        raise ValueError(f"the learner has {room}, too little for this task: see room_for")
    if seed is not None:
        init_key, data_key = root_keys(seed, seed)
        learner = learner.replace(init_key=init_key, data_key=data_key)
    task = int(learner.task)
    schedule = schedule_of(config, task)
    if epochs is not None:
        if epochs < 1:
            raise UserError(f"epochs is {epochs}; it must be at least 1")
        schedule = dataclasses.replace(schedule, epochs=epochs)

    n_old, n_new = int(learner.n_seen), len(lesson.class_names)
    learner = engine.begin_task(learner, jnp.int32(n_new))
    pool = engine.pool(
        learner,
        lesson.images,
        (n_old + lesson.labels).astype(np.int32),
        task_room=n_new,
        class_room=int(np.bincount(lesson.labels).max()),
    )
    for number, step in enumerate(engine.method.plan(is_first=task == 0)):
        if number:
            learner = engine.advance(learner, starts_training=isinstance(step, Train))
        learner = _after_step(engine, learner, pool, step, schedule, progress)
    return jax.block_until_ready(engine.end_task(learner))


def _after_step(
    engine: Engine,
    learner: Learner,
    pool: Pool,
    step: Step,
    schedule: Schedule,
    progress: Callable[[Position], None] | None,
) -> Learner:
    """Takes a step of a plan; returns the learner after it.

    Args:
      engine, learner, progress: see `taught`.
      pool: the images of the task.
      step: the step.
      schedule: of a training that does not set its own.
    """
    kind = engine.kind(step)
    if isinstance(step, Keep):
        return engine.keep(learner, pool)
    if isinstance(step, Do):
        return engine.do(learner, kind=kind)
    pool = engine.restrict(learner, pool, kind=kind)
    if isinstance(step, Fold):
        return engine.fold(learner, pool, kind=kind)
    schedule = step.schedule or schedule
    n_steps = engine.n_steps(int(pool.count()))
    for epoch in range(schedule.epochs):
        rate = schedule.rate_at(epoch)
        learner, position = _trained_epoch(
            engine, kind, learner, pool, rate, schedule.weight_decay, n_steps
        )
        if progress:
            progress(dataclasses.replace(position, training=step.name))
    return learner


def _trained_epoch(
    engine: Engine,
    kind: int,
    learner: Learner,
    pool: Pool,
    rate: float,
    weight_decay: float,
    n_steps: int,
) -> tuple[Learner, Position]:
    """Trains one pass over the pool; returns the learner and the position of training."""
    task, epoch, start = int(learner.task), int(learner.epoch), time.perf_counter()
    learner, sums = engine.train(
        learner,
        pool,
        engine.no_sums(kind),
        jnp.float32(rate),
        jnp.float32(weight_decay),
        jnp.int32(n_steps),
        kind=kind,
    )
    names = engine.parts(kind)
    loss, *parts = (float(sums[name]) / n_steps for name in ("loss", *names))
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is no longer finite in epoch {epoch + 1}, at learning rate {rate:g}; the "
            "learner is unchanged"
        )
    speed = n_steps * engine.batch_size / (time.perf_counter() - start)
    learner = learner.replace(epoch=jnp.int32(epoch + 1), step=jnp.int32(0))
    return learner, Position(
        *(task, epoch, n_steps, n_steps, loss, speed, rate),
        parts=dict(zip(names, parts, strict=True)),
    )
