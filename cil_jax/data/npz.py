"""Users' own data in one file that numpy.savez wrote, with these arrays:

    images   uint8 [N, H, W] or [N, H, W, C], C = 1 (grey) or 3 (colour), pixels 0..255
    labels   integers [N], 0 .. classes - 1
    names    strings [classes], optional
    split    strings [N], "train" or "test", optional
    test_images, test_labels   in place of split; images and labels are then for training

Without split and test images, a random part of each class is used for testing.
"""

from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from cil_jax.data.dataset import Dataset
from cil_jax.data.user_data import (
    Problems,
    ReadOptions,
    check_classes,
    check_memory,
    check_names,
    existing_path,
    hold_out,
    refuse_split_options,
    user_dataset,
)
from cil_jax.errors import UserError, nearest_name
from cil_jax.files.npz import HoldsObjects, UnreadableArray, opened, read_array

IMAGES = "uint8 [N, H, W] or [N, H, W, C] with 1 or 3 channels, pixels 0..255"
LABELS = "integers [N], one for each image"
STRINGS = {"names": "strings [classes]", "split": "strings [N], each 'train' or 'test'"}
# What each array of a file must be, in words.
REQUIREMENTS = {"images": IMAGES, "labels": LABELS, **STRINGS, "test_images": IMAGES,
                "test_labels": LABELS}  # fmt: skip
MAX_SHOWN = 10  # wrong labels of one array that a message lists

Arrays = dict[str, np.ndarray]


def load(path: str, options: ReadOptions) -> Dataset:
    """Loads the data set of a file.

    Args:
      path: path of the file.
      options: how to choose test images, for a file that has none.

    Raises:
      UserError: if there is no such file or its data is faulty; the message lists all problems.
    """
    file = existing_path(path, is_file=True)
    problems = Problems(file)
    arrays = _arrays(file, problems)
    names = _names(arrays, problems)
    _check_sizes(arrays, problems)
    for key in ("labels", "test_labels"):
        if key in arrays:
            _check_range(key, arrays[key], names, problems)
    is_test = _choose_test_images(arrays, names, options, problems)
    problems.check()

    if "test_images" in arrays or "split" in arrays:
        refuse_split_options(options, f"{file} already says which images are for testing")
    images, labels = arrays["images"], arrays["labels"]
    if is_test is None:
        split_images = (images, arrays["test_images"])
        split_labels = (labels, arrays["test_labels"])
    else:
        split_images = (images[~is_test], images[is_test])
        split_labels = (labels[~is_test], labels[is_test])
    return user_dataset(f"npz:{path}", split_images, split_labels, names)


def _choose_test_images(
    arrays: Arrays, names: list[str], options: ReadOptions, problems: Problems
) -> np.ndarray | None:
    """Returns which rows of `images` are for testing, bool [N].

    Returns None if the file has separate test images, or if there are no usable labels, which is
    a problem already added.
    """
    if "labels" not in arrays or not names:
        return None
    labels, split = arrays["labels"], arrays.get("split")
    if "test_labels" in arrays:
        check_classes(names, labels, arrays["test_labels"], problems)
        return None
    if split is None:
        return hold_out(labels, names, options, problems)
    is_test = split == "test"
    if len(split) == len(labels):
        check_classes(names, labels[~is_test], labels[is_test], problems)
    return is_test


def _arrays(file: Path, problems: Problems) -> Arrays:
    """Reads the arrays of a file. Adds a problem for each array that is faulty or missing.

    Raises:
      UserError: if the file is damaged, or its arrays do not fit into memory.
    """
    arrays: Arrays = {}
    try:
        with opened(file) as stored:
            assert stored.zip is not None  # it is open
            check_memory(sum(info.file_size for info in stored.zip.infolist()))
            _check_keys(stored.files, problems)
            for key in stored.files:
                if key not in REQUIREMENTS:
                    continue
                array = _read_valid(stored, key)
                if isinstance(array, str):
                    problems.add(f"{key} {array}")
                else:
                    arrays[key] = _standard_form(key, array)
    except UserError:
        raise
    except Exception as error:  # reading a damaged file can raise any exception
        raise UserError(f"{file} can't be read: {error or type(error).__name__}") from error
    return arrays


