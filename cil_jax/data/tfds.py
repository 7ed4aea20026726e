"""Image classification data sets that tensorflow-datasets (tfds) prepared as ArrayRecord.

They are read without TensorFlow. Nothing is downloaded: missing data is an error.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cil_jax.data import image_files
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.data.user_data import Problems, ReadOptions, check_classes, check_names, user_dataset
from cil_jax.errors import UserError, needs_extra

TEST_SPLITS = ("test", "validation")  # the first one that a data set has is for testing
PURPOSE = "CIFAR-100 and other data sets of tensorflow-datasets"
INFO = "dataset_info.json"
MAX_SHOWN = 10  # records with a wrong label that a message lists


def default_data_dir() -> str:
    """Returns the folder in TFDS_DATA_DIR, or else the default folder of tensorflow-datasets."""
    with needs_extra("tfds", PURPOSE):
        from tensorflow_datasets.core import constants

    return os.environ.get("TFDS_DATA_DIR") or constants.DATA_DIR


def load(name: str, data_dir: str | os.PathLike[str] | None, options: ReadOptions) -> Dataset:
    """Loads a prepared data set.

    The test images are those of the test split, or of the validation split if there is no test
    split.

    Args:
      name: its name in tensorflow-datasets, or NAME:CONFIG for one of several configurations.
      data_dir: the folder of prepared data sets (default: `default_data_dir()`).
      options: the size of the images.

    Raises:
      UserError: if it is missing or its data is faulty; the message lists all problems.
    """
    data_dir = Path(data_dir or default_data_dir()).expanduser()
    folder = find(data_dir, name)
    size = options.image_size
    arrays = cached(
        "tfds-" + name.replace(":", "-"),
        folder,
        (state_of(sorted(folder.iterdir()), folder), image_files.DECODER),
        lambda: decode(folder, size),
        variant=f"size {size}",
    )
    return user_dataset(
        f"tfds:{name}",
        (arrays["train_images"], arrays["test_images"]),
        (arrays["train_labels"], arrays["test_labels"]),
        arrays["class_names"].tolist(),
    )


def newest_version(folder: Path) -> str | None:
    """Returns the newest version that is stored as ArrayRecord; None if there is none.

    Args:
      folder: folder of one data set, with a folder per version.
    """
    versions = [v for v in _versions(folder) if any((folder / v).glob("*.array_record*"))]
    return max(versions, key=_version_key, default=None)


def _versions(folder: Path) -> list[str]:
    return [file.parent.name for file in folder.glob(f"*/{INFO}")]


def _version_key(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def find(data_dir: Path, name: str) -> Path:
    """Returns the folder of the newest version of a data set.

    Raises:
      UserError: if it has not been prepared, or not as ArrayRecord.
    """
    parts = name.split(":")
    if len(parts) > 2 or not all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts):
        raise UserError(f"--dataset tfds:{name} must be tfds:NAME or tfds:NAME:CONFIG")
    folder = data_dir.joinpath(*parts)
    version = newest_version(folder)
    if version:
        return folder / version
    configs = sorted({file.parent.parent.name for file in folder.glob(f"*/*/{INFO}")})
    if configs:
        choices = ", ".join(f"tfds:{name}:{config}" for config in configs)
        raise UserError(f"{folder} has several configurations: choose one of {choices}")
    if _versions(folder):
        raise UserError(f"{folder} is not stored as ArrayRecord: {_how_to_prepare(parts)}")
    prepared = sorted({f.relative_to(data_dir).parts[0] for f in data_dir.glob(f"*/*/{INFO}")})
    raise UserError(
        f"there is no {name} in {data_dir}, which holds "
        f"{', '.join(prepared) or 'no prepared data set'}: {_how_to_prepare(parts)}, or pass "
        "another folder with --data-dir"
    )


def _how_to_prepare(parts: list[str]) -> str:
    return (
        "prepare it on a machine with TensorFlow and a network by tfds.builder("
        f"'{'/'.join(parts)}', file_format='array_record').download_and_prepare()"
    )


class _Prepared(NamedTuple):
    """An opened folder of a prepared data set.

    Attributes:
      builder: the tfds builder that reads it.
      test_split: the name of the split for testing.
      image, label: the names of these features in a record.
      class_names: the name of each class.
    """

    builder: Any
    test_split: str
    image: str
    label: str
    class_names: list[str]


def decode(folder: Path, image_size: int | None = None, sort_by: str | None = None) -> Arrays:
    """Decodes a prepared folder.

    Args:
      folder: folder of one version of a data set.
      image_size: as for `image_files.read`.
      sort_by: name of a feature; each split is sorted by its values (default: keep the order of
        the files).

    Returns:
      train_images, train_labels, test_images, test_labels and class_names.

    Raises:
      UserError: if the data is faulty; the message lists all problems.
    """
    problems = Problems(folder)
    prepared = _open(folder, sort_by)
    builder, names = prepared.builder, prepared.class_names
    check_names(names, problems)
    labels: dict[str, list[int]] = {"train": [], prepared.test_split: []}
    sort_keys: dict[str, list[Any]] = {split: [] for split in labels}

    def encoded_images() -> Iterator[tuple[str, bytes]]:
        """Yields the name and the encoded image of each record, and stores its label."""
        for split, split_labels in labels.items():
            for name, record in _records(builder, split, prepared.image, problems):
                split_labels.append(int(record[prepared.label]))
                sort_keys[split].append(record[sort_by] if sort_by else len(split_labels))
                yield name, record[prepared.image]

    images = image_files.read_all(encoded_images(), image_size, problems)
    train_labels, test_labels = (np.array(values, np.int32) for values in labels.values())
    for split, split_labels in labels.items():
        _check_labels(split, split_labels, len(names), problems)
    n_read = [len(split_labels) for split_labels in labels.values()]
    if n_read == [builder.info.splits[split].num_examples for split in labels]:
        check_classes(names, train_labels, test_labels, problems)
    problems.check()
    n_train = len(train_labels)
    train, test = (sorted(range(len(keys)), key=keys.__getitem__) for keys in sort_keys.values())
    return {
        "train_images": images[:n_train][train],
        "train_labels": train_labels[train],
        "test_images": images[n_train:][test],
        "test_labels": test_labels[test],
        "class_names": np.array(names),
    }


def _open(folder: Path, sort_by: str | None) -> _Prepared:
    """Opens a prepared folder.

    Args:
      folder: folder of one version of a data set.
      sort_by: name of a feature that it must have; None for none.

    Raises:
      UserError: if its description is damaged, or a split or a feature that is needed is missing.
    """
    with needs_extra("tfds", PURPOSE):
        import tensorflow_datasets as tfds

    for file in sorted(folder.glob("*.json")):  # the errors of tfds do not name the damaged file
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} can't be read: {_one_line(error)}") from error
    try:
        builder = tfds.builder_from_directory(os.fspath(folder))
        splits = list(builder.info.splits)
        image, label = _image_and_label(builder.info, folder)
        features: Any = builder.info.features
        names = list(features[label].names)
        has_sort_key = sort_by is None or sort_by in features
    except UserError:
        raise
    except Exception as error:  # reading a damaged description can raise any exception
        raise UserError(f"{folder} can't be read: {_one_line(error)}") from error
    if not has_sort_key:
        raise UserError(f"{folder} has no feature {sort_by}")
    test_split = next((name for name in TEST_SPLITS if name in splits), None)
    if "train" not in splits or test_split is None:
        raise UserError(
            f"{folder} has the splits {', '.join(splits) or '-'}; it needs train, and test or "
            "validation"
        )
    return _Prepared(builder, test_split, image, label, names)


def _image_and_label(info: Any, folder: Path) -> tuple[str, str]:
    """Returns the names of the image and of its label among the features of a record.

    Raises:
      UserError: if there is not exactly one of each, or the image has another type than uint8 or
        uint16.
    """
    from tensorflow_datasets import features

    supervised_keys = info.supervised_keys or ()
    candidates = []
    for kind in (features.Image, features.ClassLabel):
        keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
        candidates.append([key for key in keys if key in supervised_keys] or keys)
    if [len(keys) for keys in candidates] != [1, 1]:
        found = ", ".join(f"{k} ({type(f).__name__})" for k, f in info.features.items())
        raise UserError(f"{folder} needs one Image and one ClassLabel; its features are {found}")
    (image,), (label,) = candidates
    dtype = info.features[image].np_dtype
    if dtype not in (np.uint8, np.uint16):
        raise UserError(f"{folder} has images of type {dtype}; they must be uint8")
    return image, label


def _records(
    builder: Any, split: str, image: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields a name for messages and the features of each record of a split.

    Images stay encoded. Files that can't be read are added to the problems.
    """
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    try:
        # `cil_jax.data.image_files` decodes the images, as for all data sets.
        source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
        shards = list(zip(info.filepaths, info.shard_lengths, strict=True))
    except Exception as error:
        problems.add(f"{split}: {_one_line(error)}")
        return
    stop = 0
    for file, length in shards:
        name, start, stop = os.path.basename(file), stop, stop + length
        try:
            n_records = _n_records(file)
        except Exception as error:
            problems.add(f"{name}: {_one_line(error)}")
            continue
        if n_records != length:
            problems.add(f"{name}: holds {n_records} records, but {INFO} says {length}")
            continue
        for i in range(start, stop):
            try:
                record = source[i]
            except Exception as error:
                # The next records of the file most often have the same problem.
                problems.add(f"{name}: record {i - start}: {_one_line(error)}")
                break
            yield f"{name}, record {i - start}", record


def _n_records(file: str | os.PathLike[str]) -> int:
    """Returns the number of records of a file. Raises any exception if the file is damaged."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(os.fspath(file))
    n_records = reader.num_records()  # 0 if the file is damaged
    reader.close()  # raises then
    return n_records


def _check_labels(split: str, labels: list[int], n_classes: int, problems: Problems) -> None:
    """Adds a problem if labels lie outside 0..n_classes-1."""
    wrong = [i for i, label in enumerate(labels) if not 0 <= label < n_classes]
    if wrong:
        shown = ", ".join(f"{labels[i]} (record {i})" for i in wrong[:MAX_SHOWN])
        rest = f" and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        problems.add(f"{split}: labels must lie in 0..{n_classes - 1}; found {shown}{rest}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
