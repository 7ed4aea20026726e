"""The order in which classes arrive, and the division of a data set into tasks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """The training images of classes that arrive together.

    Attributes:
      index: number of the task, from 0.
      n_classes: number of classes that arrive with it.
      images: uint8 [N, H, W, C].
      labels: int32 [N], positions in the class order.
    """

    index: int
    n_classes: int
    images: np.ndarray
    labels: np.ndarray

    def padded(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels in arrays of `n_rows` rows; unused rows have the label -1."""
        images = np.zeros((n_rows, *self.images.shape[1:]), np.uint8)
        labels = np.full(n_rows, -1, np.int32)
        images[: len(self.labels)], labels[: len(self.labels)] = self.images, self.labels
        return images, labels


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A data set divided into tasks.

    Labels are positions in the class order, so the classes seen so far are 0 .. n_seen - 1.

    Attributes:
      dataset: the source of the images.
      class_order: the data set's original labels, in the order in which they arrive.
      task_sizes: number of classes of each task.
    """

    dataset: Dataset
    class_order: tuple[int, ...]
    task_sizes: tuple[int, ...]

    @property
    def bounds(self) -> tuple[int, ...]:
        """T + 1 numbers of classes: task t has the classes bounds[t] .. bounds[t + 1] - 1."""
        return tuple(np.cumsum([0, *self.task_sizes]).tolist())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the class order."""
        return tuple(self.dataset.class_names[c] for c in self.class_order)

    @property
    def largest_class(self) -> int:
        """Number of training images of the class with the most images."""
        return int(self._counts(self.dataset.train_labels).max())

    @property
    def largest_task(self) -> int:
        """Number of training images of the task with the most images."""
        return max(self.n_images(t) for t in range(len(self.task_sizes)))

    def n_images(self, task: int) -> int:
        """Returns the number of training images of a task."""
        return self._n_images(self.dataset.train_labels, task)

    def n_test_images(self, task: int) -> int:
        """Returns the number of test images of a task."""
        return self._n_images(self.dataset.test_labels, task)

    @property
    def n_all_images(self) -> int:
        """Number of training images of all tasks."""
        return int(self._counts(self.dataset.train_labels).sum())

    def _n_images(self, labels: np.ndarray, task: int) -> int:
        first, end = self.bounds[task : task + 2]
        return int(self._counts(labels)[first:end].sum())

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        """Returns the number of images of each class, in the class order."""
        counts = np.bincount(labels, minlength=self.dataset.n_classes)
        return counts[list(self.class_order)]

    def task(self, index: int) -> Task:
        """Returns the task with this index; its images keep the order of the data set."""
        return self._task(index, self.bounds[index])

    def up_to(self, index: int) -> Task:
        """Returns the task with this index, with the images of all earlier tasks as well."""
        return self._task(index, 0)

    def _task(self, index: int, first: int) -> Task:
        start, end = self.bounds[index : index + 2]
        labels = self._positions()[self.dataset.train_labels]
        rows = np.flatnonzero((labels >= first) & (labels < end))
        return Task(index, end - start, self.dataset.train_images[rows], labels[rows])

    def test_set(self) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        """Returns the test images of all tasks, sorted by their position in the class order.

        Returns:
          images: uint8 [N, H, W, C].
          labels: int32 [N], positions in the class order.
          bounds: T + 1 row numbers. The images of task t are rows bounds[t] .. bounds[t + 1] - 1,
            and the images of all classes seen after task t are the rows before bounds[t + 1].
        """
        labels = self._positions()[self.dataset.test_labels]
        rows = np.argsort(labels, kind="stable")
        rows = rows[np.searchsorted(labels[rows], 0) :]  # without classes that never arrive
        labels = labels[rows]
        bounds = np.searchsorted(labels, self.bounds)
        return self.dataset.test_images[rows], labels, tuple(bounds.tolist())

    def _positions(self) -> np.ndarray:
        """Returns the position of each class in the class order, int32 [classes].

        A class that never arrives has the position -1.
        """
        positions = np.full(self.dataset.n_classes, -1, np.int32)
        positions[list(self.class_order)] = np.arange(len(self.class_order))
        return positions


