"""Methods by name. To add one, write a file beside these and name its class here."""

import dataclasses

import flax.linen as nn

from cil_jax.config import Config
from cil_jax.methods.base import Batch, Classifier, Method
from cil_jax.methods.finetune import Finetune
from cil_jax.methods.icarl import ICaRL
from cil_jax.methods.lwf import LwF

__all__ = ["METHODS", "Batch", "Classifier", "Finetune", "ICaRL", "LwF", "Method", "build"]

METHODS: dict[str, type[Method]] = {"finetune": Finetune, "lwf": LwF, "icarl": ICaRL}


def build(config: Config, backbone: nn.Module, **facts: object) -> Method:
    """The method that a config names.

    Args:
      config: the settings.
      backbone: the Linen module that makes features.
      **facts: what follows from the data rather than from a setting.

    A field of the method that has the name of a fact or of a setting is filled from it.
    """
    cls = METHODS[config.method]
    known = {**vars(config), **facts, "backbone": backbone}
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: known[name] for name in names if name in known})
