"""The methods by name: pure hooks for the loss, the exemplars and the classifiers.

To add a method, write a file in this folder and name its class in METHODS. A method contains no
training loop and no `jax.jit`, and it reads and writes no file.
"""

import dataclasses

from cil_jax.errors import UserError, nearest_name
from cil_jax.methods.base import Batch, Classifier, LossResult, Method
from cil_jax.methods.finetune import Finetune
from cil_jax.methods.fixed import FixedRepresentation
from cil_jax.methods.icarl import ICaRL
from cil_jax.methods.joint import Joint
from cil_jax.methods.lwf import LwF
from cil_jax.methods.replay import Replay
from cil_jax.settings.config import Config
from cil_jax.typing import Backbone

__all__ = [
    "METHODS",
    "Batch",
    "Classifier",
    "Finetune",
    "FixedRepresentation",
    "ICaRL",
    "Joint",
    "LossResult",
    "LwF",
    "Method",
    "Replay",
    "build",
    "unused_settings",
]

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "fixed": FixedRepresentation,
    "lwf": LwF,
    "replay": Replay,
    "icarl": ICaRL,
    "joint": Joint,
}


def build(config: Config, backbone: Backbone, **facts: object) -> Method:
    """Builds the method that a config names.

    A field of the method that has the name of a fact or of a setting takes its value.

    Args:
      config: the settings.
      backbone: the Linen module that computes features.
      **facts: values that follow from the data rather than from a setting; they take precedence
        over settings of the same name.
    """
    cls = _named(config.method)
    values = {**vars(config), **facts, "backbone": backbone}
    return cls(**{name: values[name] for name in _fields(cls) if name in values})


def unused_settings(config: Config) -> set[str]:
    """Returns the method-specific settings that have no effect on the method of a config.

    These are the settings of other methods, and those that other settings turn off: see
    `Method.unused_settings`.
    """
    cls = _named(config.method)
    of_all_methods = set().union(*map(_fields, METHODS.values()))
    of_others = (of_all_methods - set(_fields(cls))) & vars(config).keys()
    return of_others | cls.unused_settings(config)


def _named(name: str) -> type[Method]:
    """Returns the class of a method.

    Raises:
      UserError: if there is no method of that name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest_name(name, METHODS)}")
    return METHODS[name]


def _fields(cls: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
