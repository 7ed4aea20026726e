"""CIFAR-100 from a folder that tensorflow-datasets prepared, read without TensorFlow.

Decoding 60,000 PNGs takes a while, so the arrays are kept in one file in the user's cache.
"""

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from cil_jax.config import UserError, cache_dir
from cil_jax.data.dataset import Dataset

NAME = "cifar100"


def default_data_dir() -> str:
    """TFDS_DATA_DIR, else where tensorflow-datasets keeps its data."""
    import tensorflow_datasets as tfds

    return os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR


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
            f"no CIFAR-100 as ArrayRecord in {folder}; "
            f"to put it there, run: python -m experiments.prepare --data-dir {folder}"
        )
    arrays = _cached(folder / NAME / version, lambda: decode(folder))
    return Dataset(
        name=NAME,
        class_names=tuple(arrays.pop("class_names").tolist()),
        pad=4,
        mirror=True,
        **arrays,
    )


def prepared_version(folder: Path) -> str | None:
    """The newest version in the folder that is stored as ArrayRecord."""
    found = [f.parent.name for f in folder.glob(f"{NAME}/*/dataset_info.json")]
    found = [v for v in found if any((folder / NAME / v).glob("*.array_record*"))]
    return max(found, key=_version_key, default=None)


def _version_key(version: str) -> list[int]:
    return [int(part) if part.isdigit() else -1 for part in version.split(".")]


def decode(folder: Path) -> dict[str, np.ndarray]:
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


def _cached(source: Path, make) -> dict[str, np.ndarray]:
    """What `make` gives, from a file if the source is as it was when that was written."""
    source = source.resolve()
    state = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in source.iterdir())
    fingerprint = hashlib.sha256(repr(state).encode()).hexdigest()
    place = hashlib.sha256(os.fsencode(source)).hexdigest()[:12]
    file = cache_dir() / f"{NAME}-{place}.npz"
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as stored:
            arrays = dict(stored)
        if str(arrays.pop("fingerprint")) == fingerprint:
            return arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # none yet, or damaged: made anew
    arrays = make()
    _write(file, {**arrays, "fingerprint": np.array(fingerprint)})
    return arrays


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes under a temporary name and renames, so that no reader sees half a file."""
    temporary = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as out:
            temporary = Path(out.name)
            np.savez(out, **arrays)
        temporary.replace(file)
    except OSError:
        # A cache that cannot be written costs time, not results.
        if temporary:
            temporary.unlink(missing_ok=True)
