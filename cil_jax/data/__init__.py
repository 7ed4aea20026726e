"""Data sets by name. `load("cifar100")` gives arrays; `Scenario` cuts them into tasks."""

from collections.abc import Callable

from cil_jax.data import cifar100, digits, folder, npz, tfds
from cil_jax.data.augment import Augmentation
from cil_jax.data.dataset import Dataset
from cil_jax.data.folder import read_folder
from cil_jax.data.own import Reading
from cil_jax.data.scenario import Scenario, Task
from cil_jax.errors import UserError, nearest_name
from cil_jax.settings.config import flag

__all__ = ["DATASETS", "Augmentation", "Dataset", "Scenario", "Task", "load", "read_folder"]

DATASETS: dict[str, Callable[[str | None], Dataset]] = {
    "cifar100": cifar100.load,
    "digits": lambda data_dir: digits.load(),
}

# The user's own: how KIND:WHAT is written, and which settings it takes.
OWN = {
    "npz": ("npz:FILE", ("test_share", "split_seed")),
    "folder": ("folder:DIR", ("image_size", "test_share", "split_seed")),
    "tfds": ("tfds:NAME", ("image_size",)),
}


def load(
    name: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
) -> Dataset:
    """The data set of that name.

    Args:
      name: a key of DATASETS, npz:FILE, folder:DIR or tfds:NAME; see the module of each.
      data_dir: where tensorflow-datasets' prepared data is (default: TFDS_DATA_DIR, else tfds'
        own default), for cifar100 and tfds:NAME.
      image_size, test_share, split_seed: see `cil_jax.data.own.Reading`.

    Raises:
      UserError: if there is no such data set, its data is not there or has faults, or a setting
        does not concern it.
    """
    reading = Reading(image_size, test_share, split_seed)
    kind, _, rest = name.partition(":")
    if name not in DATASETS and not (kind in OWN and rest):
        known = [*DATASETS, *(written for written, _ in OWN.values())]
        raise UserError(f"unknown --dataset {name!r}{nearest_name(name, known)}")
    taken = () if name in DATASETS else OWN[kind][1]
    for setting, value in vars(reading).items():
        if value is not None and setting not in taken:
            kinds = " and ".join(w for w, settings in OWN.values() if setting in settings)
            raise UserError(f"{flag(setting)} is for --dataset {kinds}, not for {name}")
    if name in DATASETS:
        return DATASETS[name](data_dir)
    if kind == "tfds":
        return tfds.load(rest, data_dir, reading)
    return {"npz": npz, "folder": folder}[kind].load(rest, reading)
