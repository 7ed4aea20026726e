"""Named policies of augmentation: random operations on each image, drawn from a key.

Operations and their strengths are those of torchvision, where each policy has its name.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cil_jax.data import pixels
from cil_jax.typing import Array, Key

# Images whose pixels are whole numbers 0..255; a policy maps a key and an image to an image.
Policy = Callable[[Key, Array], Array]

# Largest relative change of brightness, contrast and saturation by `jitter`, as in SimCLR's and
# many other recipes; PyCIL's smaller change of brightness alone is the setting --brightness.
JITTER = 0.4


class Operation(NamedTuple):
    """An operation of a policy.

    Attributes:
      apply: (image, level) -> image.
      is_signed: whether the level is negated with probability 1/2.
    """

    apply: Callable[[Array, Array], Array]
    is_signed: bool


def _enhanced(apply: Callable[[Array, Array], Array]) -> Operation:
    """An operation whose factor is 1 plus the level."""
    return Operation(lambda image, level: apply(image, 1.0 + level), True)


def _without_level(apply: Callable[[Array], Array]) -> Operation:
    return Operation(lambda image, level: apply(image), False)


OPERATIONS: dict[str, Operation] = {
    "identity": _without_level(lambda image: image),
    "shear x": Operation(pixels.shear_x, True),
    "shear y": Operation(pixels.shear_y, True),
    "translate x": Operation(pixels.translate_x, True),
    "translate y": Operation(pixels.translate_y, True),
    "rotate": Operation(pixels.rotate, True),
    "brightness": _enhanced(pixels.brightness),
    "colour": _enhanced(pixels.colour),
    "contrast": _enhanced(pixels.contrast),
    "sharpness": _enhanced(pixels.sharpness),
    "posterize": Operation(pixels.posterize, False),
    "solarize": Operation(pixels.solarize, False),
    "autocontrast": _without_level(pixels.autocontrast),
    "equalize": _without_level(pixels.equalize),
    "invert": _without_level(pixels.invert),
}
NAMES = list(OPERATIONS)
ENHANCEMENTS = ("brightness", "colour", "contrast", "sharpness")


def apply(number: Array, image: Array, level: Array, key: Key) -> Array:
    """Applies an operation, given by its number in NAMES, with a random sign if it has one."""
    signed = np.array([operation.is_signed for operation in OPERATIONS.values()])
    is_negated = jnp.asarray(signed)[number] & jax.random.bernoulli(key)
    level = jnp.where(is_negated, -level, level)
    return lax.switch(number, [op.apply for op in OPERATIONS.values()], image, level)


# AutoAugment's policy for CIFAR-10 (Cubuk et al. 2019, https://arxiv.org/abs/1805.09501, appendix):
# two operations, each with its probability and its level, 0..9.
AUTOAUGMENT = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear y", 0.5, 8), ("translate y", 0.7, 9)),
    (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear y", 0.2, 7), ("posterize", 0.3, 7)),
    (("colour", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("colour", 0.7, 7), ("translate x", 0.5, 8)),
    (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
    (("translate y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("colour", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("colour", 0.9, 9), ("equalize", 0.6, 0)),
    (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("colour", 0.7, 0)),
    (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
    (("translate y", 0.9, 9), ("translate y", 0.7, 9)),
    (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate y", 0.7, 9), ("autocontrast", 0.9, 0)),
)


def _autoaugment_levels(side: int) -> dict[str, np.ndarray]:
    """The ten levels of each operation of AutoAugment, for images of this side in pixels."""
    return {
        **{name: np.linspace(0, 0.3, 10) for name in ("shear x", "shear y")},
        **{name: np.linspace(0, 150 / 331 * side, 10) for name in ("translate x", "translate y")},
        "rotate": np.linspace(0, 30, 10),
        **{name: np.linspace(0, 0.9, 10) for name in ENHANCEMENTS},
        "posterize": 8 - np.round(np.arange(10) / (9 / 4)),
        "solarize": np.linspace(255, 0, 10),
    }


def autoaugment(key: Key, image: Array) -> Array:
    """Applies one of AutoAugment's 25 pairs of operations for CIFAR-10, drawn at random."""
    levels = _autoaugment_levels(image.shape[1])
    numbers = np.array([[NAMES.index(name) for name, *_ in pair] for pair in AUTOAUGMENT])
    shares = np.array([[share for _, share, _ in pair] for pair in AUTOAUGMENT])
    sizes = np.array(
        [[levels.get(name, np.zeros(10))[n] for name, _, n in pair] for pair in AUTOAUGMENT]
    )
    key, pair_key = jax.random.split(key)
    pair = jax.random.randint(pair_key, (), 0, len(AUTOAUGMENT))
    for place in range(2):
        key, happens_key, sign_key = jax.random.split(key, 3)
        share, number, size = (jnp.asarray(x)[pair, place] for x in (shares, numbers, sizes))
        happens = jax.random.bernoulli(happens_key, share)
        number = jnp.where(happens, number, NAMES.index("identity"))
        image = apply(number, image, size.astype(jnp.float32), sign_key)
    return image


# TrivialAugment (Müller and Hutter 2021, https://arxiv.org/abs/2103.10158), its wide space: the
# levels of each operation; one of 31 is drawn.
TRIVIALAUGMENT: dict[str, np.ndarray] = {
    "identity": np.zeros(31),
    **{name: np.linspace(0, 0.99, 31) for name in ("shear x", "shear y")},
    **{name: np.linspace(0, 32, 31) for name in ("translate x", "translate y")},
    "rotate": np.linspace(0, 135, 31),
    **{name: np.linspace(0, 0.99, 31) for name in ENHANCEMENTS},
    "posterize": 8 - np.round(np.arange(31) / (30 / 6)),
    "solarize": np.linspace(255, 0, 31),
    "autocontrast": np.zeros(31),
    "equalize": np.zeros(31),
}


def trivialaugment(key: Key, image: Array) -> Array:
    """Applies one operation of TrivialAugment's wide space with a random level."""
    operation_key, level_key, sign_key = jax.random.split(key, 3)
    choice = jax.random.randint(operation_key, (), 0, len(TRIVIALAUGMENT))
    level = jax.random.randint(level_key, (), 0, 31)
    numbers = jnp.array([NAMES.index(name) for name in TRIVIALAUGMENT])
    sizes = jnp.asarray(np.stack(list(TRIVIALAUGMENT.values())), jnp.float32)
    return apply(numbers[choice], image, sizes[choice, level], sign_key)


def jitter(key: Key, image: Array) -> Array:
    """Changes brightness, contrast and saturation, each by a random factor in 0.6..1.4."""
    factors = jax.random.uniform(key, (3,), minval=1 - JITTER, maxval=1 + JITTER)
    for change, factor in zip(
        (pixels.brightness, pixels.contrast, pixels.colour), factors, strict=True
    ):
        image = change(image, factor)
    return image


POLICIES: dict[str, Policy] = {
    "jitter": jitter,
    "autoaugment": autoaugment,
    "trivialaugment": trivialaugment,
}
