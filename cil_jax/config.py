"""The settings of a run: one flat frozen dataclass, and the presets that fill it.

A field's metadata holds what `--help` says of it. Nothing here knows JAX, so flags are read before
it starts.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import yaml


class UserError(Exception):
    """Something that the user can put right, said in one line."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What to say after 'unknown ...': a guess where one is near, and the choice."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f": did you mean {close[0]!r}?" if close else ""
    if close and len(known) > 12:
        return guess
    return f"{guess or ':'} {'there are' if close else 'choose from'} {', '.join(known)}"


def _setting(default: Any, group: str, help: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **more})


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is. Field names are the flags', with `_` for `-`; `lambda_` is `--lambda`.

    The defaults here are common ground, no method's recipe: those are presets. Start from
    `preset("icarl", "paper")` rather than from a plain Config.
    """

    method: str = _setting("icarl", "", "finetune, lwf or icarl")
    preset: str = _setting("", "", "the file of settings that flags were laid over")

    dataset: str = _setting("cifar100", "data", "data set to learn", choices=("cifar100", "digits"))
    data_dir: str | None = _setting(
        None,
        "data",
        "folder of prepared tensorflow-datasets (default: TFDS_DATA_DIR, else tfds' own default)",
        metavar="DIR",
        decides=False,
    )
    normalization: str = _setting(
        "per-channel",
        "data",
        "per-pixel: pixels/255 minus the mean training image; per-channel: also divided by the "
        "standard deviation, both per colour channel",
        choices=("per-pixel", "per-channel"),
    )
    pad: int | None = _setting(
        None,
        "data",
        "augmentation: pixels of padding around an image before a random crop of the old size "
        "(default: the data set's own, 4 for cifar100, 1 for digits)",
    )
    mirror: str = _setting(
        "auto",
        "data",
        "augmentation: mirror half of the images; auto: yes for cifar100, no for digits",
        choices=("auto", "yes", "no"),
    )

    task_size: int = _setting(10, "scenario", "classes a task")
    first_task: int | None = _setting(
        None, "scenario", "classes of the first task (default: as all others)"
    )
    classes: int | None = _setting(
        None, "scenario", "learn only the first N classes of the order (default: all)"
    )
    order: str = _setting(
        "seeded", "scenario", "order in which classes come", choices=("natural", "seeded")
    )
    order_seed: int = _setting(
        1993, "scenario", "seed of the seeded order; 1993 gives the published one"
    )
    seed: int = _setting(0, "scenario", "seed of initial weights")
    data_seed: int | None = _setting(
        None, "scenario", "seed of shuffling, augmentation and random exemplars (default: --seed)"
    )

    backbone: str = _setting(
        "resnet32", "network", "resnet8, 20, 32, 44, 56, 64, 110 or resnet29-bottleneck"
    )
    last_relu: bool = _setting(True, "network", "whether the last block ends in a ReLU")

    epochs: int = _setting(70, "training", "epochs a task")
    batch_size: int = _setting(
        128,
        "training",
        "images an update; an epoch leaves out a rest smaller than this, and goes round a pool "
        "smaller than this",
    )
    rate: float = _setting(0.1, "training", "learning rate of the first epochs, per update")
    rate_steps: tuple[float, ...] = _setting(
        (0.7, 0.9), "training", "fractions of a task's epochs after which the rate falls"
    )
    rate_factor: float = _setting(5.0, "training", "what the rate is divided by at each fall")
    momentum: float = _setting(0.9, "training", "momentum of SGD")
    weight_decay: float = _setting(
        2e-4, "training", "times a weight is added to its gradient; kernels only"
    )

    memory: int = _setting(2000, "memory (iCaRL)", "exemplars kept, over all classes")
    selection: str = _setting(
        "herding", "memory (iCaRL)", "how exemplars are chosen", choices=("herding", "random")
    )
    divisor: float = _setting(
        100.0, "memory (iCaRL)", "the summed loss of all outputs is divided by this constant"
    )

    lambda_: float = _setting(1.0, "distillation (LwF)", "weight of the distillation loss")
    temperature: float = _setting(2.0, "distillation (LwF)", "temperature of the distillation")

    out: str | None = _setting(
        None, "run", "run folder (default: runs/METHOD-DATASET-BACKBONE-seedN)", decides=False
    )
    resume: bool = _setting(False, "run", "continue the run in --out", decides=False)
    accelerator: str = _setting(
        "auto",
        "run",
        "where to compute; auto takes the best that JAX finds",
        choices=("auto", "cpu", "gpu", "tpu"),
        decides=False,
    )

    def __post_init__(self):
        """Refuses what no data set could make sense of."""
        for field in dataclasses.fields(self):
            value, choices = getattr(self, field.name), field.metadata.get("choices")
            if choices and value not in choices:
                hint = nearest_name(str(value), choices)
                raise UserError(f"unknown {flag(field.name)} {value!r}{hint}")
        for name in ("epochs", "batch_size", "task_size", "first_task", "classes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{flag(name)} is {value}; it must be at least 1")
        for name in ("rate", "rate_factor", "divisor", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be above 0")
        for name in ("lambda_", "weight_decay", "momentum", "memory", "pad"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"{flag(name)} is {value}; it must not be negative")
        for name in ("seed", "data_seed", "order_seed"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**32:
                raise UserError(f"{flag(name)} is {value}; it must lie in 0..{2**32 - 1}")
        if self.momentum >= 1:
            raise UserError(f"--momentum is {self.momentum}; it must be below 1")
        if not all(0 < step <= 1 for step in self.rate_steps):
            raise UserError(f"--rate-steps are {self.rate_steps}; they must lie in 0..1")

    def folder(self) -> str:
        """Where the run goes."""
        name = f"{self.method}-{self.dataset}-{self.backbone}-seed{self.seed}"
        return self.out or f"runs/{name}"

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, under their flags' names; plain values."""
        return {
            field.name.rstrip("_"): _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.metadata.get("decides", True)
        }


def cache_dir() -> Path:
    """Where decoded data and compiled programs are kept: CIL_JAX_CACHE, else the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CIL_JAX_CACHE") or Path(base) / "cil_jax")


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.rstrip("_").replace("_", "-")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_plain(values: dict[str, Any]) -> dict[str, Any]:
    """Fields of Config from values under their flags' names, as YAML gives them.

    Raises:
      UserError: if a name is not a setting's.
    """
    fields = {field.name.rstrip("_"): field for field in dataclasses.fields(Config)}
    for name in values:
        if name not in fields:
            raise UserError(f"unknown setting {name!r}{nearest_name(name, fields)}")
    return {
        fields[name].name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }


def presets(method: str) -> list[str]:
    """The names of a method's presets.

    Raises:
      UserError: if it has none.
    """
    folder = resources.files("cil_jax") / "presets" / method
    if not folder.is_dir():
        raise UserError(f"{method} has no preset: write cil_jax/presets/{method}/default.yaml")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name[-5:] == ".yaml")


def preset(method: str, name: str, **overrides: Any) -> Config:
    """The settings of a preset, with others laid over them.

    Args:
      method: finetune, lwf or icarl.
      name: of the preset, such as paper.
      **overrides: fields of Config.

    Raises:
      UserError: if there is no such preset, or a value makes no sense.
    """
    known = presets(method)
    if name not in known:
        raise UserError(f"unknown preset {name!r} of {method}{nearest_name(name, known)}")
    text = (resources.files("cil_jax") / "presets" / method / f"{name}.yaml").read_text()
    values = from_plain(yaml.safe_load(text))
    return Config(**{**values, **overrides, "method": method, "preset": name})