ICARL_ORDER = (
    *(87, 0, 52, 58, 44, 91, 68, 97, 51, 15),
    *(94, 92, 10, 72, 49, 78, 61, 14, 8, 86),
    *(84, 96, 18, 24, 32, 45, 88, 11, 4, 67),
    *(69, 66, 77, 47, 79, 93, 29, 50, 57, 83),
    *(17, 81, 41, 12, 37, 59, 25, 20, 80, 73),
    *(1, 28, 6, 46, 62, 82, 53, 9, 31, 75),
    *(38, 63, 33, 74, 27, 22, 36, 3, 16, 21),
    *(60, 19, 70, 90, 89, 43, 5, 42, 65, 76),
    *(40, 30, 23, 85, 2, 95, 56, 48, 71, 64),
    *(98, 13, 99, 7, 34, 55, 54, 26, 35, 39),
)
"""The first order of CIFAR-100's classes in the code of iCaRL's authors, ten classes a line.

Their loader shuffles the 500 images of each of the 100 classes, starting from NumPy's seed 1993,
before the order is drawn, so it is not the permutation of seed 1993 that later papers use.
"""


def class_order(n_classes: int, order: str, seed: int) -> np.ndarray:
    """Returns all classes in the order in which they arrive, int [n_classes].

    Args:
      n_classes: number of classes of the data set.
      order: "natural" for 0, 1, 2, ..., "seeded" for a random permutation, or "icarl" for
        `ICARL_ORDER`.
      seed: seed of the permutation. 1993 gives the order that PyCIL and most papers use.

    Raises:
      UserError: if the order is "icarl" and the number of classes is not 100.
    """
    if order == "natural":
        return np.arange(n_classes)
    if order == "icarl":
        if n_classes != len(ICARL_ORDER):
            raise UserError(
                f"--order icarl is an order of {len(ICARL_ORDER)} classes (CIFAR-100), "
                f"and this data set has {n_classes}"
            )
        return np.array(ICARL_ORDER)
    return np.random.RandomState(seed).permutation(n_classes)


def split(n_classes: int, task_size: int, first_task: int | None = None) -> tuple[int, ...]:
    """Returns the number of classes of each task.

    Args:
      n_classes: number of classes of all tasks.
      task_size: classes per task. The last task has fewer if the number is not divisible.
      first_task: classes of the first task (default: task_size).

    Raises:
      UserError: if a size is not in 1..n_classes.
    """
    first = task_size if first_task is None else first_task
    for name, size in (("--task-size", task_size), ("--first-task", first)):
        if not 1 <= size <= n_classes:
            raise UserError(
                f"{name} is {size}; with {n_classes} classes it must lie in 1..{n_classes}"
            )
    n_full_tasks, remainder = divmod(n_classes - first, task_size)
    return (first, *[task_size] * n_full_tasks, *([remainder] if remainder else []))


def create(
    dataset: Dataset,
    *,
    order: str = "seeded",
    order_seed: int = 1993,
    task_size: int = 10,
    first_task: int | None = None,
    classes: int | None = None,
) -> Scenario:
    """Divides a data set into tasks.

    Args:
      dataset: the data set.
      order, order_seed: see `class_order`.
      task_size, first_task: see `split`.
      classes: use only this many classes, the first of the class order (default: all).

    Raises:
      UserError: if the data set has too few classes for these numbers.
    """
    n_classes = dataset.n_classes if classes is None else classes
    if not 1 <= n_classes <= dataset.n_classes:
        raise UserError(
            f"--classes is {n_classes}; {dataset.name} has {dataset.n_classes} classes, so it must "
            f"lie in 1..{dataset.n_classes}"
        )
    sizes = split(n_classes, task_size, first_task)
    chosen: Sequence[int] = class_order(dataset.n_classes, order, order_seed)[:n_classes].tolist()
    return Scenario(dataset, tuple(chosen), sizes)
