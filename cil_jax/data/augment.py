"""Augmentation, on the device and inside the compiled step."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop of a padded image, random mirroring, random brightness.

    Attributes:
      pad: pixels on every side before a crop of the old size; 0 for no crop.
      mirror: whether half of the images are turned left for right.
      padding: what those pixels are: "mean", that is zeros after normalisation, or "black".
      brightness: the pixels of an image are multiplied by a number from 1 +- this.
    """

    pad: int
    mirror: bool
    padding: str = "mean"
    brightness: float = 0.0

    def __call__(self, key: Key, images: Array, normalize: Callable[[Array], Array]) -> Array:
        """Augmented and normalised images, float32 [B, H, W, C].

        Args:
          key: a random key.
          images: uint8 [B, H, W, C].
          normalize: pixels 0..255 to what the network sees.
        """
        place_key, shade_key = jax.random.split(key)
        if self.padding == "black":
            return normalize(self._shade(shade_key, self._place(place_key, images)))
        return self._place(place_key, normalize(self._shade(shade_key, images)))

    def _place(self, key: Key, images: Array) -> Array:
        """Moves images within a frame of zeros, and mirrors some."""
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

    def _shade(self, key: Key, images: Array) -> Array:
        """Multiplies the pixels of each image by a number of its own, up to white."""
        if not self.brightness:
            return images
        low, high = max(0.0, 1 - self.brightness), 1 + self.brightness
        factors = jax.random.uniform(key, (images.shape[0], 1, 1, 1), minval=low, maxval=high)
        return jnp.minimum(images * factors, 255.0)
