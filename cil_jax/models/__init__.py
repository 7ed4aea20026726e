"""The backbones by name, and their layers. `build("resnet32")` maps images to features.

To add a backbone, name it in BACKBONES. Output layers are not here but in `cil_jax.heads`.
Backbones of your own are found as `cil_jax.settings.code` describes.
"""

import dataclasses
import inspect
from typing import Any, cast

from jax import lax

from cil_jax.errors import UserError, nearest_name
from cil_jax.models.convolution import cpu_convolution
from cil_jax.models.normalization import BatchNorm
from cil_jax.models.resnet import BasicBlock, BottleneckBlock, Layers, ResNet
from cil_jax.settings import code
from cil_jax.typing import Backbone

__all__ = [
    "BACKBONES",
    "BasicBlock",
    "BottleneckBlock",
    "Layers",
    "ResNet",
    "build",
    "layers_for",
    "unused_settings",
]

_WIDTHS = (16, 32, 64)
_SETTING_OF = {"last_relu": "last_relu", "dtype": "precision"}  # by the field of a backbone

# ImageNet's ResNet-18. For small images its first convolution is 3x3, and nothing is pooled.
_RESNET18: dict[str, Any] = dict(
    block=BasicBlock, stage_sizes=(2, 2, 2, 2), widths=(64, 128, 256, 512), projects=True
)

# With n basic blocks per stage a network has 6n + 2 layers. No n gives 64 layers, so the stages of
# resnet64 have 10, 11 and 10 blocks. The bottleneck network has 9n + 2 layers.
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet8": dict(block=BasicBlock, stage_sizes=(1, 1, 1), widths=_WIDTHS),
    "resnet20": dict(block=BasicBlock, stage_sizes=(3, 3, 3), widths=_WIDTHS),
    "resnet32": dict(block=BasicBlock, stage_sizes=(5, 5, 5), widths=_WIDTHS),
    "resnet44": dict(block=BasicBlock, stage_sizes=(7, 7, 7), widths=_WIDTHS),
    "resnet56": dict(block=BasicBlock, stage_sizes=(9, 9, 9), widths=_WIDTHS),
    "resnet64": dict(block=BasicBlock, stage_sizes=(10, 11, 10), widths=_WIDTHS),
    "resnet110": dict(block=BasicBlock, stage_sizes=(18, 18, 18), widths=_WIDTHS),
    "resnet29-bottleneck": dict(block=BottleneckBlock, stage_sizes=(3, 3, 3), widths=_WIDTHS),
    "resnet18": _RESNET18,
    "resnet18-imagenet": {**_RESNET18, "stem": "imagenet"},
}


def build(name: str, **overrides: Any) -> Backbone:
    """Builds a backbone.

    Args:
      name: a key of BACKBONES, or the name of a class that the user has named.
      **overrides: fields of ResNet, such as `last_relu=False`; a class of the user's takes
        `last_relu` and `dtype`, if it has them.

    Raises:
      UserError: if there is no backbone of this name, or the user's can't be used.
    """
    if own := code.BACKBONES.own(name):
        return _own(own, overrides)
    if name not in BACKBONES:
        raise UserError(
            f"unknown backbone {name!r}{nearest_name(name, BACKBONES)}, or path.py:Class for one "
            "of your own"
        )
    return ResNet(**{**BACKBONES[name], **overrides})


def unused_settings(name: str) -> set[str]:
    """Returns the settings that have no effect on a backbone: the user's may lack their fields."""
    own = code.BACKBONES.own(name)
    fields = {field.name for field in dataclasses.fields(own)} if own else {*_SETTING_OF}
    return {setting for field, setting in _SETTING_OF.items() if field not in fields}


def _own(cls: type, overrides: dict[str, Any]) -> Backbone:
    """Builds a backbone of the user's.

    Raises:
      UserError: if it can't be built or called as a backbone.
    """
    if "train" not in inspect.signature(vars(cls).get("__call__", cls.__call__)).parameters:
        raise UserError(f"{cls.__name__}.__call__ must take the arguments (images, train)")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    values = {key: value for key, value in overrides.items() if key in {*fields} & {*_SETTING_OF}}
    missing = dataclasses.MISSING
    for key, field in fields.items():
        if key not in values and field.default is missing and field.default_factory is missing:
            raise UserError(f"{cls.__name__} has a field without a default: {key}")
    return cast(Backbone, cls(**values))


# Without a barrier, XLA's CPU backend recomputes the output of a block, with the convolutions of
# all blocks before it, at each place that reads it.
_ON_CPU = Layers(cpu_convolution, BatchNorm, lax.optimization_barrier)


def layers_for(platform: str) -> Layers:
    """Returns the fastest layers for a platform: "cpu", "gpu", "tpu", or "any" of them."""
    return _ON_CPU if platform == "cpu" else Layers()
