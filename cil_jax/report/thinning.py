"""What is shown of so many classes or tasks that nobody could tell them apart."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

MOST = 100  # rows of a matrix: of more, several classes become a group, and some tasks are left out


@dataclasses.dataclass(frozen=True)
class Groups:
    """Classes as the rows of a confusion matrix: each by itself, or several together.

    Attributes:
      bounds: G + 1 numbers; group g has classes bounds[g] .. bounds[g + 1] - 1.
      names: of the groups.
      tasks: the groups with which a task begins.
      note: what was put together; "" where each class is a group.
    """

    bounds: list[int]
    names: list[str]
    tasks: list[int]
    note: str


def groups(class_names: Sequence[str], task_sizes: Sequence[int], n_seen: int) -> Groups:
    """Groups of the classes seen: each class, or twice MOST at most where there are more than MOST.

    A group is a task or a part of one; where there are more tasks than MOST, it is several.

    Args:
      class_names: of all classes, in the order in which they come.
      task_sizes: classes of each task.
      n_seen: classes seen, those of whole tasks.
    """
    n = n_tasks(task_sizes, n_seen)
    ends = np.cumsum([0, *task_sizes[:n]]).tolist()
    if n_seen <= MOST:
        return Groups(list(range(n_seen + 1)), list(class_names[:n_seen]), ends[1:-1], "")
    n_together, a_group = -(-n_seen // MOST), -(-n // MOST)  # classes, tasks
    bounds, names = [0], []
    for first in range(0, n, a_group):
        last = min(first + a_group, n) - 1
        start, stop = ends[first], ends[last + 1]
        pieces = -(-(stop - start) // n_together) if first == last else 1
        edges = np.linspace(start, stop, pieces + 1).astype(int).tolist()
        bounds += edges[1:]
        if pieces == 1:
            names.append(f"task {first + 1}" if first == last else f"tasks {first + 1}-{last + 1}")
            continue
        for a, b in itertools.pairwise(edges):
            more = f" to {class_names[b - 1]}" if b - a > 1 else ""
            names.append(f"{class_names[a]}{more}")
    note = f"{n_seen} classes in {len(names)} groups of classes that came one after the other"
    return Groups(bounds, names, [g for g, b in enumerate(bounds[:-1]) if g and b in ends], note)


def n_tasks(task_sizes: Sequence[int], n_seen: int) -> int:
    """Tasks that were learned when so many classes were seen."""
    return int(np.searchsorted(np.cumsum(task_sizes), n_seen)) + 1


def spread(n: int, most: int) -> list[int]:
    """Of 0 .. n - 1 at most so many, spread evenly, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int)).tolist()
