"""A data set of the user's own in one file that numpy.savez wrote.

    images   uint8 [N, H, W] or [N, H, W, C], C 1 (grey) or 3 (colour), pixels 0..255
    labels   integers [N], 0 .. classes - 1
    names    strings [classes], if classes have names
    split    strings [N], "train" or "test"; or instead of it
    test_images, test_labels   as images and labels, which are then for training

With neither, a share of each class is held out for testing.
"""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from cil_jax.data.dataset import Dataset
from cil_jax.data.own import (
    Problems,
    Reading,
    check_classes,
    check_memory,
    check_names,
    dataset,
    existing,
    hold_out,
    refuse_split,
)
from cil_jax.errors import UserError, nearest_name
from cil_jax.files.npz import HoldsObjects, UnreadableArray, opened, read_array

IMAGES = "uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels, pixels 0..255"
LABELS = "integers [N], one for each image"
STRINGS = {"names": "strings [classes]", "split": "strings [N], each 'train' or 'test'"}
MUST_BE = {"images": IMAGES, "labels": LABELS, **STRINGS, "test_images": IMAGES,
           "test_labels": LABELS}  # fmt: skip
SHOWN = 10  # places of wrong values in one array

Arrays = dict[str, np.ndarray]


def load(path: str, reading: Reading) -> Dataset:
    """The data set of a file.

    Args:
      path: of the file.
      reading: what share is for testing, where the file does not say.

    Raises:
      UserError: with all that is wrong with it.
    """
    file = existing(path, is_file=True)
    problems = Problems(file)
    arrays = _arrays(file, problems)
    names = _names(arrays, problems)
    _check_together(arrays, problems)
    for key in ("labels", "test_labels"):
        if key in arrays:
            _check_range(key, arrays[key], names, problems)
    is_test = _test_rows(arrays, names, reading, problems)
    problems.check()

    images, labels = arrays["images"], arrays["labels"]
    if "test_images" in arrays or "split" in arrays:
        refuse_split(reading, f"{file} says itself what is for testing")
    if "test_images" in arrays:
        images, labels = (images, arrays["test_images"]), (labels, arrays["test_labels"])
    else:
        images, labels = (images[~is_test], images[is_test]), (labels[~is_test], labels[is_test])
    return dataset(f"npz:{path}", images, labels, names)


def _test_rows(
    arrays: Arrays, names: list[str], reading: Reading, problems: Problems
) -> np.ndarray | None:
    """bool [N]: which of the images are for testing; None if the file has others for that."""
    if "labels" not in arrays or not names:
        return None
    labels, split = arrays["labels"], arrays.get("split")
    if "test_labels" in arrays:
        check_classes(names, labels, arrays["test_labels"], problems)
        return None
    if split is None:
        return hold_out(labels, names, reading, problems)
    is_test = split == "test"
    if len(split) == len(labels):
        check_classes(names, labels[~is_test], labels[is_test], problems)
    return is_test


def _arrays(file: Path, problems: Problems) -> Arrays:
    """The arrays that are what they must be."""
    arrays: Arrays = {}
    try:
        with opened(file) as stored:
            check_memory(sum(info.file_size for info in stored.zip.infolist()))
            for key in stored.files:
                if key not in MUST_BE:
                    problems.add(f"unknown array {key!r}{nearest_name(key, MUST_BE)}")
                    continue
                array = _usable(stored, key)
                if isinstance(array, str):
                    problems.add(f"{key} {array}")
                else:
                    arrays[key] = _plain(key, array)
            wanted = ["images", "labels"]
            if {"test_images", "test_labels"} & set(stored.files):
                wanted += ["test_images", "test_labels"]
            for key in wanted:
                if key not in stored.files:
                    held = ", ".join(stored.files) or "no array"
                    problems.add(f"{key} is missing; the file holds {held}")
            if "split" in stored.files and len(wanted) > 2:
                problems.add("both split and test_images say what is for testing: leave one out")
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise UserError(f"{file} can't be read: {error or type(error).__name__}") from error
    return arrays


def _usable(stored: NpzFile, key: str) -> np.ndarray | str:
    """An array that is what it must be, or what is wrong with it."""
    try:
        array = read_array(stored, key)
    except HoldsObjects as error:
        return f"{error}; it must be {MUST_BE[key]}: give numpy.array a dtype"
    except UnreadableArray as error:
        return str(error)
    if not _fits(key, array):
        return f"is {array.dtype} {list(array.shape)}; it must be {MUST_BE[key]}"
    return array


def _fits(key: str, array: np.ndarray) -> bool:
    if array.size == 0:
        return False
    if key in STRINGS:
        return array.dtype.kind in "US" and array.ndim == 1
    if key.endswith("labels"):
        return array.dtype.kind in "iu" and array.ndim == 1
    has_channels = array.ndim == 4 and array.shape[3] in (1, 3)
    return array.dtype == np.uint8 and (array.ndim == 3 or has_channels)


def _plain(key: str, array: np.ndarray) -> np.ndarray:
    if key in STRINGS:
        return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    if key.endswith("labels"):
        return array.astype(np.int64)
    return array[..., None] if array.ndim == 3 else array


def _names(arrays: Arrays, problems: Problems) -> list[str]:
    """Of the classes: their numbers, where they have no names."""
    if "names" in arrays:
        names = arrays["names"].tolist()
        check_names(names, problems)
        return names
    labels = [arrays[key] for key in ("labels", "test_labels") if key in arrays]
    values = np.unique(np.concatenate([np.zeros(0, int), *labels]))
    values = values[values >= 0]
    if len(values) and int(values[-1]) >= 2 * len(values):  # not a list of a million empty classes
        problems.add(
            f"labels go up to {values[-1]}, but only {len(values)} of them occur: number the "
            f"classes 0..{len(values) - 1}"
        )
        return []
    return [str(c) for c in range(int(values[-1]) + 1 if len(values) else 0)]


def _check_range(key: str, labels: np.ndarray, names: list[str], problems: Problems) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong) and names:
        shown = ", ".join(f"{labels[i]} (image {i})" for i in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        above = f"; {len(names)} classes are named" if labels.max() >= len(names) else ""
        problems.add(f"{key} must lie in 0..{len(names) - 1}, not be {shown}{more}{above}")


def _check_together(arrays: Arrays, problems: Problems) -> None:
    """Lengths and sizes."""
    for one, other in (("images", "labels"), ("images", "split"), ("test_images", "test_labels")):
        if one in arrays and other in arrays and len(arrays[one]) != len(arrays[other]):
            problems.add(f"{one} has {len(arrays[one])} entries, {other} {len(arrays[other])}")
    if "images" in arrays and "test_images" in arrays:
        shapes = [list(arrays[key].shape[1:]) for key in ("images", "test_images")]
        if shapes[0] != shapes[1]:
            problems.add(f"images are {shapes[0]} each, test_images {shapes[1]}")
    if "split" in arrays:
        others = sorted(set(arrays["split"].tolist()) - {"train", "test"})
        if others:
            problems.add(f"split must be 'train' or 'test', not {', '.join(map(repr, others))}")
