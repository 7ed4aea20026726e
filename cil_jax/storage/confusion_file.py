"""confusion.npz of a run folder: the confusion matrices of the last evaluation.

n_seen            C, the number of classes evaluated
cells of NAME     int32 [3, K] of each classifier, see `cil_jax.confusion.Confusion`
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cil_jax.confusion import Confusion
from cil_jax.files import npz, reading, writing
from cil_jax.storage import schemas

CELLS = "cells of "  # before a classifier's name
LARGEST_CELLS = 2**28  # bytes of the cells of one classifier: about 20 million cells


def write(file: Path, confusions: Mapping[str, Confusion]) -> None:
    """Replaces the file. Equal matrices give equal bytes.

    Args:
      file: confusion.npz.
      confusions: the matrix of each classifier in one evaluation.

    Raises:
      OSError: if it can't be written; the old file stays.
    """
    n_seen = np.array(next(iter(confusions.values())).n_classes)
    cells = {f"{CELLS}{name}": confusion.cells for name, confusion in confusions.items()}
    with writing.replaced(file) as out:
        np.savez_compressed(out, n_seen=n_seen, **cells)  # pyright: ignore[reportArgumentType]


def read(file: Path, results: schemas.Results) -> dict[str, Confusion]:
    """Reads the matrix of each classifier that has results.

    The matrices are written before the results, so they may be of a later task.

    Raises:
      UserError: if the file can't be read or does not fit the results.
    """
    n_seen = sum(results["task_sizes"][: schemas.n_learned(results)])
    classifiers = list(results["classifiers"])
    names = ("n_seen", *(f"{CELLS}{name}" for name in classifiers))
    n_evaluated, *cells_of_each = npz.read_arrays(file, names, LARGEST_CELLS)
    if n_evaluated.shape or n_evaluated.dtype.kind not in "iu":
        raise reading.damaged(file, "n_seen: it is not an integer")
    if not n_seen <= n_evaluated <= sum(results["task_sizes"]):
        raise reading.damaged(file, f"n_seen: {n_evaluated}, but {n_seen} classes were seen")
    confusions = {}
    for name, cells in zip(classifiers, cells_of_each, strict=True):
        if problem := _problem_of_cells(cells, int(n_evaluated)):
            raise reading.damaged(file, f"{CELLS}{name}: {problem}")
        confusions[name] = Confusion(int(n_evaluated), cells)
    return confusions


def _problem_of_cells(cells: np.ndarray, n_classes: int) -> str:
    """What is wrong with the cells of a classifier; "" if nothing is."""
    if cells.dtype != np.int32 or cells.ndim != 2 or len(cells) != 3:
        return f"{cells.dtype} {list(cells.shape)}; they must be int32 [3, cells]"
    if cells.size and (cells.min() < 0 or cells[:2].max() >= n_classes):
        return f"classes beyond the {n_classes} seen"
    return ""
