"""The settings of a run: one flat frozen dataclass.

`Config` has the settings that all methods share. `config_type` adds those that a method declares in
its own class; see `cil_jax.settings.declaring`. `cil_jax.settings.loading` fills a Config from
presets and files.
"""

import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any, ClassVar

from cil_jax.errors import UserError
from cil_jax.settings import orders, streams, task_sizes
from cil_jax.settings.code import record
from cil_jax.settings.declaring import (
    BETWEEN_0_AND_1,
    COUNT,
    FRACTIONS,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    check,
    is_setting,
    kind,
    plain,
    setting,
)

ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
AUGMENTATIONS = (
    *("standard", "jitter", "autoaugment", "trivialaugment", "cutout", "autoaugment+cutout"),
)
_PATHS = ("npz", "folder")  # kinds of data sets whose name is a path
_MOVABLE = (*_PATHS, "tfds")  # kinds whose name says where the data is, not what it holds
# Names that are no setting: flags of commands, and entries of config.yaml beside the settings.
FLAGS_ONLY = ("seeds", "orders", "parallel_members")  # they ask for several runs
NOT_SETTINGS = ("code", "versions", "machine", "options")
NOT_NAMES = (*FLAGS_ONLY, *NOT_SETTINGS, "config", "print_config", "help")
_LONGEST_NAME = 40  # characters of a data set's name in the name of a run folder

# Titles of the groups of flags in --help.
_DATA = "data and augmentation"
_SCENARIO = "class-incremental scenario and seeds"
_NETWORK = "network"
_TRAINING = "training"
_EVALUATION = "evaluation"
_RUN = "run and hardware"
_HOSTS = "multiple hosts"


def _setting(default: Any, group: str, help: str, **metadata: Any) -> Any:
    """A field of Config: see `cil_jax.settings.declaring.setting`.

    Args:
      default, help: see `setting`.
      group: the title of its group in --help; "" for a field without a flag.
      **metadata: further arguments of `setting`, and `decides`, False for a setting that does not
        affect the result; `several`, for a comma-separated list of names: the package that each
        name needs.
    """
    return setting(default, help, group=group, **metadata)


