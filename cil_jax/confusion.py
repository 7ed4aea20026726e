"""Confusion matrices by their cells.

So they grow with the test images, and not with the square of the classes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Confusion:
    """What a classifier took for what.

    Attributes:
      n_classes: C, those seen.
      cells: int32 [3, K]: true class, answer and number of images of each cell that has images, by
        true class and then by answer.
    """

    n_classes: int
    cells: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray | Sequence[Sequence[int]]) -> "Confusion":
        """The cells of a matrix int [C, C], rows true classes, columns answers."""
        matrix = np.asarray(matrix)
        places = np.nonzero(matrix)
        return cls(len(matrix), np.stack([*places, matrix[places]]).astype(np.int32))

    def matrix(self) -> np.ndarray:
        """int [C, C], rows true classes, columns answers."""
        return self.grouped(range(self.n_classes + 1))

    def images(self) -> np.ndarray:
        """int [C]: images of each class."""
        true, _, n_images = self.cells
        return np.bincount(true, n_images, self.n_classes).astype(int)

    def grouped(self, bounds: Sequence[int]) -> np.ndarray:
        """The matrix int [G, G] of groups of classes.

        Args:
          bounds: G + 1 numbers from 0 to C; group g has classes bounds[g] .. bounds[g + 1] - 1.
        """
        true, answer, n_images = self.cells
        found = np.zeros((len(bounds) - 1,) * 2, int)
        places = (np.searchsorted(bounds, c, side="right") - 1 for c in (true, answer))
        np.add.at(found, tuple(places), n_images)
        return found

    def answers(self, label: int) -> tuple[np.ndarray, np.ndarray]:
        """What the images of a class were taken for: classes, and how many images each."""
        start, stop = np.searchsorted(self.cells[0], (label, label + 1))
        return self.cells[1, start:stop], self.cells[2, start:stop]

    def pairs(self, n: int) -> list[tuple[int, int, int, int]]:
        """The pairs of classes most often confused, by their share of the true class' images.

        Args:
          n: how many, at most.

        Returns:
          True class, what it was taken for, how many images were, and of how many.
        """
        true, answer, n_images = self.cells[:, self.cells[0] != self.cells[1]]
        of = self.images()[true]
        worst = np.argsort(-n_images / np.maximum(of, 1), kind="stable")[:n]
        columns = (true, answer, n_images, of)
        return list(zip(*(column[worst].tolist() for column in columns), strict=True))
