"""Residual networks for small images.

He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385.

A network is a block, stage sizes and widths, as data. It returns features; heads live elsewhere.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, DType

Convolution = Callable[..., Array]


def _unchanged(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True)
class Layers:
    """How a network's layers are computed: on each platform in the fastest way, to the same end.

    Attributes:
      convolution: a function as `lax.conv_general_dilated`.
      normalization: a module as `nn.BatchNorm`.
      between_blocks: what a block's output is passed through, which changes no value.
    """

    convolution: Convolution = lax.conv_general_dilated
    normalization: Callable[..., nn.Module] = nn.BatchNorm
    between_blocks: Callable[[Array], Array] = _unchanged


def shortcut(x: Array, n_channels: int, stride: int) -> Array:
    """Option A: every stride-th pixel, and zeros for the new channels, half on either side."""
    missing = n_channels - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around which the input is passed."""

    width: int
    stride: int
    last_relu: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.width, (3, 3), strides=self.stride)(x)
        y = nn.relu(self.norm()(y))
        y = self.norm()(self.conv(self.width, (3, 3))(y))
        y = y + shortcut(x, self.width, self.stride)
        return nn.relu(y) if self.last_relu else y


class BottleneckBlock(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last of which widens four times."""

    width: int
    stride: int
    last_relu: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), strides=self.stride)(y)))
        y = self.norm()(self.conv(self.width * self.expansion, (1, 1))(y))
        y = y + shortcut(x, self.width * self.expansion, self.stride)
        return nn.relu(y) if self.last_relu else y


class ResNet(nn.Module):
    """A residual network that maps images to features.

    Attributes:
      block: BasicBlock or BottleneckBlock.
      stage_sizes: blocks of each stage; every stage after the first halves the image.
      widths: channels of each stage, before a block's expansion.
      last_relu: whether the last block ends in a ReLU. iCaRL's network has none, so that its
        features can point anywhere.
      layers: how they are computed; see `cil_jax.models.layers_for`.
      dtype: what convolutions are computed in and passed on in, float32 or bfloat16. Parameters,
        statistics, the sums of the normalisation and the features are float32 in either.
    """

    block: Callable[..., nn.Module]
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    last_relu: bool = True
    layers: Layers = Layers()
    dtype: DType = jnp.float32

    @property
    def n_features(self) -> int:
        return self.widths[-1] * self.block.expansion

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Features float32 [B, n_features] of images float [B, H, W, C].

        Args:
          images: normalised pixels.
          train: whether the batch's own statistics normalise it, and move the running ones
            (collection `batch_stats` must then be mutable).
        """
        # Padding is explicit: SAME pads an even image at stride 2 on one side only, which is not
        # what the published networks do.
        conv = partial(_conv, convolution=self.layers.convolution, dtype=self.dtype)
        norm = partial(
            self.layers.normalization,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        x = nn.relu(norm()(conv(self.widths[0], (3, 3))(images)))
        n_stages = len(self.stage_sizes)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            for i in range(size):
                is_last = stage == n_stages - 1 and i == size - 1
                x = self.block(
                    width=width,
                    stride=2 if stage > 0 and i == 0 else 1,
                    last_relu=self.last_relu or not is_last,
                    conv=conv,
                    norm=norm,
                )(x)
                x = self.layers.between_blocks(x)
        return x.astype(jnp.float32).mean(axis=(1, 2))


def _conv(
    features: int, window: tuple[int, int], *, strides: int = 1, convolution: Convolution, **kw: Any
) -> nn.Conv:
    return nn.Conv(
        features,
        window,
        strides=strides,
        padding=[(w // 2, w // 2) for w in window],
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        conv_general_dilated=convolution,
        **kw,
    )
