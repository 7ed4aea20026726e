"""A convolution whose gradients are fast on the CPU, also inside loops.

In the body of a loop, XLA's CPU backend keeps gradient convolutions in a layout in which they run
25 to 40 times slower (https://github.com/jax-ml/jax/issues/12868). Here, the gradient of the images
is a plain convolution with the rotated kernel, and the gradient of the kernel is a matrix product.
Both run at full speed inside loops and outside. The product is summed over a few images at a time,
which is fastest on a CPU, and in float32 for images of any type. On accelerators, use the stock
convolution.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from cil_jax.typing import Array

# Images per matrix product: the fastest of 4, 8, 16 and 32, for 3x3 kernels of 16 to 64 channels.
PIECE = 16

_LAYOUT = ("NHWC", "HWIO", "NHWC")

Padding = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]


def cpu_convolution(
    images: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    feature_group_count: int = 1,
    **_: Any,
) -> Array:
    """Replaces `lax.conv_general_dilated` in `nn.Conv(conv_general_dilated=...)`.

    Args:
      images: [B, H, W, C].
      kernel: [h, w, C, D].
      window_strides: (down, right).
      padding: ((top, bottom), (left, right)) in pixels.
      lhs_dilation, rhs_dilation, feature_group_count: not supported; leave them at their defaults.

    Raises:
      ValueError: if dilation or groups are requested.
    """
    undilated = (None, (1, 1), [1, 1])
    if lhs_dilation not in undilated or rhs_dilation not in undilated or feature_group_count != 1:
        raise ValueError("cpu_convolution supports neither dilation nor groups")
    (top, bottom), (left, right) = padding
    return _convolve(images, kernel, tuple(window_strides), ((top, bottom), (left, right)))


def _plain(
    images: Array,
    kernel: Array,
    strides: Strides,
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Strides = (1, 1),
) -> Array:
    return lax.conv_general_dilated(
        images, kernel, strides, padding, lhs_dilation, dimension_numbers=_LAYOUT
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(images: Array, kernel: Array, strides: Strides, padding: Padding) -> Array:
    return _plain(images, kernel, strides, padding)


def _forward(
    images: Array, kernel: Array, strides: Strides, padding: Padding
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(images, kernel, strides, padding), (images, kernel)


def _backward(
    strides: Strides, padding: Padding, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    return (
        _images_gradient(grad, images.shape, kernel, strides, padding),
        _kernel_gradient(grad, images, kernel.shape, strides, padding),
    )


def _images_gradient(
    grad: Array, images_shape: tuple[int, ...], kernel: Array, strides: Strides, padding: Padding
) -> Array:
    # The gradient, dilated by the stride, convolved with the kernel rotated by 180 degrees.
    pads = []
    for axis in (0, 1):
        size, window = images_shape[1 + axis], kernel.shape[axis]
        dilated = (grad.shape[1 + axis] - 1) * strides[axis] + 1
        low = window - 1 - padding[axis][0]
        pads.append((low, size + window - 1 - dilated - low))
    rotated = kernel[::-1, ::-1].swapaxes(2, 3)
    return _plain(grad, rotated, (1, 1), pads, lhs_dilation=strides)


def _kernel_gradient(
    grad: Array,
    images: Array,
    kernel_shape: tuple[int, ...],
    strides: Strides,
    padding: Padding,
) -> Array:
    # Each product contracts over images and pixels. Its left operand holds the image pixel under
    # each column of the kernel, its right operand the gradient pixel under each row. One product
    # with (width * C) x (height * D) results does more arithmetic per value read than one product
    # with C x D results for each position in the kernel. With a stride, the rows of an image meet
    # different rows of the kernel, so each phase of the stride has its own product.
    height, width, n_in, n_out = kernel_shape
    rows, columns = grad.shape[1:3]
    down, right = strides
    tall = down * (rows + (height - 1) // down)
    wide = right * (columns - 1) + width

    def of_piece(images: Array, grad: Array) -> Array:
        vertical, horizontal = (
            _pad_to(images, axis, size, padding) for axis, size in ((1, tall), (2, wide))
        )
        pads = [(0, 0, 0), (*vertical, 0), (*horizontal, 0), (0, 0, 0)]
        images = lax.pad(images, jnp.zeros((), images.dtype), pads)
        of_phases = []
        for phase in range(min(down, height)):
            n_rows = -(-(height - phase) // down)  # of the kernel
            n_lines = rows + n_rows - 1  # rows of the images that these meet
            lines = images[:, phase::down][:, :n_lines]
            below = jnp.pad(grad, ((0, 0), (n_rows - 1, n_rows - 1), (0, 0), (0, 0)))
            shifted = [below[:, n_rows - 1 - i :][:, :n_lines] for i in range(n_rows)]
            taps = [lines[:, :, j : j + wide - width + 1 : right] for j in range(width)]
            total = lax.dot_general(
                jnp.stack(taps, axis=3).reshape(-1, width * n_in),
                jnp.stack(shifted, axis=3).reshape(-1, n_rows * n_out),
                (((0,), (0,)), ((), ())),
                preferred_element_type=jnp.float32,
            )
            of_phases.append(total.reshape(width, n_in, n_rows, n_out).transpose(2, 0, 1, 3))
        return jnp.concatenate([of_phases[i % down][i // down][None] for i in range(height)])

    batch = images.shape[0]
    if batch <= PIECE:
        return of_piece(images, grad).astype(grad.dtype)
    # Devices that share a batch share each piece too; otherwise they would exchange images.
    n_devices = _n_devices()
    shares = n_devices if batch % n_devices == 0 else 1
    per_share = max(1, PIECE // shares)
    missing = -(batch // shares) % per_share  # padded with zero images, which add nothing

    def split(x: Array) -> Array:
        x = x.reshape(shares, -1, *x.shape[1:])
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(shares, -1, per_share, *x.shape[2:])

    images, grad = split(images), split(grad)

    def add_piece(i: Array, total: Array) -> Array:
        piece = (x[:, i].reshape(-1, *x.shape[3:]) for x in (images, grad))
        return total + of_piece(*piece)

    total = lax.fori_loop(0, images.shape[1], add_piece, jnp.zeros(kernel_shape))
    return total.astype(grad.dtype)


def _n_devices() -> int:
    """Returns how many devices share a batch; 1 inside `jax.shard_map`, where batches are whole."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in axes if kind != AxisType.Manual)


def _pad_to(images: Array, axis: int, size: int, padding: Padding) -> tuple[int, int]:
    """Returns the padding with which an axis has the given size; negative padding crops it."""
    low = padding[axis - 1][0]
    return low, size - low - images.shape[axis]


_convolve.defvjp(_forward, _backward)
