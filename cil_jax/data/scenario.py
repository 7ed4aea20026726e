"""The order in which classes come, and the tasks that this makes of a data set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """Classes that arrive together.

    Attributes:
      index: from 0.
      n_classes: how many there are.
      images: uint8 [N, H, W, C], for training.
      labels: int32 [N], places in the class order.
    """

    index: int
    n_classes: int
    images: np.ndarray
    labels: np.ndarray

    def padded(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels as arrays of so many rows; label -1 where there is no image."""
        images = np.zeros((n_rows, *self.images.shape[1:]), np.uint8)
        labels = np.full(n_rows, -1, np.int32)
        images[: len(self.labels)], labels[: len(self.labels)] = self.images, self.labels
        return images, labels


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A data set cut into tasks.

    Labels are places in the class order, so that the classes seen are always 0 .. n_seen - 1.

    Attributes:
      dataset: where the images come from.
      class_order: the data set's own labels, in the order in which they come.
      task_sizes: classes of each task.
    """

    dataset: Dataset
    class_order: tuple[int, ...]
    task_sizes: tuple[int, ...]

    @property
    def bounds(self) -> tuple[int, ...]:
        """Classes before each task, and all: task t has classes bounds[t] .. bounds[t + 1] - 1."""
        return tuple(np.cumsum([0, *self.task_sizes]).tolist())

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order in which classes come."""
        return tuple(self.dataset.class_names[c] for c in self.class_order)

    @property
    def largest_class(self) -> int:
        """Training images of the class that has most."""
        return int(self._counts(self.dataset.train_labels).max())

    @property
    def largest_task(self) -> int:
        """Training images of the task that has most."""
        return max(self.n_images(t) for t in range(len(self.task_sizes)))

    def n_images(self, task: int) -> int:
        """Training images of a task."""
        return self._n_images(self.dataset.train_labels, task)

    def n_test_images(self, task: int) -> int:
        """Test images of a task."""
        return self._n_images(self.dataset.test_labels, task)

    @property
    def n_all_images(self) -> int:
        """Training images of all tasks."""
        return int(self._counts(self.dataset.train_labels).sum())

    def _n_images(self, labels: np.ndarray, task: int) -> int:
        first, end = self.bounds[task : task + 2]
        return int(self._counts(labels)[first:end].sum())

    def _counts(self, labels: np.ndarray) -> np.ndarray:
        """Images of each class, in the order in which classes come."""
        counts = np.bincount(labels, minlength=self.dataset.n_classes)
        return counts[list(self.class_order)]

    def task(self, index: int) -> Task:
        """Task `index` with its training images, in the data set's order."""
        return self._task(index, self.bounds[index])

    def up_to(self, index: int) -> Task:
        """Task `index` with its training images and those of all tasks before it."""
        return self._task(index, 0)

    def _task(self, index: int, first: int) -> Task:
        start, end = self.bounds[index : index + 2]
        labels = self._places()[self.dataset.train_labels]
        rows = np.flatnonzero((labels >= first) & (labels < end))
        return Task(index, end - start, self.dataset.train_images[rows], labels[rows])

    def test_set(self) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        """Test images and labels, classes in the order in which they come, and task bounds.

        Returns:
          uint8 [N, H, W, C], int32 [N], and T + 1 rows: task t's images are rows
          bounds[t] .. bounds[t + 1] - 1, and the classes seen so far a prefix.
        """
        labels = self._places()[self.dataset.test_labels]
        rows = np.argsort(labels, kind="stable")
        rows = rows[np.searchsorted(labels[rows], 0) :]
        labels = labels[rows]
        bounds = np.searchsorted(labels, self.bounds)
        return self.dataset.test_images[rows], labels, tuple(bounds.tolist())

    def _places(self) -> np.ndarray:
        """int32 [classes]: each class' place in the order, -1 if it never comes."""
        places = np.full(self.dataset.n_classes, -1, np.int32)
        places[list(self.class_order)] = np.arange(len(self.class_order))
        return places


def class_order(n_classes: int, order: str, seed: int) -> np.ndarray:
    """All classes in the order in which they come.

    Args:
      n_classes: of the data set.
      order: "natural" or "seeded".
      seed: of the seeded order; 1993 gives the one that PyCIL and most papers use. iCaRL's own code
        draws other numbers between this seed and its orders.
    """
    if order == "natural":
        return np.arange(n_classes)
    return np.random.RandomState(seed).permutation(n_classes)


def split(n_classes: int, task_size: int, first_task: int | None = None) -> tuple[int, ...]:
    """Sizes of the tasks: the first may be another, and the last is what remains.

    Raises:
      UserError: if a size does not fit.
    """
    first = task_size if first_task is None else first_task
    for name, size in (("--task-size", task_size), ("--first-task", first)):
        if not 1 <= size <= n_classes:
            raise UserError(
                f"{name} {size} does not fit {n_classes} classes: take one of 1..{n_classes}"
            )
    whole, rest = divmod(n_classes - first, task_size)
    return (first, *[task_size] * whole, *([rest] if rest else []))


def create(
    dataset: Dataset,
    *,
    order: str = "seeded",
    order_seed: int = 1993,
    task_size: int = 10,
    first_task: int | None = None,
    classes: int | None = None,
) -> Scenario:
    """Cuts a data set into tasks.

    Args:
      dataset: what to learn.
      order, order_seed: see `class_order`.
      task_size, first_task: see `split`.
      classes: only so many classes of the order (default: all).

    Raises:
      UserError: if sizes do not fit the data set.
    """
    n_classes = dataset.n_classes if classes is None else classes
    if not 1 <= n_classes <= dataset.n_classes:
        raise UserError(f"{n_classes} classes asked for; {dataset.name} has {dataset.n_classes}")
    sizes = split(n_classes, task_size, first_task)
    chosen: Sequence[int] = class_order(dataset.n_classes, order, order_seed)[:n_classes].tolist()
    return Scenario(dataset, tuple(chosen), sizes)
