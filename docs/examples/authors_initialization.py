"""iCaRL with the initial weights of its authors' code, which are larger than this library's.

Their convolutions are initialized by fan-in, so that the first one starts with a standard deviation
of 0.27 in place of 0.12, and their outputs from a normal distribution with standard deviation
1 / sqrt(number of features) and biases of zero.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.methods.icarl import ICaRL
from cil_jax.network import Network, Weights
from cil_jax.typing import Array, ImageShape, Key, Params


@dataclasses.dataclass(frozen=True)
class NormalHead(heads.Linear):
    """A linear head whose new weights are normal, and whose new biases are zero."""

    def grow(self, head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
        n_features, room = head["kernel"].shape
        drawn = jax.random.normal(key, (n_features, room)) / math.sqrt(n_features)
        column = jnp.arange(room)
        is_new = (column >= n_open) & (column < n_open + n_new)
        return {
            "kernel": jnp.where(is_new, drawn, head["kernel"]),
            "bias": jnp.where(is_new, 0.0, head["bias"]),
        }


@dataclasses.dataclass(frozen=True)
class AuthorsInitialization(ICaRL):
    """iCaRL that starts from its authors' initial weights."""

    @property
    def network(self) -> Network:
        return Network(self.backbone, NormalHead())

    def initial_weights(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        weights = super().initial_weights(image_shape, n_classes, key)
        backbone = jax.tree.map(by_fan_in, weights.params["backbone"])
        return weights.replace(params={**weights.params, "backbone": backbone})


def by_fan_in(kernel: Array) -> Array:
    """A convolution's kernel [height, width, in, out] of variance 2 / fan-out, with 2 / fan-in."""
    if kernel.ndim < 4:
        return kernel
    return kernel * math.sqrt(kernel.shape[3] / kernel.shape[2])
