"""How many exemplars fit in a memory budget beside the network.

Methods with equally many exemplars are not on equal terms if one of them also keeps a network for
each task. Zhou et al. 2023 (https://arxiv.org/abs/2302.03648) therefore give each the same number
of bytes for network and exemplars together. Here, other than there, the output layer counts too,
and so does what a method stores with an exemplar.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.data import Dataset
from cil_jax.errors import UserError
from cil_jax.learner import Normalizer, bytes_per_exemplar
from cil_jax.metrics import BYTES_PER_PARAMETER, MB, size_in_mb
from cil_jax.network import n_parameters_in_use
from cil_jax.settings.config import Config
from cil_jax.training.build import Room, engine_of
from cil_jax.typing import ImageShape


def within_budget(
    config: Config, dataset: Dataset | None, image_shape: ImageShape, room: Room
) -> Config:
    """Returns settings with a number of exemplars in place of `budget_mb`.

    It is the largest number with which network and exemplars fit in the budget after the last task.
    Settings without a budget are returned as they are.

    Args:
      config: the settings.
      dataset: see `cil_jax.training.build.engine_of`.
      image_shape: (H, W, C).
      room: the classes and tasks of the run.

    Raises:
      UserError: if the network alone does not fit, or an exemplar of each class does not.
    """
    budget = getattr(config, "budget_mb", None)
    if budget is None:
        return config
    values: dict[str, Any] = {"memory": room.n_classes, "per_class": 0, "budget_mb": None}
    config = dataclasses.replace(config, **values)
    engine = engine_of(config, dataset, room)
    pixels: Any = jax.ShapeDtypeStruct((1, 1, image_shape[2]), jnp.float32)
    learner = engine.blank(image_shape, room.n_classes, Normalizer(pixels, pixels))
    weights = learner.weights
    if weights.frozen:  # after the last task, in place of the shape of the number
        weights = weights.replace(frozen={**weights.frozen, "count": room.n_tasks - 1})
    n_parameters = n_parameters_in_use(weights, room.n_classes)
    left = budget * MB - BYTES_PER_PARAMETER * n_parameters
    size = f"{size_in_mb(n_parameters, 0):.3g} MB"
    if left < 0:
        raise UserError(
            f"--budget-mb {budget:g} is too small for the network alone: its {n_parameters:,} "
            f"parameters after the last task take {size}"
        )
    n_exemplars = int(left // bytes_per_exemplar(learner))
    if n_exemplars < room.n_classes:
        raise UserError(
            f"--budget-mb {budget:g} leaves room for {n_exemplars} exemplars beside a network of "
            f"{size}, fewer than the {room.n_classes} classes"
        )
    return dataclasses.replace(config, **{**values, "memory": n_exemplars})
