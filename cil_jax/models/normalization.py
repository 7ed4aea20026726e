"""Batch normalisation that sums over whole rows of an image.

The sums over a batch and its pixels leave 16 to 64 numbers, one a channel. For a sum so narrow
XLA's CPU backend takes up to 8 times as long on jax 0.12 as on 0.10. Here whole rows of an image,
W * C numbers, are summed first; the backward pass inherits that by differentiation.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over the last axis, with the same parameters, statistics and defaults.

    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.

    Attributes:
      use_running_average: whether the running statistics normalise, and stay as they are.
      momentum: the fraction of the running statistics that is kept.
      epsilon: added to the variance.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalised x, of its type; x is [B, H, W, C]. Statistics are float32."""
        width, channels = x.shape[-2:]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))

        rows = x.reshape(-1, width * channels).astype(jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, square = (_channel_mean(y, channels) for y in (rows, rows * rows))
            var = jnp.maximum(square - mean * mean, 0.0)
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * new
        factor = lax.rsqrt(var + self.epsilon) * scale
        offset = bias - mean * factor
        normal = rows * jnp.tile(factor, width) + jnp.tile(offset, width)
        return normal.reshape(x.shape).astype(x.dtype)


def _channel_mean(rows: Array, channels: int) -> Array:
    """Means [C] of rows [N, W * C]."""
    return rows.mean(axis=0).reshape(-1, channels).mean(axis=0)
