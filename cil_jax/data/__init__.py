"""Data sets by name. `load("cifar100")` gives arrays; `Scenario` cuts them into tasks."""

from collections.abc import Callable

from cil_jax.config import UserError, nearest_name
from cil_jax.data import cifar100, digits
from cil_jax.data.augment import Augmentation
from cil_jax.data.dataset import Dataset
from cil_jax.data.scenario import Scenario, Task

__all__ = ["DATASETS", "Augmentation", "Dataset", "Scenario", "Task", "load"]

DATASETS: dict[str, Callable[[str | None], Dataset]] = {
    "cifar100": cifar100.load,
    "digits": lambda data_dir: digits.load(),
}


def load(name: str, data_dir: str | None = None) -> Dataset:
    """The data set of that name.

    Args:
      name: a key of DATASETS.
      data_dir: where tensorflow-datasets' prepared data is (default: TFDS_DATA_DIR, else tfds'
        own default). The digits need none.

    Raises:
      UserError: if there is no such data set, or its data is not there.
    """
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}{nearest_name(name, DATASETS)}")
    return DATASETS[name](data_dir)
