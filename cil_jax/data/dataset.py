"""A data set in memory, as all sources give it."""

import dataclasses
import hashlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images with labels, split into training and test.

    Attributes:
      name: as given to `--dataset`.
      train_images, test_images: uint8 [N, H, W, C], pixels 0..255.
      train_labels, test_labels: int32 [N], each in 0..classes-1.
      class_names: one for each class.
      pad: pixels of padding that suit random crops of it.
      mirror: whether a mirrored image is still one of its class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    pad: int
    mirror: bool

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train_images.shape[1:]

    def sha256(self) -> str:
        """Of images, labels and class names: equal for equal data, wherever it came from."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def pixel_statistics(self, normalization: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the training pixels / 255, of the whole data set.

        Args:
          normalization: "per-pixel" for the mean training image [H, W, C] and a deviation of 1,
            "per-channel" for both over each channel, [1, 1, C].

        Returns:
          float32 mean and std, of one shape.
        """
        if normalization == "per-pixel":
            mean = self.train_images.mean(axis=0, dtype=np.float64) / 255.0
            return mean.astype(np.float32), np.ones_like(mean, np.float32)
        values = np.arange(256) / 255.0
        means, deviations = [], []
        for channel in range(self.image_shape[2]):
            # A histogram of bytes is exact and needs no copy of the pixels as floats.
            share = np.bincount(self.train_images[..., channel].ravel(), minlength=256)
            share = share / share.sum()
            mean = share @ values
            means.append(mean)
            deviations.append(np.sqrt(share @ (values - mean) ** 2))
        shape = (1, 1, -1)
        mean = np.reshape(means, shape).astype(np.float32)
        return mean, np.maximum(np.reshape(deviations, shape), 1e-6).astype(np.float32)
