"""The order in which classes arrive, and the division of a data set into tasks."""

import dataclasses
import difflib
import functools
from collections.abc import Sequence

import numpy as np

from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError
from cil_jax.settings import orders, task_sizes
from cil_jax.settings.streams import ONCE, Stream

ROUNDING = 1e-9  # so that a share of 0.29 of 100 images is 29 of them


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
      stream: how many images of a class arrive, and whether some arrive later or again.
    """

    dataset: Dataset
    class_order: tuple[int, ...]
    task_sizes: tuple[int, ...]
    stream: Stream = ONCE

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
        """Number of training images of the class with the most images, over all tasks."""
        return int(np.bincount(self._labels[self._rows_up_to(len(self.task_sizes) - 1)]).max())

    @property
    def largest_task(self) -> int:
        """Number of training images of the task with the most images."""
        return max(map(len, self._rows))

    def n_images(self, task: int) -> int:
        """Returns the number of training images of a task."""
        return len(self._rows[task])

    def n_test_images(self, task: int) -> int:
        """Returns the number of test images of a task."""
        counts = np.bincount(self.dataset.test_labels, minlength=self.dataset.n_classes)
        first, end = self.bounds[task : task + 2]
        return int(counts[list(self.class_order)][first:end].sum())

    @property
    def n_all_images(self) -> int:
        """Number of different training images of all tasks."""
        return len(self._rows_up_to(len(self.task_sizes) - 1))

    def counts(self) -> np.ndarray:
        """Returns the number of training images of each class in each task, int [classes, T]."""
        n_classes = len(self.class_order)
        counts = [np.bincount(self._labels[rows], minlength=n_classes) for rows in self._rows]
        return np.stack(counts, axis=1)

    def task(self, index: int) -> Task:
        """Returns the task with this index; its images keep the order of the data set."""
        return self._task(index, self._rows[index])

    def first_seen(self, index: int) -> Task:
        """Returns the task with this index, without images that an earlier one had as well."""
        rows = self._rows[index]
        return self._task(index, np.setdiff1d(rows, self._rows_up_to(index - 1)))

    def up_to(self, index: int) -> Task:
        """Returns the task with this index, with the images of all earlier tasks as well."""
        return self._task(index, self._rows_up_to(index))

    def _task(self, index: int, rows: np.ndarray) -> Task:
        size, images = self.task_sizes[index], self.dataset.train_images
        return Task(index, size, images[rows], self._labels[rows])

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        """The position of each training image's class in the class order; -1 for none."""
        return self._positions()[self.dataset.train_labels]

    def _rows_up_to(self, index: int) -> np.ndarray:
        """Returns the rows of the tasks up to this one, each once, in the order of the data set."""
        return np.unique(np.concatenate([np.zeros(0, int), *self._rows[: index + 1]]))

    @functools.cached_property
    def _rows(self) -> tuple[np.ndarray, ...]:
        """The rows of the training set that each task brings, in the order of the data set."""
        n_classes, n_tasks = len(self.class_order), len(self.task_sizes)
        rng = np.random.RandomState(self.stream.seed)
        rank = np.arange(n_classes)  # by the number of images, from the largest class on
        if self.stream.imbalance_order == "shuffled":
            rank = rng.permutation(n_classes)
        shares = self.stream.imbalance ** (-rank / max(n_classes - 1, 1))
        task_of = np.repeat(np.arange(n_tasks), self.task_sizes)
        rows: list[list[np.ndarray]] = [[] for _ in range(n_tasks)]
        for c, (first, share) in enumerate(zip(task_of, shares, strict=True)):
            images = rng.permutation(np.flatnonzero(self._labels == c))
            images = images[: max(1, int(share * len(images) + ROUNDING))]
            later = range(first + 1, n_tasks)
            n_late = int(self.stream.blurry * len(images) + ROUNDING) if later else 0
            own = images[: len(images) - n_late]
            rows[first].append(own)
            for t, late in zip(
                later, np.array_split(images[len(own) :], max(len(later), 1)), strict=False
            ):
                rows[t].append(late)
                if rng.random_sample() < self.stream.repeat:
                    rows[t].append(own)
        return tuple(np.sort(np.concatenate(parts)) for parts in rows)

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


