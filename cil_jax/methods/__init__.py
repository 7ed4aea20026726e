"""The methods by name: pure hooks for the loss, the exemplars and the classifiers.

To add a method, write a file in this folder and name its class in `cil_jax.settings.code.METHODS`.
A method contains no training loop and no `jax.jit`, and it reads and writes no file. Each is
imported when it is first used.
"""

import dataclasses
from typing import Any

from cil_jax.errors import UserError
from cil_jax.methods.base import Batch, Classifier, LossResult, Method
from cil_jax.settings.code import METHODS
from cil_jax.settings.config import Config
from cil_jax.typing import Backbone

__all__ = ["METHODS", "Batch", "Classifier", "LossResult", "Method", "build", "unused_settings"]


def build(config: Config, backbone: Backbone, **facts: object) -> Method:
    """Builds the method that a config names.

    A field of the method that has the name of a fact or of a setting takes its value.

    Args:
      config: the settings.
      backbone: the Linen module that computes features.
      **facts: values that follow from the data rather than from a setting; they take precedence
        over settings of the same name.

    Raises:
      UserError: if the method has a field that is neither a setting nor a fact.
    """
    cls = _class_of(config)
    values = {**vars(config), **facts, "backbone": backbone}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    missing = [field.name for field in fields if field.name not in values and _is_required(field)]
    if missing:
        raise UserError(
            f"{cls.__name__} has fields that nothing fills in: {', '.join(missing)}; declare "
            "hyper-parameters by `cil_jax.settings.declaring.setting`"
        )
    return cls(**{field.name: values[field.name] for field in fields if field.name in values})


def unused_settings(config: Config) -> set[str]:
    """Returns the method's settings that have no effect, since others turn them off.

    See `Method.unused_settings`.
    """
    return _class_of(config).unused_settings(config)


def _class_of(config: Config) -> type[Method]:
    """Returns the class of the method.

    Raises:
      UserError: if the config is one of no method.
    """
    if config.method_class is None:
        raise UserError("these settings are of no method: make them by cil_jax.preset")
    return config.method_class


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING
