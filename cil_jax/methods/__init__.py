"""Methods by name. To add one, write a file beside these and name its class here."""

import dataclasses

import flax.linen as nn

from cil_jax.config import Config, UserError, nearest_name
from cil_jax.methods.base import Batch, Classifier, Method
from cil_jax.methods.finetune import Finetune
from cil_jax.methods.fixed import FixedRepresentation
from cil_jax.methods.icarl import ICaRL
from cil_jax.methods.joint import Joint
from cil_jax.methods.lwf import LwF
from cil_jax.methods.replay import Replay

__all__ = [
    "METHODS",
    "Batch",
    "Classifier",
    "Finetune",
    "FixedRepresentation",
    "ICaRL",
    "Joint",
    "LwF",
    "Method",
    "Replay",
    "build",
    "idle",
]

METHODS: dict[str, type[Method]] = {
    "finetune": Finetune,
    "fixed": FixedRepresentation,
    "lwf": LwF,
    "replay": Replay,
    "icarl": ICaRL,
    "joint": Joint,
}


def build(config: Config, backbone: nn.Module, **facts: object) -> Method:
    """The method that a config names.

    Args:
      config: the settings.
      backbone: the Linen module that makes features.
      **facts: what follows from the data rather than from a setting.

    A field of the method that has the name of a fact or of a setting is filled from it.
    """
    cls = _named(config.method)
    known = {**vars(config), **facts, "backbone": backbone}
    return cls(**{name: known[name] for name in _fields(cls) if name in known})


def idle(config: Config) -> set[str]:
    """Fields of a config that belong to methods and have no effect on this one as it is set."""
    cls = _named(config.method)
    others = set().union(*map(_fields, METHODS.values())) - set(_fields(cls))
    return (others & vars(config).keys()) | cls.idle(config)


def _named(name: str) -> type[Method]:
    """The class of a method.

    Raises:
      UserError: if there is none of that name.
    """
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}{nearest_name(name, METHODS)}")
    return METHODS[name]


def _fields(cls: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]
