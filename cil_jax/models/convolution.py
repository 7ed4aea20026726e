"""A convolution whose gradients are fast on the CPU, inside loops too.

XLA's CPU backend leaves the gradient convolutions of a loop body in a layout that it runs 25 to 40
times slower (https://github.com/jax-ml/jax/issues/12868). Here the gradient of the images is a
plain convolution with the turned kernel, and that of the kernel a matrix product: both run at full
speed everywhere. The product is summed over a few images at a time, which the CPU does best, and in
float32 whatever the images are. On accelerators the stock convolution is the right one.
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

PIECE = 16  # images; over 3x3 kernels of 16 to 64 channels the best of 4, 8, 16 and 32

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
    """A stand-in for `lax.conv_general_dilated` as `nn.Conv(conv_general_dilated=...)` calls it.

    Images [B, H, W, C], kernel [h, w, C, D], explicit padding, no dilation and no groups.
    """
    undilated = (None, (1, 1), [1, 1])
    if lhs_dilation not in undilated or rhs_dilation not in undilated or feature_group_count != 1:
        raise ValueError("cpu_convolution takes neither dilation nor groups")
    (top, bottom), (left, right) = padding
    return _convolve(images, kernel, tuple(window_strides), ((top, bottom), (left, right)))


def _plain(images, kernel, strides, padding, lhs_dilation=(1, 1)):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, lhs_dilation, dimension_numbers=_LAYOUT
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(images: Array, kernel: Array, strides: Strides, padding: Padding) -> Array:
    return _plain(images, kernel, strides, padding)


def _forward(images, kernel, strides, padding):
    return _convolve(images, kernel, strides, padding), (images, kernel)


def _backward(strides, padding, saved, grad):
    images, kernel = saved
    return (
        _images_gradient(grad, images.shape, kernel, strides, padding),
        _kernel_gradient(grad, images, kernel.shape, strides, padding),
    )


def _images_gradient(grad, images_shape, kernel, strides, padding):
    # The gradient, spread out by the stride, under the kernel turned by half a circle.
    pads = []
    for axis in (0, 1):
        size, window = images_shape[1 + axis], kernel.shape[axis]
        spread = (grad.shape[1 + axis] - 1) * strides[axis] + 1
        low = window - 1 - padding[axis][0]
        pads.append((low, size + window - 1 - spread - low))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _plain(grad, turned, (1, 1), pads, lhs_dilation=strides)


def _kernel_gradient(grad, images, kernel_shape, strides, padding):
    # A product contracts over images and pixels. Its left side has an image's pixel under each
    # column of the kernel, its right side the gradient's under each row: as a product of
    # (width * C) x (height * D) entries, it has more work for what it reads than one of C x D for
    # each place of the kernel. Rows of an image that the stride passes over belong to other rows
    # of the kernel, so that each phase of the stride is a product of its own.
    height, width, n_in, n_out = kernel_shape
    rows, columns = grad.shape[1:3]
    down, right = strides
    tall = down * (rows + (height - 1) // down)
    wide = right * (columns - 1) + width

    def of_piece(images, grad):
        pads = ((0, 0), _reach(images, 1, tall, padding), _reach(images, 2, wide, padding), (0, 0))
        images = lax.pad(images, jnp.zeros((), images.dtype), [(*pad, 0) for pad in pads])
        of_rows = []
        for phase in range(min(down, height)):
            n_rows = -(-(height - phase) // down)  # of the kernel
            n_lines = rows + n_rows - 1  # of the images, that these meet
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
            of_rows.append(total.reshape(width, n_in, n_rows, n_out).transpose(2, 0, 1, 3))
        return jnp.concatenate([of_rows[i % down][i // down][None] for i in range(height)])

    batch = images.shape[0]
    if batch <= PIECE:
        return of_piece(images, grad).astype(grad.dtype)
    # Devices that share a batch share each piece, or they would send each other their images.
    n_devices = _n_sharing()
    shares = n_devices if batch % n_devices == 0 else 1
    per_share = max(1, PIECE // shares)
    missing = -(batch // shares) % per_share  # images of zeros, which add nothing

    def pieces(x):
        x = x.reshape(shares, -1, *x.shape[1:])
        x = jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(shares, -1, per_share, *x.shape[2:])

    images, grad = pieces(images), pieces(grad)

    def add_piece(i, total):
        piece = (x[:, i].reshape(-1, *x.shape[3:]) for x in (images, grad))
        return total + of_piece(*piece)

    total = lax.fori_loop(0, images.shape[1], add_piece, jnp.zeros(kernel_shape))
    return total.astype(grad.dtype)


def _n_sharing():
    """Devices among which a batch is divided; 1 inside of a `jax.shard_map`, where it is whole."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in axes if kind != AxisType.Manual)


def _reach(images, axis, size, padding):
    """Zeros before and after an axis, after which it is `size` long; fewer than none cut it."""
    low = padding[axis - 1][0]
    return low, size - low - images.shape[axis]


_convolve.defvjp(_forward, _backward)
