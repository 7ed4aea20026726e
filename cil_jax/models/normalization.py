"""Batch normalisation that is fast on the CPU: it sums over each image's lines, then over images.

Batch statistics are sums over all images and pixels that leave 16 to 64 numbers, one per channel.
XLA's CPU backend is slow at sums with so few results, and splits sums over so many numbers into
rounds, for which it first writes each square to memory. Here the lines of an image, W * C numbers
each, are summed first. The barriers keep XLA from merging the two sums; differentiation gives the
backward pass the same structure.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, DType


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over the last axis, with the same parameters and statistics.

    Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.

    Attributes:
      use_running_average: whether to normalise with the running statistics and not update them.
      momentum: the fraction of the running statistics that each update keeps.
      epsilon: added to the variance.
      dtype: of the result.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DType = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises x [B, H, W, C]. Statistics are float32."""
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
        normal = lines * _repeat(factor, lines) + _repeat(offset, lines)
        return normal.reshape(x.shape).astype(self.dtype)


def _channel_mean(lines: Array, channels: int) -> Array:
    """Averages lines [B, H, W * C] over images and pixels, to [C]."""
    image_means = lax.optimization_barrier(lines.mean(axis=1))
    return image_means.mean(axis=0).reshape(-1, channels).mean(axis=0)


def _repeat(values: Array, lines: Array) -> Array:
    """Repeats values [C] as [B, 1, W * C]; their gradient is summed in the same order as above."""
    n, _, size = lines.shape
    repeated = jnp.broadcast_to(jnp.tile(values, size // values.size), (n, size))
    return lax.optimization_barrier(repeated)[:, None]
