"""A data set in memory, in the form that all sources return."""

import dataclasses
import hashlib

import numpy as np

from cil_jax.errors import UserError


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Labelled images for training and for testing.

    Attributes:
      name: its name on the command line, the value of `--dataset`.
      train_images, test_images: uint8 [N, H, W, C], pixels 0..255.
      train_labels, test_labels: int32 [N], each in 0..n_classes-1.
      class_names: the name of each class.
      pad: border in pixels that suits random crops of these images.
      mirror: whether a mirrored image still belongs to its class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    pad: int
    mirror: bool

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        return (
            f"Dataset({self.name!r}, {self.n_classes} classes, {len(self.train_labels)} + "
            f"{len(self.test_labels)} images of {height} x {width} x {channels})"
        )

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and number of channels of an image."""
        return self.train_images.shape[1:]

    def sha256(self) -> str:
        """Returns a checksum of images, labels and class names, whatever their source."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def validating(self, share: float) -> "Dataset":
        """Holds out training images and tests on them; the test images are left out.

        For choosing settings, for which test images must not be used.

        Args:
          share: fraction of the training images of each class, which are chosen by a fixed seed. At
            least one image of each class is held out and one is kept.

        Returns:
          The data set whose test images are those held out.

        Raises:
          UserError: if a class has fewer than two training images.
        """
        random = np.random.RandomState(0)
        is_held_out = np.zeros(len(self.train_labels), bool)
        for label, name in enumerate(self.class_names):
            rows = np.flatnonzero(self.train_labels == label)
            if len(rows) < 2:
                raise UserError(
                    "--validation needs two training images of each class; "
                    f"{name!r} has {len(rows)}"
                )
            n_held_out = min(max(round(share * len(rows)), 1), len(rows) - 1)
            is_held_out[random.permutation(rows)[:n_held_out]] = True
        return dataclasses.replace(
            self,
            train_images=self.train_images[~is_held_out],
            train_labels=self.train_labels[~is_held_out],
            test_images=self.train_images[is_held_out],
            test_labels=self.train_labels[is_held_out],
        )

    def pixel_statistics(self, normalization: str) -> tuple[np.ndarray, np.ndarray]:
        """Computes the mean and standard deviation of all training pixels, divided by 255.

        Args:
          normalization: "per-pixel" for the mean training image [H, W, C] and a standard deviation
            of 1, "per-channel" for the mean and standard deviation of each channel, [1, 1, C].

        Returns:
          The mean and the standard deviation, float32 arrays of the same shape.
        """
        if normalization == "per-pixel":
            mean = self.train_images.mean(axis=0, dtype=np.float64) / 255.0
            return mean.astype(np.float32), np.ones_like(mean, np.float32)
        values = np.arange(256) / 255.0
        means, deviations = [], []
        for channel in range(self.image_shape[2]):
            # A histogram of bytes is exact, and the pixels need not be copied as floats.
            counts = np.bincount(self.train_images[..., channel].ravel(), minlength=256)
            frequencies = counts / counts.sum()
            mean = frequencies @ values
            means.append(mean)
            deviations.append(np.sqrt(frequencies @ (values - mean) ** 2))
        shape = (1, 1, -1)
        mean = np.reshape(means, shape).astype(np.float32)
        return mean, np.maximum(np.reshape(deviations, shape), 1e-6).astype(np.float32)
