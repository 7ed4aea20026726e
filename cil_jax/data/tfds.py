"""Image classification sets that tensorflow-datasets prepared as ArrayRecord.

They are read without TensorFlow, and nothing is fetched: what is not there is said at once.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from cil_jax.data import pictures
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.data.own import Problems, Reading, check_classes, check_names, dataset
from cil_jax.errors import UserError

TEST_SPLITS = ("test", "validation")
INFO = "dataset_info.json"
SHOWN = 10  # records without a label


def default_data_dir() -> str:
    """TFDS_DATA_DIR, else where tensorflow-datasets keeps its data."""
    import tensorflow_datasets as tfds

    return os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR


def load(name: str, data_dir: str | os.PathLike | None, reading: Reading) -> Dataset:
    """A prepared data set, its test split for testing, or its validation split if it has none.

    Args:
      name: as tfds names it; NAME:CONFIG for one of several configurations.
      data_dir: the folder of prepared data sets (default: `default_data_dir()`).
      reading: how large pictures become.

    Raises:
      UserError: if it is not there, or with all that is wrong with it.
    """
    data_dir = Path(data_dir or default_data_dir()).expanduser()
    folder = find(data_dir, name)
    size = reading.image_size
    arrays = cached(
        "tfds-" + name.replace(":", "-"),
        folder,
        (state_of(sorted(folder.iterdir()), folder), pictures.DECODER),
        lambda: decode(folder, size),
        how=f"size {size}",
    )
    return dataset(
        f"tfds:{name}",
        (arrays["train_images"], arrays["test_images"]),
        (arrays["train_labels"], arrays["test_labels"]),
        arrays["class_names"].tolist(),
    )


def newest_version(folder: Path) -> str | None:
    """The newest version in a folder of versions that is stored as ArrayRecord."""
    found = [v for v in _versions(folder) if any((folder / v).glob("*.array_record*"))]
    return max(found, key=_version_key, default=None)


def _versions(folder: Path) -> list[str]:
    return [file.parent.name for file in folder.glob(f"*/{INFO}")]


def _version_key(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def find(data_dir: Path, name: str) -> Path:
    """The folder of the newest version of a data set.

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
        choice = ", ".join(f"tfds:{name}:{config}" for config in configs)
        raise UserError(f"{folder} holds several configurations: name one of {choice}")
    if _versions(folder):
        raise UserError(f"{folder} is not stored as ArrayRecord: {_how_to_prepare(parts)}")
    there = sorted({file.relative_to(data_dir).parts[0] for file in data_dir.glob(f"*/*/{INFO}")})
    raise UserError(
        f"no {name} in {data_dir}, which holds {', '.join(there) or 'no prepared data set'}: "
        f"{_how_to_prepare(parts)}, or name another folder with --data-dir"
    )


def _how_to_prepare(parts: list[str]) -> str:
    return (
        f"prepare it where there is TensorFlow and a network, with tfds.builder("
        f"'{'/'.join(parts)}', file_format='array_record').download_and_prepare()"
    )


