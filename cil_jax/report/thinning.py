"""Reduces many classes or tasks to as many as a figure can show."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

MOST = 100  # rows of a matrix; beyond that, classes are merged and some tasks are left out


@dataclasses.dataclass(frozen=True)
class Groups:
    """The rows of a confusion matrix: a class each, or several consecutive classes.

    Attributes:
      bounds: G + 1 numbers; group g has classes bounds[g] .. bounds[g + 1] - 1.
      names: the name of each group.
      tasks: the groups that begin a task, except the first.
      note: says how classes were merged; "" if each class is a group.
    """

    bounds: list[int]
    names: list[str]
    tasks: list[int]
    note: str


def groups(class_names: Sequence[str], task_sizes: Sequence[int], n_seen: int) -> Groups:
    """Groups the classes seen.

    Up to MOST classes, each is a group. Beyond that there are at most twice MOST groups. Each is a
    task or a part of one or, if there are more than MOST tasks, several tasks.

    Args:
      class_names: the names of all classes, in class order.
      task_sizes: the number of classes of each task.
      n_seen: the number of classes seen, which are those of whole tasks.
    """
    n = n_tasks(task_sizes, n_seen)
    ends = np.cumsum([0, *task_sizes[:n]]).tolist()
    if n_seen <= MOST:
        return Groups(list(range(n_seen + 1)), list(class_names[:n_seen]), ends[1:-1], "")
    classes_per_group, tasks_per_group = -(-n_seen // MOST), -(-n // MOST)
    bounds, names = [0], []
    for first in range(0, n, tasks_per_group):
        last = min(first + tasks_per_group, n) - 1
        start, stop = ends[first], ends[last + 1]
        n_groups = -(-(stop - start) // classes_per_group) if first == last else 1
        edges = np.linspace(start, stop, n_groups + 1).astype(int).tolist()
        bounds += edges[1:]
        if n_groups == 1:
            names.append(f"task {first + 1}" if first == last else f"tasks {first + 1}-{last + 1}")
            continue
        for low, high in itertools.pairwise(edges):
            last_name = f" to {class_names[high - 1]}" if high - low > 1 else ""
            names.append(f"{class_names[low]}{last_name}")
    note = f"{n_seen} classes in {len(names)} groups of consecutive classes"
    return Groups(bounds, names, [g for g, b in enumerate(bounds[:-1]) if g and b in ends], note)


def n_tasks(task_sizes: Sequence[int], n_seen: int) -> int:
    """The number of tasks whose classes are the first `n_seen`."""
    return int(np.searchsorted(np.cumsum(task_sizes), n_seen)) + 1


def spread(n: int, most: int) -> list[int]:
    """At most `most` of the numbers 0 .. n - 1, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()
