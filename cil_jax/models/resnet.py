"""Residual networks.

He et al. 2016, https://arxiv.org/abs/1512.03385: section 4.2 for small images, 4.1 for ImageNet's.

A network is described by its block, stage sizes and widths. It returns features; the head is a
separate part, see `cil_jax.heads`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, DType

Convolution = Callable[..., Array]


def _identity(x: Array) -> Array:
    return x


@dataclasses.dataclass(frozen=True)
class Layers:
    """Implementations of a network's layers. They differ in speed, and in results only by rounding.

    Attributes:
      convolution: a function like `lax.conv_general_dilated`.
      normalization: a module like `nn.BatchNorm`.
      between_blocks: applied to the output of each block; it must return the same values.
    """

    convolution: Convolution = lax.conv_general_dilated
    normalization: Callable[..., nn.Module] = nn.BatchNorm
    between_blocks: Callable[[Array], Array] = _identity


def shortcut(x: Array, n_channels: int, stride: int) -> Array:
    """Option A: takes every stride-th pixel and pads the channels with zeros on both sides."""
    missing = n_channels - x.shape[-1]
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


def projection(
    x: Array,
    n_channels: int,
    stride: int,
    conv: Callable[..., nn.Module],
    norm: Callable[..., nn.Module],
) -> Array:
    """Option B: a normalised 1x1 convolution where the shape changes, or else the identity."""
    if stride == 1 and x.shape[-1] == n_channels:
        return x
    return norm()(conv(n_channels, (1, 1), strides=stride)(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, without the ReLU that follows.

    Attributes:
      width: number of channels.
      stride: of the first convolution.
      conv, norm: make a convolution and a normalization.
      projects: whether the shortcut is option B rather than A.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    projects: bool = False
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = self.conv(self.width, (3, 3), strides=self.stride)(x)
        y = nn.relu(self.norm()(y))
        y = self.norm()(self.conv(self.width, (3, 3))(y))
        if self.projects:
            return y + projection(x, self.width, self.stride, self.conv, self.norm)
        return y + shortcut(x, self.width, self.stride)


class BottleneckBlock(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, with a shortcut; 4 x `width` channels.

    The ReLU that follows is not part of it. For the attributes see `BasicBlock`.
    """

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    projects: bool = False
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.norm()(self.conv(self.width, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.width, (3, 3), strides=self.stride)(y)))
        n_channels = self.width * self.expansion
        y = self.norm()(self.conv(n_channels, (1, 1))(y))
        if self.projects:
            return y + projection(x, n_channels, self.stride, self.conv, self.norm)
        return y + shortcut(x, n_channels, self.stride)


class ResNet(nn.Module):
    """A residual network that maps images to features.

    Attributes:
      block: BasicBlock or BottleneckBlock.
      stage_sizes: number of blocks in each stage; every stage after the first halves the image.
      widths: channels of each stage, before a block's expansion.
      projects: whether shortcuts that change the shape are 1x1 convolutions (option B), as in
        networks for ImageNet, rather than strides and zeros (option A).
      stem: what comes before the first stage: "small", a 3x3 convolution; or "imagenet", a 7x7
        convolution and a 3x3 maximum, each of which halves the image.
      part: which part of the network this is: "all" of it; "first", all but the last stage, which
        returns maps; or "last", the last stage, which takes these; see `split`.
      last_relu: whether the last block ends with a ReLU. In iCaRL's network it does not, so that
        features can have negative entries.
      layers: implementations of the layers; see `cil_jax.models.layers_for`.
      dtype: type of the convolutions and activations, float32 or bfloat16. Parameters, statistics,
        the sums of the normalisation and the features are float32 in both cases.
    """

    block: type[BasicBlock] | type[BottleneckBlock]
    stage_sizes: tuple[int, ...]
    widths: tuple[int, ...]
    projects: bool = False
    stem: str = "small"
    part: str = "all"
    last_relu: bool = True
    layers: Layers = Layers()
    dtype: DType = jnp.float32

    @property
    def n_features(self) -> int:
        """Number of features per image."""
        return self.widths[-1] * self.block.expansion

    def split(self) -> tuple["ResNet", "ResNet"]:
        """Returns the network in two parts: all but the last stage, and the last stage."""
        return self.clone(part="first"), self.clone(part="last")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> Array:
        """Computes features float32 [B, n_features] of images float [B, H, W, C].

        The first part of a network returns maps [B, h, w, c], and the last part takes these.

        The output of each stage is recorded as "stage0", "stage1" and so on, and what it is before
        its last ReLU as "stage0_before_relu" and so on; see `cil_jax.network.Output`.

        Args:
          images: normalised pixels.
          train: whether to normalise with the statistics of the batch and to update the running
            ones; the collection `batch_stats` must then be mutable.
        """
        # Padding is explicit: at stride 2, SAME pads an even image on one side only, unlike the
        # published networks.
        conv = partial(_conv, convolution=self.layers.convolution, dtype=self.dtype)
        norm = partial(
            self.layers.normalization,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=self.dtype,
        )
        if self.part == "last":
            x = images
        elif self.stem == "imagenet":
            x = nn.relu(norm()(conv(self.widths[0], (7, 7), strides=2)(images)))
            sides, no_pixel = ((0, 0), (1, 1), (1, 1), (0, 0)), -jnp.inf
            x = lax.reduce_window(x, no_pixel, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), sides)
        else:
            x = nn.relu(norm()(conv(self.widths[0], (3, 3))(images)))
        n_stages = len(self.stage_sizes)
        for stage, (size, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            if self.part == ("first" if stage == n_stages - 1 else "last"):
                continue
            before_relu = x
            for i in range(size):
                is_last = stage == n_stages - 1 and i == size - 1
                stride = 2 if stage > 0 and i == 0 else 1
                before_relu = self.block(
                    width=width, stride=stride, conv=conv, norm=norm, projects=self.projects
                )(x)
                x = nn.relu(before_relu) if self.last_relu or not is_last else before_relu
                x = self.layers.between_blocks(x)
            self.sow("intermediates", f"stage{stage}_before_relu", before_relu)
            self.sow("intermediates", f"stage{stage}", x)
        return x if self.part == "first" else x.astype(jnp.float32).mean(axis=(1, 2))


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