@dataclasses.dataclass(frozen=True, repr=False)
class Config:
    """The settings of a run that all methods share.

    Fields are named like their flags: `batch_size` is `--batch-size`, and `lambda_` is `--lambda`,
    since Python reserves the word. The settings of a run are an instance of a subclass, which also
    has those of the method: see `config_type`. The defaults are not the recipe of any method:
    recipes are presets. Start from `cil_jax.preset("icarl", "paper")`.

    Attributes:
      method_class: the class of the method; None for settings without one.

    Raises:
      UserError: if a value is not allowed, or settings contradict each other.
    """

    method_class: ClassVar[type | None] = None

    method: str = _setting("", "", "name of the method, see `cil_jax.settings.code`")
    preset: str = _setting("", "", "name of the preset that the other settings start from")

    dataset: str = _setting(
        "cifar100",
        _DATA,
        "data set: cifar100, digits, or your own data as npz:FILE (arrays `images` and `labels`), "
        "folder:DIR (one subfolder of images per class) or tfds:NAME (prepared with "
        "tensorflow-datasets); the documentation describes the formats",
    )
    data_dir: str | None = _setting(
        None,
        _DATA,
        "folder of prepared tensorflow-datasets (default: the environment variable TFDS_DATA_DIR, "
        "or else the default of tensorflow-datasets)",
        metavar="DIR",
        decides=False,
    )
    image_size: int | None = _setting(
        None,
        _DATA,
        "image size in pixels, for folder: and tfds: data sets: scale the shorter side of each "
        "image to N and crop the central N x N square (default: keep the size, which all images "
        "must share)",
        bound=COUNT,
    )
    test_share: float | None = _setting(
        None,
        _DATA,
        "fraction of the images of each class that is held out for testing, for npz: and folder: "
        "data sets without test images of their own (default: 0.2)",
        bound=BETWEEN_0_AND_1,
    )
    split_seed: int | None = _setting(
        None,
        _DATA,
        "seed of the random split into training and test images (default: 0)",
        bound=SEED,
    )
    validation: float | None = _setting(
        None,
        _DATA,
        "fraction of the training images of each class that is held out and tested on in place of "
        "the test images, to choose settings by; see cil-jax search (default: none)",
        bound=BETWEEN_0_AND_1,
    )
    normalization: str = _setting(
        "per-channel",
        _DATA,
        "per-pixel: pixels / 255 minus the mean training image; per-channel: pixels / 255 minus "
        "the mean of the colour channel, divided by its standard deviation",
        choices=("per-pixel", "per-channel"),
    )
    pad: int | None = _setting(
        None,
        _DATA,
        "augmentation: pad each side of an image by N pixels, then crop at random to the original "
        "size; 0 for no crop (default: 4 for cifar100, 1 for digits, 1/8 of the image side for "
        "your own data)",
        bound=NOT_NEGATIVE,
    )
    mirror: str = _setting(
        "auto",
        _DATA,
        "augmentation: flip each image horizontally with probability 1/2; auto: yes for cifar100, "
        "no for other data sets",
        choices=("auto", "yes", "no"),
    )
    augmentation: str = _setting(
        "standard",
        _DATA,
        "augmentation besides crops, mirroring and --brightness: standard for none; jitter "
        "(brightness, contrast and saturation by up to 40 percent); autoaugment (the policy for "
        "CIFAR-10); trivialaugment; cutout (a square of half the image side); or "
        "autoaugment+cutout",
        choices=AUGMENTATIONS,
    )
    padding: str = _setting(
        "mean",
        _DATA,
        "augmentation: fill the padding with the mean (zero after normalization) or with black",
        choices=("mean", "black"),
    )
    brightness: float = _setting(
        0.0,
        _DATA,
        "augmentation: multiply the pixels of each image by a random factor between 1 - X and "
        "1 + X; 0 for none",
        bound=NOT_NEGATIVE,
    )

    tasks: str | None = _setting(
        None,
        _SCENARIO,
        "number of classes of each task, such as 50,10,10,30, which must add up to the classes; "
        "or b50-10 for 50 classes first and then tasks of 10, b50-5 and so on (default: tasks of "
        "--task-size)",
        metavar="N,N,...",
    )
    task_size: int = _setting(task_sizes.SIZE, _SCENARIO, "number of classes per task", bound=COUNT)
    first_task: int | None = _setting(
        None,
        _SCENARIO,
        "number of classes of the first task, the base task (default: --task-size)",
        bound=COUNT,
    )
    classes: int | None = _setting(
        None,
        _SCENARIO,
        "use only the first N classes of the class order (default: all)",
        bound=COUNT,
    )
    scenario: str | None = _setting(
        None,
        _SCENARIO,
        "YAML file that says how the images of a class arrive: imbalance, blurry and repeat, which "
        "the documentation describes (default: each class once, with all its images)",
        metavar="FILE",
    )
    order: str = _setting(
        "seeded",
        _SCENARIO,
        "order in which the classes arrive: natural (as in the data set), seeded (a random "
        "permutation), icarl (CIFAR-100's in the code of iCaRL's authors), or your own: a list of "
        "class numbers or names, such as 3,1,2, or a text file with such a list; a list of K "
        "classes uses only these",
        metavar="ORDER",
    )
    order_seed: int = _setting(
        1993,
        _SCENARIO,
        "seed of the random class order; 1993 gives the order of PyCIL and of most papers",
        bound=SEED,
    )
    seed: int = _setting(0, _SCENARIO, "seed of the initial weights", bound=SEED)
    data_seed: int | None = _setting(
        None,
        _SCENARIO,
        "seed of shuffling, augmentation and random exemplar selection (default: --seed)",
        bound=SEED,
    )

    backbone: str = _setting(
        "resnet32",
        _NETWORK,
        "feature extractor: resnet8, resnet20, resnet32, resnet44, resnet56, resnet64, resnet110, "
        "resnet29-bottleneck; for larger images resnet18 (3x3 stem) and resnet18-imagenet; or "
        "path.py:Class for a Linen module of your own",
    )
    last_relu: bool = _setting(
        True, _NETWORK, "end the last residual block with a ReLU, so that no feature is negative"
    )
    precision: str = _setting(
        "float32",
        _NETWORK,
        "data type in which the layers are computed, in training and in evaluation; weights, "
        "batch statistics, features and losses are always float32",
        choices=("float32", "bfloat16"),
    )

    epochs: int = _setting(
        70,
        _TRAINING,
        "epochs per task, including the first unless --first-epochs is given",
        bound=COUNT,
    )
    first_epochs: int | None = _setting(
        None, _TRAINING, "epochs of the first task (default: --epochs)", bound=COUNT
    )
    batch_size: int = _setting(
        128,
        _TRAINING,
        "images per update; the last partial batch of an epoch is dropped, and if there are fewer "
        "images than N, they are repeated to fill one batch",
        bound=COUNT,
    )
    rate: float = _setting(0.1, _TRAINING, "initial learning rate of each task", bound=POSITIVE)
    rate_steps: tuple[float, ...] = _setting(
        (0.7, 0.9),
        _TRAINING,
        "learning-rate milestones as fractions of a task's epochs, for all tasks unless "
        "--first-rate-steps is given; at each, the learning rate is divided by --rate-factor",
        bound=FRACTIONS,
    )
    first_rate_steps: tuple[float, ...] | None = _setting(
        None,
        _TRAINING,
        "learning-rate milestones of the first task (default: --rate-steps)",
        bound=FRACTIONS,
    )
    rate_factor: float = _setting(
        5.0,
        _TRAINING,
        "divisor of the learning rate at each milestone",
        bound=POSITIVE,
    )
    rate_shape: str = _setting(
        "steps",
        _TRAINING,
        "steps: the learning rate falls at --rate-steps; cosine: it falls to 0 along half a cosine "
        "over a task's epochs; restarts: it does so to a hundredth, over and over in 1, 2, 4, 8, "
        "... epochs, after an epoch at a tenth",
        choices=("steps", "cosine", "restarts"),
    )
    momentum: float = _setting(0.9, _TRAINING, "momentum of SGD", bound=NOT_NEGATIVE)
    weight_decay: float = _setting(
        2e-4,
        _TRAINING,
        "L2 weight-decay coefficient, for all tasks unless --first-weight-decay is given: X * w is "
        "added to the gradient of each weight w; see --decay",
        bound=NOT_NEGATIVE,
    )
    first_weight_decay: float | None = _setting(
        None,
        _TRAINING,
        "weight-decay coefficient of the first task (default: --weight-decay)",
        bound=NOT_NEGATIVE,
    )
    decay: str = _setting(
        "kernels",
        _TRAINING,
        "parameters with weight decay: kernels only (of convolutions and of the output layer), or "
        "all, including biases and normalization parameters",
        choices=("kernels", "all"),
    )

    ncm: bool = _setting(
        True,
        _EVALUATION,
        "also report the nearest class mean over all training data; for analysis only, since an "
        "incremental learner has no access to that data",
    )
    features: int = _setting(
        0,
        _EVALUATION,
        "save the features of about N test images, equally many of each class, after each task; "
        "cil-jax why compares them; 0 for none",
        bound=NOT_NEGATIVE,
        decides=False,
    )

    out: str | None = _setting(
        None,
        _RUN,
        "run folder (default: runs/METHOD-PRESET-DATASET-BACKBONE-seedN, with a word for settings "
        "that are not the preset's)",
        metavar="DIR",
        decides=False,
    )
    fast: bool = _setting(
        False,
        _RUN,
        "train faster on a CPU, with equal results up to rounding: use faster convolutions where "
        "JAX has them (every run compiles them again) and huge memory pages where Linux has them; "
        "independent of --precision",
    )
    resume: bool = _setting(False, _RUN, "continue the run in --out", decides=False)
    accelerator: str = _setting(
        "auto",
        _RUN,
        "hardware to compute on; auto: the best that JAX finds",
        choices=ACCELERATORS,
        decides=False,
    )
    devices: int | None = _setting(
        None,
        _RUN,
        "number of devices that share every batch or, with --parallel-members, the runs; results "
        "are equal up to rounding (default: 1 on a CPU, else the largest number that divides the "
        "batch)",
        bound=COUNT,
        decides=False,
    )
    stream: bool = _setting(
        False,
        _RUN,
        "keep the images in host memory and copy them to the device a few batches at a time, for "
        "data larger than device memory; results are the same",
        decides=False,
    )
    log: str = _setting(
        "",
        _RUN,
        "also log to tensorboard (in the run folder), to wandb, or to both, separated by a comma; "
        "the package must be installed (default: neither)",
        metavar="NAME,...",
        several={"tensorboard": "tensorboardX", "wandb": "wandb"},
        decides=False,
    )

    coordinator: str | None = _setting(
        None,
        _HOSTS,
        "address of process 0, if you start the same command on several hosts; auto: detect it "
        "from Slurm, Open MPI or the TPU pod (default: a single process)",
        metavar="HOST:PORT",
        decides=False,
    )
    num_processes: int | None = _setting(
        None,
        _HOSTS,
        "total number of processes (default: detected by --coordinator auto)",
        bound=COUNT,
        decides=False,
    )
    process_id: int | None = _setting(
        None,
        _HOSTS,
        "index of this process, from 0; process 0 writes the run folder (default: detected by "
        "--coordinator auto)",
        bound=NOT_NEGATIVE,
        decides=False,
    )

    def __repr__(self) -> str:
        """The settings to tell runs apart by; `dataclasses.asdict` has all."""
        names = ("method", "preset", "dataset", "task_size", "backbone", "epochs", "seed", "out")
        shown = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) != ""]
        return f"Config({', '.join(shown)}, ...)"

    def __post_init__(self):
        """Rejects values that are wrong for any data set, and makes some independent of files.

        The path of the data becomes absolute, and the file of an order or of a scenario is replaced
        by its content.
        """
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if self.momentum >= 1:
            raise UserError(f"--momentum is {self.momentum}; it must be below 1")
        kind, _, path = self.dataset.partition(":")
        if kind in _PATHS and path:  # a run can be resumed from any working directory
            path = os.path.abspath(os.path.expanduser(path))
            object.__setattr__(self, "dataset", f"{kind}:{path}")
        object.__setattr__(self, "order", orders.normalized(self.order))
        if self.scenario is not None:
            object.__setattr__(self, "scenario", streams.normalized(self.scenario))
        if self.tasks is not None:
            for name, value in task_sizes.settings_of(self.tasks).items():
                object.__setattr__(self, name, value)
        if not re.fullmatch(r"auto|(\[[\da-fA-F:]+\]|[\w.-]+):\d{1,5}", self.coordinator or "auto"):
            raise UserError(
                f"--coordinator is {self.coordinator}; it must be HOST:PORT, such as host0:1234, "
                "or auto"
            )
        place = (self.num_processes, self.process_id)
        needed = 0 if self.coordinator in (None, "auto") else 2
        if sum(number is not None for number in place) != needed:
            raise UserError(
                "--coordinator HOST:PORT, --num-processes and --process-id must be given together; "
                "with --coordinator auto, leave out the other two"
            )

    def folder(self) -> str:
        """The path of the run folder."""
        return self.out or f"runs/{self.label()}-seed{self.seed}"

    def label(self) -> str:
        """Method, preset, data set and backbone, as part of a folder name."""
        kind, _, path = self.dataset.partition(":")
        name = f"{kind}-{Path(path).stem if kind == 'npz' else Path(path).name}" if path else kind
        name = re.sub(r"[^\w.+-]+", "_", name)[:_LONGEST_NAME]
        return "-".join(filter(None, (self.method, self.preset, name, self.backbone)))

    def decisive(self) -> dict[str, Any]:
        """The settings that affect the result, as plain values under the names of their flags."""
        return {
            field.name.rstrip("_"): plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.metadata.get("decides", True)
        }

    def recorded(self) -> dict[str, Any]:
        """The settings that affect the result, and where code from outside the package lies."""
        code = record(self.method_class, self.backbone)
        return {**self.decisive(), **({"code": code} if code else {})}


