"""Builds the parts of a run from its settings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cil_jax import data, methods, models
from cil_jax.data import scenario as scenarios
from cil_jax.data.augment import Augmentation
from cil_jax.errors import UserError
from cil_jax.methods.plan import problem_of
from cil_jax.platform import environment
from cil_jax.schedules import SGD, Schedule
from cil_jax.settings import streams
from cil_jax.settings.config import Config
from cil_jax.training.engine import Engine


class Room(NamedTuple):
    """What the arrays of a learner have room for.

    Attributes:
      n_classes: number of classes.
      n_tasks: number of tasks.
      task_room: number of classes of the largest task.
    """

    n_classes: int
    n_tasks: int
    task_room: int


def room_of(task_sizes: Sequence[int]) -> Room:
    """Returns the room that tasks of these sizes need."""
    return Room(sum(task_sizes), len(task_sizes), max(task_sizes))


def data_seed(config: Config) -> int:
    """Returns the seed of shuffling, augmentation and random exemplars."""
    return config.seed if config.data_seed is None else config.data_seed


def schedule_of(config: Config, task: int) -> Schedule:
    """Returns the schedule of a task; settings named first_* apply to the first task only."""

    def setting(name: str) -> Any:
        first = getattr(config, f"first_{name}")
        return first if task == 0 and first is not None else getattr(config, name)

    return Schedule(
        epochs=setting("epochs"),
        rate=config.rate,
        drops=setting("rate_steps"),
        factor=config.rate_factor,
        weight_decay=setting("weight_decay"),
        shape=config.rate_shape,
    )


def dataset_of(config: Config) -> data.Dataset:
    """Loads the data set that a config names, and holds out images if it asks for that."""
    dataset = data.load(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        test_share=config.test_share,
        split_seed=config.split_seed,
    )
    return dataset if config.validation is None else dataset.validating(config.validation)


def scenario_of(config: Config, dataset: data.Dataset) -> data.Scenario:
    """Divides a data set into the tasks that a config describes."""
    return scenarios.create(
        dataset,
        order=config.order,
        order_seed=config.order_seed,
        task_size=config.task_size,
        first_task=config.first_task,
        classes=config.classes,
        tasks=config.tasks,
        stream=streams.parsed(config.scenario),
    )


def augmentation_of(config: Config, dataset: data.Dataset | None) -> Augmentation:
    """Returns the augmentation of training images.

    Args:
      config: the settings.
      dataset: gives the values that the config leaves to it; None if the config sets `pad` and
        `mirror` itself.

    Raises:
      UserError: if a value of the data set is needed and there is none.
    """
    pad, mirror = config.pad, config.mirror == "yes"
    if pad is None or config.mirror == "auto":
        if dataset is None:
            raise UserError(
                "the settings take pad or mirror from the data set, but no data set is given: set "
                "both"
            )
        pad = dataset.pad if pad is None else pad
        mirror = dataset.mirror if config.mirror == "auto" else mirror
    return Augmentation(
        pad=pad,
        mirror=mirror,
        padding=config.padding,
        brightness=config.brightness,
        policy=config.augmentation,
    )


def engine_of(
    config: Config, dataset: data.Dataset | None, room: Room, platform: str | None = None
) -> Engine:
    """Builds the engine: the method, its backbone and the update rule.

    Args:
      config: the settings.
      dataset: see `augmentation_of`.
      room: what the arrays of the learner have room for.
      platform: where its programs will run; "any" for all platforms (default: JAX's default
        backend).

    Raises:
      UserError: if an option of JAX would change the results, or the method or backbone can't be
        built.
    """
    environment.check_options()
    augmentation = augmentation_of(config, dataset)
    chosen = getattr(config, "mirror_means", "auto")  # a setting of methods with exemplars
    mirror_means = augmentation.mirror if chosen == "auto" else chosen == "yes"
    backbone = models.build(
        config.backbone,
        last_relu=config.last_relu,
        layers=models.layers_for(platform or jax.default_backend()),
        dtype=jnp.dtype(config.precision),
    )
    method = methods.build(config, backbone, mirror_means=mirror_means, **room._asdict())
    for is_first in (True, False):
        if problem := problem_of(method.plan(is_first)):
            raise UserError(f"the plan of {config.method} can't be followed: {problem}")
    return Engine(
        method=method,
        optimizer=SGD(config.momentum, config.decay),
        augmentation=augmentation,
        batch_size=config.batch_size,
        fast=config.fast,
    )
