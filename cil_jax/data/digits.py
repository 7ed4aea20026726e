"""The handwritten digits of scikit-learn: 1,797 images of 8 x 8 pixels, part of the package."""

from typing import Any

import numpy as np

from cil_jax.data.dataset import Dataset
from cil_jax.errors import needs_extra

TEST_SHARE = 0.2


def load() -> Dataset:
    """Loads the digits; the last fifth of each class is for testing.

    The images are sorted by writer, so other people wrote the test digits than the training digits.
    Source: E. Alpaydin and C. Kaynak, UCI repository, optical recognition of handwritten digits.
    """
    with needs_extra("digits", "the digits"):
        from sklearn.datasets import load_digits

    source: Any = load_digits()  # scikit-learn does not declare the type of its attributes
    images = np.round(source.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    labels = source.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    for c in range(10):
        rows = np.flatnonzero(labels == c)
        is_test[rows[-round(TEST_SHARE * len(rows)) :]] = True
    return Dataset(
        name="digits",
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        class_names=tuple(str(c) for c in range(10)),
        pad=1,
        mirror=False,
    )
