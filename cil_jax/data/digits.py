"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 that come with the package."""

import numpy as np

from cil_jax.data.dataset import Dataset

TEST_SHARE = 0.2


def load() -> Dataset:
    """The digits, the last fifth of each class for testing.

    The images stand in the order of their writers, so the test digits are by other hands.
    Source: E. Alpaydin and C. Kaynak, UCI repository, optical recognition of handwritten digits.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
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
