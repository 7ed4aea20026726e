"""The settings of a run: one flat frozen dataclass, and which values they may have.

The metadata of a field holds its `--help` text. This module does not import JAX, so flags are
parsed before JAX starts. `cil_jax.settings.loading` fills a Config from presets and files.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cil_jax.errors import UserError, nearest_name
from cil_jax.settings import orders

Value = bool | int | float | str | tuple[float, ...] | None  # of a setting


class Bound(NamedTuple):
    """A condition on the value of a setting. None always satisfies it.

    Attributes:
      holds: whether a value satisfies it.
      rule: the condition in words, to follow "it must" in an error message.
    """

    holds: Callable[[Any], bool]
    rule: str


_COUNT = Bound(lambda x: x >= 1, "be at least 1")
_POSITIVE = Bound(lambda x: 0 < x < float("inf"), "be above 0 and finite")
_NOT_NEGATIVE = Bound(lambda x: 0 <= x < float("inf"), "be finite and not negative")
_SEED = Bound(lambda x: 0 <= x < 2**32, f"lie in 0..{2**32 - 1}")
_FRACTIONS = Bound(
    lambda fractions: (
        all(0 < fraction <= 1 for fraction in fractions) and list(fractions) == sorted(fractions)
    ),
    "be above 0 and at most 1, in increasing order",
)

ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
_PATHS = ("npz", "folder")  # kinds of data sets whose name is a path
_MOVABLE = (*_PATHS, "tfds")  # kinds whose name says where the data is, not what it holds
_LONGEST_NAME = 40  # characters of a data set's name in the name of a run folder

# Titles of the groups of flags in --help.
_DATA = "data and augmentation"
_SCENARIO = "class-incremental scenario and seeds"
_NETWORK = "network"
_TRAINING = "training"
_MEMORY = "exemplar memory (iCaRL, replay)"
_LOSS = "loss"
_EVALUATION = "evaluation"
_RUN = "run and hardware"
_HOSTS = "multiple hosts"


def _setting(default: Any, group: str, help: str, **metadata: Any) -> Any:
    """A field of Config.

    Args:
      default: its default value.
      group: the title of its group in --help; "" for a field without a flag.
      help: what --help says. If the default is None, it ends in " (default: ...)".
      **metadata: `choices`, the allowed values; `bound`, see Bound; `metavar`, the placeholder of
        the value in --help; `decides`, False for a setting that does not affect the result;
        `several`, for a comma-separated list of names: the package that each name needs.
    """
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run. Fields are named like their flags: `batch_size` is `--batch-size`.

    `lambda_` is `--lambda`, since Python reserves the word. The defaults are not the recipe of any
    method: recipes are presets. Start from `cil_jax.preset("icarl", "paper")` rather than from a
    plain Config.

    Raises:
      UserError: if a value is not allowed, or settings contradict each other.
    """

    method: str = _setting("icarl", "", "name of the method, a key of `cil_jax.methods.METHODS`")
    preset: str = _setting("", "", "name of the preset that the other settings start from")

    dataset: str = _setting(
        "cifar100",
        _DATA,
        "data set: cifar100, digits, or your own data as npz:FILE (arrays `images` and `labels`), "
        "folder:DIR (one subfolder of images per class) or tfds:NAME (prepared with "
        "tensorflow-datasets); the README describes the formats",
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
        bound=_COUNT,
    )
    test_share: float | None = _setting(
        None,
        _DATA,
        "fraction of the images of each class that is held out for testing, for npz: and folder: "
        "data sets without test images of their own (default: 0.2)",
        bound=Bound(lambda x: 0 < x < 1, "lie between 0 and 1"),
    )
    split_seed: int | None = _setting(
        None,
        _DATA,
        "seed of the random split into training and test images (default: 0)",
        bound=_SEED,
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
        bound=_NOT_NEGATIVE,
    )
    mirror: str = _setting(
        "auto",
        _DATA,
        "augmentation: flip each image horizontally with probability 1/2; auto: yes for cifar100, "
        "no for other data sets",
        choices=("auto", "yes", "no"),
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
        bound=_NOT_NEGATIVE,
    )

    task_size: int = _setting(10, _SCENARIO, "number of classes per task", bound=_COUNT)
    first_task: int | None = _setting(
        None,
        _SCENARIO,
        "number of classes of the first task, the base task (default: --task-size)",
        bound=_COUNT,
    )
    classes: int | None = _setting(
        None,
        _SCENARIO,
        "use only the first N classes of the class order (default: all)",
        bound=_COUNT,
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
        bound=_SEED,
    )
    seed: int = _setting(0, _SCENARIO, "seed of the initial weights", bound=_SEED)
    data_seed: int | None = _setting(
        None,
        _SCENARIO,
        "seed of shuffling, augmentation and random exemplar selection (default: --seed)",
        bound=_SEED,
    )

    backbone: str = _setting(
        "resnet32",
        _NETWORK,
        "feature extractor: resnet8, resnet20, resnet32, resnet44, resnet56, resnet64, resnet110 "
        "or resnet29-bottleneck",
    )
    last_relu: bool = _setting(
        True, _NETWORK, "end the last residual block with a ReLU, so that no feature is negative"
    )
    outputs: str = _setting(
        "growing",
        _NETWORK,
        "growing: add the outputs of new classes when their task begins; fixed: train the outputs "
        "of all classes from the first task on",
        choices=("growing", "fixed"),
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
        bound=_COUNT,
    )
    first_epochs: int | None = _setting(
        None, _TRAINING, "epochs of the first task (default: --epochs)", bound=_COUNT
    )
    batch_size: int = _setting(
        128,
        _TRAINING,
        "images per update; the last partial batch of an epoch is dropped, and if there are fewer "
        "images than N, they are repeated to fill one batch",
        bound=_COUNT,
    )
    rate: float = _setting(0.1, _TRAINING, "initial learning rate of each task", bound=_POSITIVE)
    rate_steps: tuple[float, ...] = _setting(
        (0.7, 0.9),
        _TRAINING,
        "learning-rate milestones as fractions of a task's epochs, for all tasks unless "
        "--first-rate-steps is given; at each, the learning rate is divided by --rate-factor",
        bound=_FRACTIONS,
    )
    first_rate_steps: tuple[float, ...] | None = _setting(
        None,
        _TRAINING,
        "learning-rate milestones of the first task (default: --rate-steps)",
        bound=_FRACTIONS,
    )
    rate_factor: float = _setting(
        5.0,
        _TRAINING,
        "divisor of the learning rate at each milestone",
        bound=_POSITIVE,
    )
    momentum: float = _setting(0.9, _TRAINING, "momentum of SGD", bound=_NOT_NEGATIVE)
    weight_decay: float = _setting(
        2e-4,
        _TRAINING,
        "L2 weight-decay coefficient, for all tasks unless --first-weight-decay is given: X * w is "
        "added to the gradient of each weight w; see --decay",
        bound=_NOT_NEGATIVE,
    )
    first_weight_decay: float | None = _setting(
        None,
        _TRAINING,
        "weight-decay coefficient of the first task (default: --weight-decay)",
        bound=_NOT_NEGATIVE,
    )
    decay: str = _setting(
        "kernels",
        _TRAINING,
        "parameters with weight decay: kernels only (of convolutions and of the output layer), or "
        "all, including biases and normalization parameters",
        choices=("kernels", "all"),
    )

    memory: int = _setting(
        2000, _MEMORY, "total number of exemplars, over all classes", bound=_NOT_NEGATIVE
    )
    selection: str = _setting(
        "herding",
        _MEMORY,
        "how the exemplars of a class are chosen: by herding or uniformly at random",
        choices=("herding", "random"),
    )
    mirror_means: str = _setting(
        "auto",
        _MEMORY,
        "include horizontally flipped exemplars in the class means; auto: yes if --mirror flips "
        "the training images",
        choices=("auto", "yes", "no"),
    )
    answer: str = _setting(
        "nme",
        _MEMORY,
        "classifier of the headline result: nme (nearest mean of exemplars) or linear (argmax of "
        "the outputs); results of both are reported",
        choices=("nme", "linear"),
    )

    objective: str = _setting(
        "softmax",
        _LOSS,
        "softmax: cross-entropy, with distillation at --temperature for lwf and icarl; sigmoid: "
        "binary cross-entropy of every output, where for lwf and icarl the old network's sigmoid "
        "outputs are the targets for old classes",
        choices=("softmax", "sigmoid"),
    )
    softmax_over: str = _setting(
        "open",
        _LOSS,
        "outputs in the softmax of the cross-entropy: open (all current outputs, see --outputs) "
        "or new (those of the current task only; finetune, lwf)",
        choices=("open", "new"),
    )
    distill: str = _setting(
        "all",
        _LOSS,
        "distillation of the old outputs (lwf, icarl): all (one softmax over all old outputs), "
        "tasks (one softmax per old task) or none (exemplars are trained on their labels)",
        choices=("all", "tasks", "none"),
    )
    lambda_: float = _setting(
        1.0, _LOSS, "weight of the distillation loss (--objective softmax)", bound=_NOT_NEGATIVE
    )
    temperature: float = _setting(
        2.0, _LOSS, "temperature of the distillation (--objective softmax)", bound=_POSITIVE
    )
    divisor: float = _setting(
        100.0,
        _LOSS,
        "divisor of the sigmoid loss, which is summed over the outputs (--objective sigmoid)",
        bound=_POSITIVE,
    )

    ncm: bool = _setting(
        True,
        _EVALUATION,
        "also report the nearest class mean over all training data; for analysis only, since an "
        "incremental learner has no access to that data",
    )

    out: str | None = _setting(
        None,
        _RUN,
        "run folder (default: runs/METHOD-PRESET-DATASET-BACKBONE-seedN)",
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
        bound=_COUNT,
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
        bound=_COUNT,
        decides=False,
    )
    process_id: int | None = _setting(
        None,
        _HOSTS,
        "index of this process, from 0; process 0 writes the run folder (default: detected by "
        "--coordinator auto)",
        bound=_NOT_NEGATIVE,
        decides=False,
    )

    def __post_init__(self):
        """Rejects values that are wrong for any data set, and makes some independent of files.

        The path of the data becomes absolute, and the file of an order is replaced by its content.
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


def flag(name: str) -> str:
    """The flag of a field, such as "--batch-size" of "batch_size"."""
    return "--" + name.rstrip("_").replace("_", "-")


def help_of(name: str) -> str:
    """The help text of a field, for other commands that have the same flag."""
    return Config.__dataclass_fields__[name].metadata["help"]


def kind(field: dataclasses.Field[Any]) -> type:
    """The type of a setting: bool, int, float, str, or tuple for a tuple of floats."""
    return next(k for k in (tuple, bool, int, float, str) if k.__name__ in str(field.type))


def check(field: dataclasses.Field[Any], value: Value) -> None:
    """Rejects a value that is not among the choices, out of bounds, or lacks a package.

    Raises:
      UserError: if so; it says what the value must be.
    """
    name = flag(field.name)
    choices: Sequence[str] = field.metadata.get("choices", ())
    if choices and value not in choices:
        raise UserError(f"unknown {name} {value!r}{nearest_name(str(value), choices)}")
    packages: Mapping[str, str] = field.metadata.get("several", {})
    for word in filter(None, str(value).split(",") if packages else ()):
        if word not in packages:
            raise UserError(f"unknown {name} {word!r}{nearest_name(word, packages)}")
        if importlib.util.find_spec(packages[word]) is None:
            raise UserError(
                f"{name} {word} needs the package {packages[word]}: pip install {packages[word]}"
            )
    holds, rule = field.metadata.get("bound", (None, ""))
    if holds and value is not None and not holds(value):
        is_tuple = isinstance(value, tuple)
        verb = f"are {' '.join(map(str, value))}; they" if is_tuple else f"is {value}; it"
        raise UserError(f"{name} {verb} must {rule}")


def plain(value: Value) -> bool | int | float | str | list[float] | None:
    """A setting's value as YAML and JSON represent it: a tuple becomes a list."""
    return list(value) if isinstance(value, tuple) else value