def decode(folder: Path, image_size: int | None = None, sort_by: str | None = None) -> Arrays:
    """The arrays of a prepared folder.

    Args:
      folder: of one version of a data set.
      image_size: as for `pictures.read`.
      sort_by: the feature by whose values the records of a split are sorted (default: their order
        in the files).

    Raises:
      UserError: with all that is wrong with it.
    """
    import tensorflow_datasets as tfds

    problems = Problems(folder)
    for file in sorted(folder.glob("*.json")):  # tfds would not say which of them is damaged
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} can't be read: {_line(error)}") from error
    try:
        builder = tfds.builder_from_directory(os.fspath(folder))
        splits = list(builder.info.splits)
        image, label = _keys(builder.info, folder)
        names = list(builder.info.features[label].names)
        if sort_by and sort_by not in builder.info.features:
            raise UserError(f"{folder} has no feature {sort_by}")
    except UserError:
        raise
    except Exception as error:  # damaged descriptions fail in many ways
        raise UserError(f"{folder} can't be read: {_line(error)}") from error
    test = next((name for name in TEST_SPLITS if name in splits), None)
    if "train" not in splits or test is None:
        raise UserError(
            f"{folder} has the splits {', '.join(splits) or '-'}: train is needed, and test or "
            "validation"
        )
    check_names(names, problems)
    labels: dict[str, list[int]] = {"train": [], test: []}
    places: dict[str, list[Any]] = {"train": [], test: []}  # in the order of a split

    def records() -> Iterator[tuple[str, bytes]]:
        for split, found in labels.items():
            for where, record in _records(builder, split, image, problems):
                found.append(int(record[label]))
                places[split].append(record[sort_by] if sort_by else len(found))
                yield where, record[image]

    images = pictures.read_all(records(), image_size, problems)
    train_labels, test_labels = (np.array(found, np.int32) for found in labels.values())
    for split, found in labels.items():
        _check_labels(split, found, len(names), problems)
    n_read = [len(found) for found in labels.values()]
    if n_read == [builder.info.splits[split].num_examples for split in labels]:
        check_classes(names, train_labels, test_labels, problems)
    problems.check()
    n_train = len(train_labels)
    train, test = (sorted(range(len(p)), key=p.__getitem__) for p in places.values())
    return {
        "train_images": images[:n_train][train],
        "train_labels": train_labels[train],
        "test_images": images[n_train:][test],
        "test_labels": test_labels[test],
        "class_names": np.array(names),
    }


def _keys(info: Any, folder: Path) -> tuple[str, str]:
    """The names of the image and of its label, among the features of a record.

    Raises:
      UserError: if there is not one of each.
    """
    from tensorflow_datasets import features

    named = info.supervised_keys or ()
    found = []
    for kind in (features.Image, features.ClassLabel):
        keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
        found.append([key for key in keys if key in named] or keys)
    if [len(keys) for keys in found] != [1, 1]:
        held = ", ".join(f"{k} ({type(f).__name__})" for k, f in info.features.items())
        raise UserError(f"{folder} has {held}: one Image and one ClassLabel are needed")
    (image,), (label,) = found
    if info.features[image].np_dtype not in (np.uint8, np.uint16):
        raise UserError(f"{folder} has images of {info.features[image].np_dtype}, not of uint8")
    return image, label


def _records(
    builder: Any, split: str, image: str, problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each record of a split is called in messages, and its features; pictures as bytes."""
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    try:
        # Pictures are decoded where all others are.
        source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
        shards = list(zip(info.filepaths, info.shard_lengths, strict=True))
    except Exception as error:
        problems.add(f"{split}: {_line(error)}")
        return
    stop = 0
    for file, length in shards:
        name, start, stop = os.path.basename(file), stop, stop + length
        try:
            n_records = _n_records(file)
        except Exception as error:
            problems.add(f"{name}: {_line(error)}")
            continue
        if n_records != length:
            problems.add(f"{name}: holds {n_records} records, but {INFO} says {length}")
            continue
        for i in range(start, stop):
            try:
                record = source[i]
            except Exception as error:
                # What is wrong with one record of a file is most often so with the next.
                problems.add(f"{name}: record {i - start}: {_line(error)}")
                break
            yield f"{name}, record {i - start}", record


def _n_records(file: str | os.PathLike) -> int:
    """How many records a file holds; whatever is raised says that it is damaged."""
    reader = ArrayRecordReader(os.fspath(file))
    n_records = reader.num_records()  # 0 if it is damaged
    reader.close()  # which then raises
    return n_records


def _check_labels(split: str, labels: list[int], n_classes: int, problems: Problems) -> None:
    wrong = [i for i, label in enumerate(labels) if not 0 <= label < n_classes]
    if wrong:
        shown = ", ".join(f"{labels[i]} (record {i})" for i in wrong[:SHOWN])
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        problems.add(f"{split}: labels must lie in 0..{n_classes - 1}, not be {shown}{more}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
