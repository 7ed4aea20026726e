"""Data sets by name, the tasks they are divided into, and augmentation.

`load("cifar100")` returns the arrays of a data set, and a `Scenario` divides them into tasks. No
module here knows a method or a network. To add a data set, write a module with a `load` function
that returns a `Dataset`, and name the function in DATASETS.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cil_jax.data import cifar100, digits, folder, npz, tfds
from cil_jax.data.augment import Augmentation
from cil_jax.data.dataset import Dataset
from cil_jax.data.folder import read_folder
from cil_jax.data.scenario import Scenario, Task
from cil_jax.data.user_data import ReadOptions
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings.declaring import flag

__all__ = ["DATASETS", "Augmentation", "Dataset", "Scenario", "Task", "load", "read_folder"]

DATASETS: Mapping[str, Callable[[str | None], Dataset]] = {
    "cifar100": cifar100.load,
    "digits": lambda data_dir: digits.load(),
}


class UserFormat(NamedTuple):
    """A format in which users can supply data.

    Attributes:
      usage: how `--dataset` names such data.
      options: the fields of ReadOptions that apply to it.
    """

    usage: str
    options: tuple[str, ...]


USER_FORMATS: Mapping[str, UserFormat] = {
    "npz": UserFormat("npz:FILE", ("test_share", "split_seed")),
    "folder": UserFormat("folder:DIR", ("image_size", "test_share", "split_seed")),
    "tfds": UserFormat("tfds:NAME", ("image_size",)),
}


def load(
    name: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
) -> Dataset:
    """Loads a data set.

    Args:
      name: a key of DATASETS, or npz:FILE, folder:DIR or tfds:NAME; the modules of these names
        describe the formats.
      data_dir: the folder of prepared tensorflow-datasets (default: TFDS_DATA_DIR, or else the
        default of tensorflow-datasets), for cifar100 and tfds:NAME.
      image_size, test_share, split_seed: see `cil_jax.data.user_data.ReadOptions`.

    Raises:
      UserError: if there is no such data set, its data is missing or faulty, or an option does not
        apply to it.
    """
    options = ReadOptions(image_size, test_share, split_seed)
    if name in DATASETS:
        _check_options(options, name, ())
        return DATASETS[name](data_dir)
    kind, _, place = name.partition(":")
    if kind not in USER_FORMATS or not place:
        known = [*DATASETS, *(user_format.usage for user_format in USER_FORMATS.values())]
        raise UserError(f"unknown --dataset {name!r}{nearest_name(name, known)}")
    _check_options(options, name, USER_FORMATS[kind].options)
    if kind == "tfds":
        return tfds.load(place, data_dir, options)
    return {"npz": npz, "folder": folder}[kind].load(place, options)


def _check_options(options: ReadOptions, name: str, allowed: tuple[str, ...]) -> None:
    """Checks that only options are given that apply to a data set.

    Raises:
      UserError: if another option is given.
    """
    for option, value in vars(options).items():
        if value is not None and option not in allowed:
            usages = [f.usage for f in USER_FORMATS.values() if option in f.options]
            raise UserError(f"{flag(option)} is for --dataset {' and '.join(usages)}, not {name}")
