"""CIFAR-100 from a folder that tensorflow-datasets prepared, read without TensorFlow.

Decoding 60,000 PNG images takes a while, so the arrays are cached.
"""

import shlex
from pathlib import Path

from cil_jax.data import tfds
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError

NAME = "cifar100"


def load(data_dir: str | None = None) -> Dataset:
    """Loads CIFAR-100, with the images in the order of the official files.

    Args:
      data_dir: the folder of prepared data sets (default: `tfds.default_data_dir()`).

    Raises:
      UserError: if CIFAR-100 is missing or damaged.
    """
    folder = Path(data_dir or tfds.default_data_dir()).expanduser()
    version = prepared_version(folder)
    if version is None:
        raise UserError(
            f"{folder} has no CIFAR-100 stored as ArrayRecord; to download and prepare it, run "
            f"cil-jax prepare --data-dir {shlex.quote(str(folder))}"
        )
    source = folder / NAME / version
    state = state_of(sorted(source.iterdir()), source)
    arrays = cached(NAME, source, state, lambda: decode(source))
    return Dataset(
        name=NAME,
        class_names=tuple(arrays.pop("class_names").tolist()),
        pad=4,
        mirror=True,
        **arrays,
    )


def prepared_version(folder: Path) -> str | None:
    """Returns the newest version of CIFAR-100 in a data folder that is stored as ArrayRecord."""
    return tfds.newest_version(folder / NAME)


def decode(source: Path) -> Arrays:
    """Decodes a prepared version, with the images in the order of the official files.

    Raises:
      UserError: if the data is damaged; the message names all problems and says what to do.
    """
    try:
        return tfds.decode(source, sort_by="id")
    except UserError as error:
        advice = (
            f"move {source} away and prepare it again with cil-jax prepare "
            f"--data-dir {source.parents[1]}"
        )
        cause, *details = error.lines
        if details:
            raise UserError(cause, [*details, advice]) from error
        raise UserError(f"{cause}: {advice}") from error