def class_order(
    n_classes: int, order: str, seed: int, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Returns the classes in the order in which they arrive, int [k].

    Args:
      n_classes: number of classes of the data set.
      order: "natural" for 0, 1, 2, ..., "seeded" for a random permutation, "icarl" for
        `ICARL_ORDER`, or a list such as "3, 1, 2", whose classes are numbers or names.
      seed: seed of the permutation. 1993 gives the order that PyCIL and most papers use.
      class_names: the names of the classes, which a list may contain.

    Returns:
      All classes, so that k is n_classes, or those of the list.

    Raises:
      UserError: if the order is "icarl" and the number of classes is not 100, or if a list names an
        unknown class or a class twice.
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
    if order == "seeded":
        return np.random.RandomState(seed).permutation(n_classes)
    return np.array(_own_order(orders.classes_of(order), n_classes, class_names))


def _own_order(classes: Sequence[str], n_classes: int, class_names: Sequence[str]) -> list[int]:
    """Returns the labels of classes that are given as names or numbers; a name takes precedence.

    Raises:
      UserError: if a class is unknown or occurs twice.
    """
    labels = {str(label): label for label in range(n_classes)}
    labels |= {name: label for label, name in enumerate(class_names)}
    chosen: dict[int, str] = {}
    for written in classes:
        # 007 is class 7, unless that is a name.
        word = str(int(written)) if written.isdecimal() and written not in labels else written
        if word not in labels:
            close = difflib.get_close_matches(word, class_names, n=1)
            hint = f": did you mean {close[0]!r}?" if close else ""
            raise UserError(
                f"--order has an unknown class {written!r}{hint or '.'} The data set has the "
                f"classes 0 to {n_classes - 1}, which may also be given by name"
            )
        label = labels[word]
        if label in chosen:
            again = "" if written == chosen[label] else f", once as {chosen[label]!r}"
            raise UserError(f"--order has class {written!r} twice{again}")
        chosen[label] = written
    return list(chosen)


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


def split_as_listed(n_classes: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Returns the listed sizes of the tasks.

    Raises:
      UserError: if they do not add up to n_classes.
    """
    total, listed = sum(sizes), ",".join(map(str, sizes))
    if total > n_classes:
        raise UserError(f"--tasks {listed} adds up to {total} classes, but there are {n_classes}")
    if total < n_classes:
        raise UserError(
            f"--tasks {listed} adds up to {total} of {n_classes} classes: add --classes {total} to "
            "use only the first of them, or further tasks"
        )
    return tuple(sizes)


def create(
    dataset: Dataset,
    *,
    order: str = "seeded",
    order_seed: int = 1993,
    task_size: int = 10,
    first_task: int | None = None,
    classes: int | None = None,
    tasks: str | None = None,
    stream: Stream = ONCE,
) -> Scenario:
    """Divides a data set into tasks.

    Args:
      dataset: the data set.
      order, order_seed: see `class_order`.
      task_size, first_task: see `split`.
      classes: use only this many classes, the first of the class order (default: all).
      tasks: the size of each task, such as "50,10,10,30", in place of task_size and first_task.
      stream: see `Scenario`.

    Raises:
      UserError: if the data set has too few classes for these numbers, or the order does not fit.
    """
    ordered = class_order(dataset.n_classes, order, order_seed, dataset.class_names)
    n_classes = len(ordered) if classes is None else classes
    if not 1 <= n_classes <= len(ordered):
        owner = f"{dataset.name} has" if order in orders.NAMES else "the list of --order has"
        raise UserError(
            f"--classes is {n_classes}; {owner} {len(ordered)} classes, so it must lie in "
            f"1..{len(ordered)}"
        )
    if tasks is None:
        sizes = split(n_classes, task_size, first_task)
    else:
        sizes = split_as_listed(n_classes, task_sizes.sizes_of(task_sizes.normalized(tasks)))
    return Scenario(dataset, tuple(ordered[:n_classes].tolist()), sizes, stream)