def _check_keys(keys: list[str], problems: Problems) -> None:
    """Adds a problem for each array that is unknown, missing or superfluous."""
    for key in keys:
        if key not in REQUIREMENTS:
            problems.add(f"unknown array {key!r}{nearest_name(key, REQUIREMENTS)}")
    has_test_images = "test_images" in keys or "test_labels" in keys
    test_keys = ["test_images", "test_labels"] if has_test_images else []
    for key in ["images", "labels", *test_keys]:
        if key not in keys:
            problems.add(f"{key} is missing; the file holds {', '.join(keys) or 'no array'}")
    if "split" in keys and has_test_images:
        problems.add("both split and test_images say which images are for testing: leave one out")


def _read_valid(stored: NpzFile, key: str) -> np.ndarray | str:
    """Reads an array; if it is not what it must be, returns what is wrong with it instead."""
    try:
        array = read_array(stored, key)
    except HoldsObjects as error:
        return f"{error}; it must be {REQUIREMENTS[key]}: pass a dtype to numpy.array"
    except UnreadableArray as error:
        return str(error)
    if not _is_valid(key, array):
        return f"is {array.dtype} {list(array.shape)}; it must be {REQUIREMENTS[key]}"
    return array


def _is_valid(key: str, array: np.ndarray) -> bool:
    """Whether an array has the type and shape that REQUIREMENTS describes."""
    if array.size == 0:
        return False
    if key in STRINGS:
        return array.dtype.kind in "US" and array.ndim == 1
    if key.endswith("labels"):
        return array.dtype.kind in "iu" and array.ndim == 1
    has_channels = array.ndim == 4 and array.shape[3] in (1, 3)
    return array.dtype == np.uint8 and (array.ndim == 3 or has_channels)


def _standard_form(key: str, array: np.ndarray) -> np.ndarray:
    """Converts to Unicode strings, int64 labels, or images [N, H, W, C]."""
    if key in STRINGS:
        return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    if key.endswith("labels"):
        return array.astype(np.int64)
    return array[..., None] if array.ndim == 3 else array


def _names(arrays: Arrays, problems: Problems) -> list[str]:
    """Returns the names of the classes; without names, their numbers as text."""
    if "names" in arrays:
        names = arrays["names"].tolist()
        check_names(names, problems)
        return names
    labels = [arrays[key] for key in ("labels", "test_labels") if key in arrays]
    values = np.unique(np.concatenate([np.zeros(0, int), *labels]))
    values = values[values >= 0]
    if labels and not len(values):
        problems.add("labels are all negative: number the classes from 0")
    n_classes = int(values[-1]) + 1 if len(values) else 0
    if len(values) and n_classes > 2 * len(values):  # do not report a million empty classes
        problems.add(
            f"labels go up to {values[-1]}, but only {len(values)} different ones occur: number "
            f"the classes 0..{len(values) - 1}"
        )
        return []
    return [str(c) for c in range(n_classes)]


def _check_range(key: str, labels: np.ndarray, names: list[str], problems: Problems) -> None:
    """Adds a problem if labels lie outside 0..classes-1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(wrong) and names:
        shown = ", ".join(f"{labels[i]} (image {i})" for i in wrong[:MAX_SHOWN])
        rest = f" and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        n_names = f"; there are {len(names)} names" if labels.max() >= len(names) else ""
        problems.add(f"{key} must lie in 0..{len(names) - 1}; found {shown}{rest}{n_names}")


def _check_sizes(arrays: Arrays, problems: Problems) -> None:
    """Adds problems for arrays whose lengths or image sizes differ, and for unknown splits."""
    for key, other in (("images", "labels"), ("images", "split"), ("test_images", "test_labels")):
        if key in arrays and other in arrays and len(arrays[key]) != len(arrays[other]):
            problems.add(
                f"{key} has {len(arrays[key])} entries, but {other} has {len(arrays[other])}"
            )
    if "images" in arrays and "test_images" in arrays:
        shape, test_shape = (list(arrays[k].shape[1:]) for k in ("images", "test_images"))
        if shape != test_shape:
            problems.add(f"images have the shape {shape}, but test_images have {test_shape}")
    if "split" in arrays:
        unknown = sorted(set(arrays["split"].tolist()) - {"train", "test"})
        if unknown:
            problems.add(f"split must be 'train' or 'test', not {', '.join(map(repr, unknown))}")
