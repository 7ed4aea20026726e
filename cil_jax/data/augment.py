"""Augmentation of training images. It runs on the device, inside the compiled update."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.data import pixels
from cil_jax.data.policies import POLICIES
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crops of padded images, random mirroring and random brightness.

    Attributes:
      pad: width in pixels of the border that is added on every side before an image is cropped to
        its original size; 0 for no crops.
      mirror: whether to mirror an image left to right, with probability 1/2.
      padding: the value of the border: "mean" for zeros after normalisation, or "black".
      brightness: the largest relative change of brightness. The pixels of an image are multiplied
        by a random number in 1 - brightness .. 1 + brightness.
      policy: what is done besides: "standard" for nothing; "jitter", "autoaugment" or
        "trivialaugment", see `cil_jax.data.policies`; or "cutout", a square of half the image's
        side that is set to the mean. "autoaugment+cutout" is both.
    """

    pad: int
    mirror: bool
    padding: str = "mean"
    brightness: float = 0.0
    policy: str = "standard"

    def __call__(self, key: Key, images: Array, normalize: Callable[[Array], Array]) -> Array:
        """Augments and normalises images.

        Args:
          key: a random key.
          images: uint8 [B, H, W, C].
          normalize: maps pixels 0..255 to the network's inputs.

        Returns:
          float32 [B, H, W, C].
        """
        move_key, brightness_key = jax.random.split(key)
        if self.padding == "black":
            images = self._brighten(brightness_key, self._move(move_key, images))
            images = normalize(self._by_policy(key, images))
        else:
            images = self._by_policy(key, self._brighten(brightness_key, images))
            images = self._move(move_key, normalize(images))
        return self._cut_out(key, images)

    def _by_policy(self, key: Key, images: Array) -> Array:
        """Applies the operations of the policy to images with pixels 0..255."""
        policy = POLICIES.get(self.policy.partition("+")[0])
        if policy is None:
            return images
        # Derived here, so that a standard run computes exactly what it would without policies.
        keys = jax.random.split(jax.random.fold_in(key, 1), images.shape[0])
        return jax.vmap(policy)(keys, jnp.floor(images.astype(jnp.float32)))

    def _cut_out(self, key: Key, images: Array) -> Array:
        """Sets a random square of each normalised image to the mean."""
        if "cutout" not in self.policy:
            return images
        n, height, width, _ = images.shape
        centres = jax.random.randint(
            jax.random.fold_in(key, 2), (n, 2), 0, jnp.array([height, width])
        )
        return pixels.cutout(images, centres, 2 * (min(height, width) // 4))

    def _move(self, key: Key, images: Array) -> Array:
        """Crops each image at a random place of its padded version, and mirrors half of them."""
        crop_key, mirror_key = jax.random.split(key)
        n = images.shape[0]
        if self.pad:
            sides = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
            offsets = jax.random.randint(crop_key, (n, 2), 0, 2 * self.pad + 1)

            def crop(image: Array, offset: Array) -> Array:
                return lax.dynamic_slice(image, (offset[0], offset[1], 0), images.shape[1:])

            images = jax.vmap(crop)(jnp.pad(images, sides), offsets)
        if self.mirror:
            is_mirrored = jax.random.bernoulli(mirror_key, shape=(n, 1, 1, 1))
            images = jnp.where(is_mirrored, images[:, :, ::-1], images)
        return images

    def _brighten(self, key: Key, images: Array) -> Array:
        """Multiplies the pixels of each image by its random factor and clips them at 255."""
        if not self.brightness:
            return images
        low, high = max(0.0, 1 - self.brightness), 1 + self.brightness
        factors = jax.random.uniform(key, (images.shape[0], 1, 1, 1), minval=low, maxval=high)
        return jnp.minimum(images * factors, 255.0)
