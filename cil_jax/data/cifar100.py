"""CIFAR-100 from a folder that tensorflow-datasets prepared, read without TensorFlow.

Decoding 60,000 PNGs takes a while, so the arrays are kept in one file in the user's cache.
"""

import shlex
from pathlib import Path

from cil_jax.data import tfds
from cil_jax.data.cache import Arrays, cached, state_of
from cil_jax.data.dataset import Dataset
from cil_jax.errors import UserError

NAME = "cifar100"


def load(data_dir: str | None = None) -> Dataset:
    """CIFAR-100 in the order of its official files.

    Args:
      data_dir: the folder of prepared data sets (default: `tfds.default_data_dir()`).

    Raises:
      UserError: if it is not there, or damaged.
    """
    folder = Path(data_dir or tfds.default_data_dir()).expanduser()
    version = prepared_version(folder)
    if version is None:
        raise UserError(
            f"no CIFAR-100 as ArrayRecord in {folder}; to put it there, run: "
            f"python -m experiments.prepare --data-dir {shlex.quote(str(folder))}"
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
    """The newest version in the folder that is stored as ArrayRecord."""
    return tfds.newest_version(folder / NAME)


def decode(source: Path) -> Arrays:
    """The arrays of a prepared version, in the order of the official files.

    Raises:
      UserError: with all that is wrong with it, and what to do.
    """
    try:
        return tfds.decode(source, sort_by="id")
    except UserError as error:
        advice = (
            f"move {source} away and prepare it again with python -m experiments.prepare "
            f"--data-dir {source.parents[1]}"
        )
        cause, *more = error.lines
        if more:
            raise UserError(cause, [*more, advice]) from error
        raise UserError(f"{cause}: {advice}") from error
