"""Augmentation, on the device and inside the compiled step."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop of a padded image, and random mirroring.

    Attributes:
      pad: pixels of zeros (the mean, after normalisation) on every side before a crop of the old
        size; 0 for no crop.
      mirror: whether half of the images are turned left for right.
    """

    pad: int
    mirror: bool

    def __call__(self, key: Key, images: Array) -> Array:
        """Augmented images, of the shape of images float [B, H, W, C]."""
        crop_key, mirror_key = jax.random.split(key)
        n = images.shape[0]
        if self.pad:
            sides = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
            offsets = jax.random.randint(crop_key, (n, 2), 0, 2 * self.pad + 1)

            def crop(image, offset):
                return lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

            images = jax.vmap(crop)(jnp.pad(images, sides), offsets)
        if self.mirror:
            is_mirrored = jax.random.bernoulli(mirror_key, shape=(n, 1, 1, 1))
            images = jnp.where(is_mirrored, images[:, :, ::-1], images)
        return images
