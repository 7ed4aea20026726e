"""CIFAR-100 from a folder that tensorflow-datasets prepared, read without TensorFlow.

Decoding 60,000 PNGs takes a while, so the arrays are kept in one file in the user's cache.
"""

import os
import shlex
from pathlib import Path

import numpy as np

from cil_jax.config import UserError
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.data.tfds import default_data_dir, newest_version

NAME = "cifar100"


def load(data_dir: str | None = None) -> Dataset:
    """CIFAR-100 in the order of its official files.

    Args:
      data_dir: the folder of prepared data sets (default: `default_data_dir()`).

    Raises:
      UserError: if it is not there.
    """
    folder = Path(data_dir or default_data_dir()).expanduser()
    version = prepared_version(folder)
    if version is None:
        raise UserError(
            f"no CIFAR-100 as ArrayRecord in {folder}; to put it there, run: "
            f"python -m experiments.prepare --data-dir {shlex.quote(str(folder))}"
        )
    source = folder / NAME / version
    state = state_of(sorted(source.iterdir()), source)
    arrays = cached(NAME, source, state, lambda: decode(folder))
    return Dataset(
        name=NAME,
        class_names=tuple(arrays.pop("class_names").tolist()),
        pad=4,
        mirror=True,
        **arrays,
    )


def prepared_version(folder: Path) -> str | None:
    """The newest version in the folder that is stored as ArrayRecord."""
    return newest_version(folder / NAME)


def decode(folder: Path) -> Arrays:
    """The arrays of a prepared folder, in the order of the official files."""
    import tensorflow_datasets as tfds
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # tfds would recommend OpenCV, for what is done once
    builder = tfds.builder(NAME, data_dir=os.fspath(folder))
    arrays = {}
    for split in ("train", "test"):
        source = builder.as_data_source(split=split)
        records = sorted((source[i] for i in range(len(source))), key=lambda r: r["id"])
        arrays[f"{split}_images"] = np.stack([r["image"] for r in records])
        arrays[f"{split}_labels"] = np.array([r["label"] for r in records], np.int32)
    arrays["class_names"] = np.array(builder.info.features["label"].names)
    return arrays