@functools.cache
def config_type(name: str, method_class: type) -> type[Config]:
    """The settings of the runs of a method: those of Config, and those that its class declares.

    Args:
      name: the name of the method.
      method_class: a dataclass, some of whose fields are made by `setting`.

    Raises:
      UserError: if a setting of the method has the name of another setting or of a flag, or a type
        that a setting can't have.
    """
    taken = {field.name.rstrip("_") for field in dataclasses.fields(Config)} | {*NOT_NAMES}
    declared = []
    for field in filter(is_setting, dataclasses.fields(method_class)):
        if field.name.rstrip("_") in taken:
            raise UserError(
                f"{method_class.__name__} can't have a setting {field.name!r}: all methods have a "
                "setting or flag of this name"
            )
        kind(field)  # raises if it is none
        metadata = {"group": f"settings of {name}", **field.metadata}
        copy = dataclasses.field(default=field.default, metadata=metadata)
        declared.append((field.name, field.type, copy))
    namespace = {"method_class": method_class, "__doc__": f"The settings of a run of {name}."}
    return dataclasses.make_dataclass(
        f"{method_class.__name__}Config", declared, bases=(Config,), frozen=True, repr=False,
        namespace=namespace,
    )  # fmt: skip


def cache_dir() -> Path | None:
    """Where decoded data and compiled programs are kept: CIL_JAX_CACHE, else the user's cache.

    None for a user without a home, whom nothing is kept for.
    """
    if named := os.environ.get("CIL_JAX_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cil_jax"
    try:
        return Path.home() / ".cache/cil_jax"
    except RuntimeError:
        return None


def is_moved(dataset: str, other: str) -> bool:
    """Whether two values of --dataset may be the same data in two places."""
    kind, _, place = dataset.partition(":")
    other_kind, _, other_place = other.partition(":")
    return kind == other_kind and kind in _MOVABLE and place != other_place


def help_of(name: str) -> str:
    """The help text of a field, for other commands that have the same flag."""
    return Config.__dataclass_fields__[name].metadata["help"]
