"""Sparse confusion matrices.

Only cells with images are stored, so the size grows with the number of test images and not with the
square of the number of classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """The confusion matrix of a classifier.

    Attributes:
      n_classes: C, the number of classes seen.
      cells: int32 [3, K]: true class, predicted class and number of images of each cell that has
        images, sorted by true class and then by predicted class.
    """

    n_classes: int
    cells: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray | Sequence[Sequence[int]]) -> "Confusion":
        """Converts a matrix int [C, C]; rows are true classes, columns predicted classes."""
        matrix = np.asarray(matrix)
        places = np.nonzero(matrix)
        return cls(len(matrix), np.stack([*places, matrix[places]]).astype(np.int32))

    def matrix(self) -> np.ndarray:
        """The dense matrix int [C, C]; rows are true classes, columns predicted classes."""
        return self.grouped(range(self.n_classes + 1))

    def images(self) -> np.ndarray:
        """int [C]: the number of images of each true class."""
        true, _, n_images = self.cells
        return np.bincount(true, n_images, self.n_classes).astype(int)

    def grouped(self, bounds: Sequence[int]) -> np.ndarray:
        """Returns the confusion matrix of groups of classes, int [G, G].

        Args:
          bounds: G + 1 numbers from 0 to C; group g has classes bounds[g] .. bounds[g + 1] - 1.
        """
        true, predicted, n_images = self.cells
        matrix = np.zeros((len(bounds) - 1,) * 2, int)
        groups = (np.searchsorted(bounds, c, side="right") - 1 for c in (true, predicted))
        np.add.at(matrix, tuple(groups), n_images)
        return matrix

    def answers(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """The predictions for the images of a class.

        Args:
          label: the true class.

        Returns:
          The classes predicted, and the number of images for each; both int [K].
        """
        start, stop = np.searchsorted(self.cells[0], (label, label + 1))
        return self.cells[1, start:stop], self.cells[2, start:stop]

    def pairs(self, n: int) -> list[tuple[int, int, int, int]]:
        """The pairs of classes that are confused most, by the share of the true class' images.

        Args:
          n: the maximum number of pairs.

        Returns:
          For each pair: the true class, the predicted class, the number of images confused, and
          the number of images of the true class.
        """
        true, predicted, n_images = self.cells[:, self.cells[0] != self.cells[1]]
        n_of_class = self.images()[true]
        worst = np.argsort(-n_images / np.maximum(n_of_class, 1), kind="stable")[:n]
        columns = (true, predicted, n_images, n_of_class)
        return list(zip(*(column[worst].tolist() for column in columns), strict=True))
