"""From settings to the parts of a run."""

import jax
import jax.numpy as jnp

from cil_jax import data, environment, methods, models
from cil_jax.config import Config, UserError
from cil_jax.data import scenario as scenarios
from cil_jax.data.augment import Augmentation
from cil_jax.engine import Engine
from cil_jax.schedules import SGD, Recipe


def data_seed(config: Config) -> int:
    """The seed of shuffling, augmentation and random exemplars."""
    return config.seed if config.data_seed is None else config.data_seed


def recipe_of(config: Config, task: int) -> Recipe:
    """How a task is trained; the first may have epochs, steps and weight decay of its own."""

    def of_task(name):
        first = getattr(config, f"first_{name}")
        return first if task == 0 and first is not None else getattr(config, name)

    return Recipe(
        epochs=of_task("epochs"),
        rate=config.rate,
        steps=of_task("rate_steps"),
        factor=config.rate_factor,
        weight_decay=of_task("weight_decay"),
    )


def dataset_of(config: Config) -> data.Dataset:
    """The data set that a config names."""
    return data.load(
        config.dataset,
        config.data_dir,
        image_size=config.image_size,
        test_share=config.test_share,
        split_seed=config.split_seed,
    )


def scenario_of(config: Config, dataset: data.Dataset) -> data.Scenario:
    """The tasks that a config makes of a data set."""
    return scenarios.create(
        dataset,
        order=config.order,
        order_seed=config.order_seed,
        task_size=config.task_size,
        first_task=config.first_task,
        classes=config.classes,
    )


def augmentation_of(config: Config, dataset: data.Dataset | None) -> Augmentation:
    """How training images are varied; what a config leaves open, the data set says.

    A config that leaves nothing open needs none.

    Raises:
      UserError: if there is no data set, and something is left open.
    """
    if dataset is None and (config.pad is None or config.mirror == "auto"):
        raise UserError("the settings leave pad or mirror to a data set, which is not known here")
    return Augmentation(
        pad=dataset.pad if config.pad is None else config.pad,
        mirror=dataset.mirror if config.mirror == "auto" else config.mirror == "yes",
        padding=config.padding,
        brightness=config.brightness,
    )


def engine_of(config: Config, dataset: data.Dataset | None, platform: str | None = None) -> Engine:
    """The compiled programs that a config asks for.

    Args:
      config: the settings.
      dataset: see `augmentation_of`.
      platform: where they shall run; "any" for everywhere (default: JAX's own here).

    Raises:
      UserError: if settings do not go together, or JAX is set so that results would be others.
    """
    environment.check_options()
    augmentation = augmentation_of(config, dataset)
    same = config.mirror_means == "auto"
    mirror_means = augmentation.mirror if same else config.mirror_means == "yes"
    backbone = models.build(
        config.backbone,
        last_relu=config.last_relu,
        layers=models.layers_for(platform or jax.default_backend()),
        dtype=jnp.dtype(config.precision),
    )
    method = methods.build(config, backbone, mirror_means=mirror_means)
    sees_old = method.memory_size is not None or method.keeps_all_data
    if sees_old and config.objective == "softmax" and config.softmax_over == "new":
        raise UserError(
            f"--softmax-over new leaves old labels without an output, and {config.method} trains "
            "on old images too: use --softmax-over open"
        )
    return Engine(
        method=method,
        optimizer=SGD(config.momentum, config.decay),
        augmentation=augmentation,
        batch_size=config.batch_size,
        fast=config.fast,
    )
