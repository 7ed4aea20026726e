"""Operations on images, with the results of Pillow's on 8-bit images up to rounding.

Images are float32 [H, W, C] with whole numbers 0..255, in colour (C = 3) or grey (C = 1). All
functions are pure and can be compiled.
"""

import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R 601)


def affine(image: Array, matrix: Array) -> Array:
    """Moves pixels by an affine map, to the nearest pixel; what comes from outside is black.

    Args:
      image: [H, W, C].
      matrix: [2, 3]. The pixel at (x, y) is taken from matrix @ (x, y, 1); a pixel's centre is at
        half a pixel.
    """
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width] + 0.5
    from_x = jnp.floor(matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]).astype(jnp.int32)
    from_y = jnp.floor(matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]).astype(jnp.int32)
    is_inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    moved = image[from_y.clip(0, height - 1), from_x.clip(0, width - 1)]
    return jnp.where(is_inside[..., None], moved, 0.0)


def shear_x(image: Array, level: Array) -> Array:
    """Moves each row by `level` times its distance from the top."""
    return affine(image, jnp.array([[1.0, level, 0.0], [0.0, 1.0, 0.0]]))


def shear_y(image: Array, level: Array) -> Array:
    """Moves each column by `level` times its distance from the left."""
    return affine(image, jnp.array([[1.0, 0.0, 0.0], [level, 1.0, 0.0]]))


def translate_x(image: Array, n_pixels: Array) -> Array:
    """Moves an image to the left by a whole number of pixels; other numbers are cut off."""
    return affine(image, jnp.array([[1.0, 0.0, jnp.trunc(n_pixels)], [0.0, 1.0, 0.0]]))


def translate_y(image: Array, n_pixels: Array) -> Array:
    """Moves an image up by a whole number of pixels; other numbers are cut off."""
    return affine(image, jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, jnp.trunc(n_pixels)]]))


def rotate(image: Array, degrees: Array) -> Array:
    """Turns an image counterclockwise about its centre."""
    height, width, _ = image.shape
    angle = -jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = width / 2, height / 2
    matrix = [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]
    return affine(image, jnp.array(matrix))


def grey(image: Array) -> Array:
    """Returns the brightness [H, W, 1] of the pixels, in whole numbers."""
    if image.shape[-1] == 1:
        return image
    # Not a product of matrices, which an accelerator may compute in low precision.
    mean = sum(weight * image[..., i : i + 1] for i, weight in enumerate(GREY))
    return jnp.floor(mean + 0.5)


def blend(one: Array, other: Array, share: Array) -> Array:
    """Mixes two images; a share above 1 moves away from the first. Fractions are cut off."""
    mixed = one + share * (other - one)
    # Where the mixture is a whole number, rounding errors must not reduce it.
    return jnp.floor(mixed + 1e-3).clip(0.0, 255.0)


def brightness(image: Array, factor: Array) -> Array:
    """Multiplies the pixels by a factor: 0 gives a black image."""
    return blend(jnp.zeros_like(image), image, factor)


def contrast(image: Array, factor: Array) -> Array:
    """Scales the differences from the mean brightness: 0 gives a grey image."""
    mean = jnp.floor(grey(image).mean() + 0.5)
    return blend(jnp.full_like(image, mean), image, factor)


def colour(image: Array, factor: Array) -> Array:
    """Scales the saturation: 0 gives shades of grey."""
    return blend(jnp.broadcast_to(grey(image), image.shape), image, factor)


def sharpness(image: Array, factor: Array) -> Array:
    """Scales the differences from a smoothed image: 0 gives that image; the border stays."""
    kernel = jnp.ones((3, 3)).at[1, 1].set(5.0) / 13.0
    height, width, _ = image.shape
    smooth = sum(
        kernel[i, j] * image[i : height - 2 + i, j : width - 2 + j]
        for i in range(3)
        for j in range(3)
    )
    smooth = jnp.floor(smooth + 0.5).clip(0.0, 255.0)
    return blend(image.at[1:-1, 1:-1].set(smooth), image, factor)


def posterize(image: Array, n_bits: Array) -> Array:
    """Keeps the highest n bits of each pixel."""
    step = 2.0 ** (8 - jnp.round(n_bits))
    return jnp.floor(image / step) * step


def solarize(image: Array, threshold: Array) -> Array:
    """Inverts the pixels from the threshold on."""
    return jnp.where(image < threshold, image, 255.0 - image)


def invert(image: Array) -> Array:
    """Inverts all pixels."""
    return 255.0 - image


def autocontrast(image: Array) -> Array:
    """Stretches each channel to 0..255."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    stretched = jnp.floor((image - low) * 255.0 / jnp.maximum(high - low, 1.0) + 1e-3)
    return jnp.where(high > low, stretched.clip(0.0, 255.0), image)


def equalize(image: Array) -> Array:
    """Makes all levels of each channel about equally frequent."""

    def of_channel(channel: Array) -> Array:
        levels = channel.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[levels].add(1)
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (counts.sum() - last) // 255
        table = (step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1)
        return jnp.where(step > 0, table.clip(0, 255)[levels].astype(jnp.float32), channel)

    return jax.vmap(of_channel, in_axes=2, out_axes=2)(image)


def cutout(images: Array, centres: Array, side: int) -> Array:
    """Sets a square of each image to zero, as much of it as lies within the image.

    DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552. For normalised images, zero is the
    mean.

    Args:
      images: [B, H, W, C].
      centres: int [B, 2], row and column of each square's centre.
      side: of the square, in pixels; even.
    """

    def covered(size: int, centre: Array) -> Array:
        place = lax.iota(jnp.int32, size)
        return (place >= centre[:, None] - side // 2) & (place < centre[:, None] + side // 2)

    _, height, width, _ = images.shape
    rows, columns = covered(height, centres[:, 0]), covered(width, centres[:, 1])
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], 0.0, images)
