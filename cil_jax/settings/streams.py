"""The values of --scenario: how unevenly, and how often, the images of a class arrive."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading
from cil_jax.settings.declaring import PROBABILITY, SEED, Bound

ORDERS = ("ordered", "shuffled")


@dataclasses.dataclass(frozen=True)
class Stream:
    """How the images of classes are spread over tasks; by default, each class arrives once.

    Attributes:
      imbalance: images of the largest class over those of the smallest. The sizes fall
        exponentially from one class to the next (Liu et al. 2022, https://arxiv.org/abs/2210.00266).
      imbalance_order: "ordered" if they fall in the class order, "shuffled" if in a random order.
      blurry: share of the images of a class that do not come with its task but with later ones,
        equally many with each (Bang et al. 2021, https://arxiv.org/abs/2103.17230, whose classes
        also send images ahead).
      repeat: probability with which a class comes back in each later task, with all images that its
        own task had (Hemati et al. 2023, https://arxiv.org/abs/2301.11396).
      seed: of all random choices.
    """

    imbalance: float = 1.0
    imbalance_order: str = "ordered"
    blurry: float = 0.0
    repeat: float = 0.0
    seed: int = 0

    @property
    def returns(self) -> bool:
        """Whether old classes may have images in later tasks."""
        return self.blurry > 0 or self.repeat > 0

    def __str__(self) -> str:
        """The values that are not the defaults, in the words of captions: 'imbalance 10'."""
        changed = {
            f.name: v for f in dataclasses.fields(self) if (v := getattr(self, f.name)) != f.default
        }
        return ", ".join(
            f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in changed.items()
        )


ONCE = Stream()  # each class once, with all its images
_BOUNDS = {
    "imbalance": Bound(lambda x: 1 <= x < float("inf"), "be finite and at least 1"),
    "blurry": Bound(lambda x: 0 <= x < 1, "be at least 0 and below 1"),
    "repeat": PROBABILITY,
    "seed": SEED,
}


def normalized(value: str) -> str | None:
    """Returns a stream without reference to a file, so that a run can be resumed without it.

    Args:
      value: a YAML file with fields of `Stream`, or what this function returns.

    Returns:
      The words of `Stream.__str__`; None if each class arrives once, with all its images.

    Raises:
      UserError: if it is neither, or a value is not allowed.
    """
    return str(parsed(value)) or None


def parsed(value: str | None) -> Stream:
    """Returns the stream that a value of --scenario stands for; see `normalized`."""
    if value is None:
        return ONCE
    path = Path(value).expanduser()
    if os.path.isfile(path):
        return _checked(reading.read_yaml(path), f"--scenario {value}")
    words = [part.split() for part in value.split(",")]
    if not all(len(word) == 2 for word in words):
        raise UserError(
            f"--scenario is {value!r}; it must be a YAML file, or settings such as 'imbalance 10, "
            "blurry 0.1' (there is no file of this name)"
        )
    return _checked({name: yaml.safe_load(text) for name, text in words}, "--scenario")


def _checked(values: Mapping[Any, Any], source: str) -> Stream:
    """Returns the stream with these values.

    Raises:
      UserError: if a name is unknown, or a value is not allowed.
    """
    fields = {field.name: field for field in dataclasses.fields(Stream)}
    settings: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"{source}: unknown setting {name!r}{nearest_name(str(name), fields)}")
        if name == "imbalance_order":
            if value not in ORDERS:
                raise UserError(
                    f"{source}: imbalance_order is {value!r}; it must be ordered or shuffled"
                )
        else:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            is_number &= name != "seed" or isinstance(value, int)
            holds, rule = _BOUNDS[name]
            if not is_number or not holds(value):
                kind = (
                    ""
                    if is_number
                    else "be a whole number and "
                    if name == "seed"
                    else "be a number and "
                )
                raise UserError(f"{source}: {name} is {value!r}; it must {kind}{rule}")
        settings[name] = type(fields[name].default)(value)
    return Stream(**settings)
