"""Batch normalisation that sums first over the lines of each image, and then over images.

The sums over a batch and its pixels leave 16 to 64 numbers, one a channel. A sum so narrow XLA's
CPU backend computes slowly, and one over so many numbers it takes in rounds, for which it first
writes each square to memory. Here the lines of an image, W * C numbers each, are summed before all
else. The barriers keep XLA from making one sum of the two; the backward pass inherits all of it by
differentiation.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, DType


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over the last axis, with the same parameters and statistics.

    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.

    Attributes:
      use_running_average: whether the running statistics normalise, and stay as they are.
      momentum: the fraction of the running statistics that is kept.
      epsilon: added to the variance.
      dtype: of the result.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalised x [B, H, W, C]. Statistics are float32."""
        width, channels = x.shape[-2:]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))

        lines = x.reshape(*x.shape[:2], width * channels).astype(jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, square = (_channel_mean(y, channels) for y in (lines, lines * lines))
            var = jnp.maximum(square - mean * mean, 0.0)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        factor = lax.rsqrt(var + self.epsilon) * scale
        offset = bias - mean * factor
        normal = lines * _of_lines(factor, lines) + _of_lines(offset, lines)
        return normal.reshape(x.shape).astype(self.dtype)


def _channel_mean(lines: Array, channels: int) -> Array:
    """Means [C] of lines [B, H, W * C]."""
    of_images = lax.optimization_barrier(lines.mean(axis=1))
    return of_images.mean(axis=0).reshape(-1, channels).mean(axis=0)


def _of_lines(values: Array, lines: Array) -> Array:
    """Values [C] as [B, 1, W * C], for each image; their gradient is summed in the same way."""
    n, _, size = lines.shape
    of_images = jnp.broadcast_to(jnp.tile(values, size // values.size), (n, size))
    return lax.optimization_barrier(of_images)[:, None]
