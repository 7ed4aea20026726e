"""The settings of a run: one flat frozen dataclass, and what its values must be.

A field's metadata holds what `--help` says of it. Nothing here knows JAX, so flags are read before
it starts. `cil_jax.recipes` fills it from presets and files.
"""

import dataclasses
import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Something that the user can put right, said in one line; or several, with a line each.

    Attributes:
      lines: what is wrong; of several things, the first line says in what.
    """

    def __init__(self, message: str, each: Sequence[str] = ()):
        self.lines = (message, *each)
        super().__init__("\n  ".join(self.lines))


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What to say after 'unknown ...': a guess where one is near, and the choice."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f": did you mean {close[0]!r}?" if close else ""
    if len(known) > 12:
        return guess or "; --help has them all"
    return f"{guess or ':'} {'there are' if close else 'choose from'} {', '.join(known)}"


def _setting(default: Any, group: str, help: str, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **more})


# What a setting's value must be, and how that is said; None is always allowed.
_COUNT = (lambda x: x >= 1, "be at least 1")
_POSITIVE = (lambda x: 0 < x < float("inf"), "be above 0 and finite")
_NOT_NEGATIVE = (lambda x: 0 <= x < float("inf"), "not be negative")
_SEED = (lambda x: 0 <= x < 2**32, f"lie in 0..{2**32 - 1}")
ACCELERATORS = ("auto", "cpu", "gpu", "tpu")
_PATHS = ("npz", "folder")  # data sets that are named by a path
_MOVABLE = (*_PATHS, "tfds")  # whose name says where they are, not what they hold
_LONGEST_NAME = 40  # letters of a data set's name in a folder's
_FRACTIONS = (
    lambda steps: all(0 < step <= 1 for step in steps) and list(steps) == sorted(steps),
    "lie in 0..1, the smaller before the larger",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is. Field names are the flags', with `_` for `-`; `lambda_` is `--lambda`.

    The defaults here are common ground, no method's recipe: those are presets. Start from
    `cil_jax.recipes.preset("icarl", "paper")` rather than from a plain Config.
    """

    method: str = _setting("icarl", "", "a key of `cil_jax.methods.METHODS`")
    preset: str = _setting("", "", "the file of settings that flags were laid over")

    dataset: str = _setting(
        "cifar100",
        "data",
        "data set to learn: cifar100, digits, or your own: npz:FILE (arrays images and labels), "
        "folder:DIR (a folder of pictures for each class) or tfds:NAME (prepared with "
        "tensorflow-datasets); the README has what each must hold",
    )
    data_dir: str | None = _setting(
        None,
        "data",
        "folder of prepared tensorflow-datasets (default: TFDS_DATA_DIR, else tfds' own default)",
        metavar="DIR",
        decides=False,
    )
    image_size: int | None = _setting(
        None,
        "data",
        "folder: and tfds: pixels of a side: the shorter side of a picture is brought to it, and "
        "the middle square taken (default: as they are, if all have one size)",
        bound=_COUNT,
    )
    test_share: float | None = _setting(
        None,
        "data",
        "npz: and folder: share of each class' images that is held out for testing, where no "
        "images are named for that (default: 0.2)",
        bound=(lambda x: 0 < x < 1, "lie between 0 and 1"),
    )
    split_seed: int | None = _setting(
        None, "data", "seed of the choice of these test images (default: 0)", bound=_SEED
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
        "(default: the data set's own, 4 for cifar100, 1 for digits, an eighth of your own's side)",
        bound=_NOT_NEGATIVE,
    )
    mirror: str = _setting(
        "auto",
        "data",
        "augmentation: mirror half of the images; auto: yes for cifar100, no for all others",
        choices=("auto", "yes", "no"),
    )
    padding: str = _setting(
        "mean",
        "data",
        "augmentation: what surrounds a padded image: the mean (zero after normalisation) or black",
        choices=("mean", "black"),
    )
    brightness: float = _setting(
        0.0,
        "data",
        "augmentation: the pixels of each image are multiplied by up to 1 +- this, at random",
        bound=_NOT_NEGATIVE,
    )

    task_size: int = _setting(10, "scenario", "classes a task", bound=_COUNT)
    first_task: int | None = _setting(
        None, "scenario", "classes of the first task (default: as all others)", bound=_COUNT
    )
    classes: int | None = _setting(
        None, "scenario", "learn only the first N classes of the order (default: all)", bound=_COUNT
    )
    order: str = _setting(
        "seeded", "scenario", "order in which classes come", choices=("natural", "seeded")
    )
    order_seed: int = _setting(
        1993, "scenario", "seed of the seeded order; 1993 gives the common one", bound=_SEED
    )
    seed: int = _setting(0, "scenario", "seed of initial weights", bound=_SEED)
    data_seed: int | None = _setting(
        None,
        "scenario",
        "seed of shuffling, augmentation and random exemplars (default: --seed)",
        bound=_SEED,
    )

    backbone: str = _setting(
        "resnet32", "network", "resnet8, 20, 32, 44, 56, 64, 110 or resnet29-bottleneck"
    )
    last_relu: bool = _setting(True, "network", "whether the last block ends in a ReLU")
    outputs: str = _setting(
        "growing",
        "network",
        "growing: outputs open when their classes come; fixed: all are trained from the start",
        choices=("growing", "fixed"),
    )
    precision: str = _setting(
        "float32",
        "network",
        "what the network's layers are computed in, in training and in evaluation; weights, "
        "statistics, features and losses are float32 in either",
        choices=("float32", "bfloat16"),
    )

    epochs: int = _setting(70, "training", "epochs a task", bound=_COUNT)
    first_epochs: int | None = _setting(
        None, "training", "epochs of the first task (default: as all others)", bound=_COUNT
    )
    batch_size: int = _setting(
        128,
        "training",
        "images an update; an epoch leaves out a rest smaller than this, and goes round a pool "
        "smaller than this",
        bound=_COUNT,
    )
    rate: float = _setting(
        0.1, "training", "learning rate of the first epochs, per update", bound=_POSITIVE
    )
    rate_steps: tuple[float, ...] = _setting(
        (0.7, 0.9),
        "training",
        "fractions of a task's epochs after which the rate falls",
        bound=_FRACTIONS,
    )
    first_rate_steps: tuple[float, ...] | None = _setting(
        None, "training", "the same of the first task (default: as all others)", bound=_FRACTIONS
    )
    rate_factor: float = _setting(
        5.0, "training", "what the rate is divided by at each fall", bound=_POSITIVE
    )
    momentum: float = _setting(0.9, "training", "momentum of SGD", bound=_NOT_NEGATIVE)
    weight_decay: float = _setting(
        2e-4,
        "training",
        "times a weight is added to its gradient; see --decay",
        bound=_NOT_NEGATIVE,
    )
    first_weight_decay: float | None = _setting(
        None, "training", "the same of the first task (default: as all others)", bound=_NOT_NEGATIVE
    )
    decay: str = _setting(
        "kernels",
        "training",
        "which weights decay: kernels, or all, normalisation and biases included",
        choices=("kernels", "all"),
    )

    memory: int = _setting(
        2000, "memory (iCaRL, replay)", "exemplars kept, over all classes", bound=_NOT_NEGATIVE
    )
    selection: str = _setting(
        "herding",
        "memory (iCaRL, replay)",
        "how exemplars are chosen",
        choices=("herding", "random"),
    )
    mirror_means: str = _setting(
        "auto",
        "memory (iCaRL, replay)",
        "whether mirror images of the exemplars count in the class means; auto: as --mirror",
        choices=("auto", "yes", "no"),
    )
    answer: str = _setting(
        "nme",
        "memory (iCaRL, replay)",
        "the method's own classifier: nearest mean of exemplars, or the outputs; both are reported",
        choices=("nme", "linear"),
    )

    objective: str = _setting(
        "softmax",
        "loss",
        "softmax: cross-entropy and distillation at a temperature; sigmoid: every output is a "
        "binary classifier, and old ones learn the old network's sigmoids (LwF, iCaRL)",
        choices=("softmax", "sigmoid"),
    )
    softmax_over: str = _setting(
        "open",
        "loss",
        "outputs among which labels compete: all open ones, or the new task's own (finetune, LwF)",
        choices=("open", "new"),
    )
    distill: str = _setting(
        "all",
        "loss",
        "old outputs that are distilled together: all, or each old task's by themselves; none: no "
        "distillation, exemplars keep their labels (LwF, iCaRL)",
        choices=("all", "tasks", "none"),
    )
    lambda_: float = _setting(
        1.0, "loss", "weight of the distillation under a softmax", bound=_NOT_NEGATIVE
    )
    temperature: float = _setting(
        2.0, "loss", "temperature of the distillation under a softmax", bound=_POSITIVE
    )
    divisor: float = _setting(
        100.0,
        "loss",
        "the summed sigmoid loss of all outputs is divided by this constant",
        bound=_POSITIVE,
    )

    ncm: bool = _setting(
        True,
        "evaluation",
        "also report the nearest class mean of all training data, which no learner may keep: an "
        "analysis of the features",
    )

    out: str | None = _setting(
        None,
        "run",
        "run folder (default: runs/METHOD-PRESET-DATASET-BACKBONE-seedN)",
        decides=False,
    )
    fast: bool = _setting(
        False,
        "run",
        "on a CPU, train with faster convolutions where JAX has them, compiled anew in each run, "
        "and with memory in huge pages where Linux gives them: equal up to rounding; what changes "
        "more than that, as --precision does, it leaves alone",
    )
    resume: bool = _setting(False, "run", "continue the run in --out", decides=False)
    accelerator: str = _setting(
        "auto",
        "run",
        "where to compute; auto takes the best that JAX finds",
        choices=ACCELERATORS,
        decides=False,
    )
    devices: int | None = _setting(
        None,
        "run",
        "devices among which every batch is divided, or with --parallel-members the members; the "
        "result is the same to rounding (default: as many of an accelerator's as divide the batch, "
        "1 on the CPU)",
        bound=_COUNT,
        decides=False,
    )
    stream: bool = _setting(
        False,
        "run",
        "leave images in the host's memory and bring them to the devices a few batches at a time, "
        "for data larger than a device's memory; the result is the same",
        decides=False,
    )
    log: str = _setting(
        "",
        "run",
        "also write the course of the run for tensorboard (into the run folder) or wandb, where it "
        "is installed; both with a comma or by saying it twice (default: neither)",
        metavar="NAME,...",
        several={"tensorboard": "tensorboardX", "wandb": "wandb"},  # and the package of each
        decides=False,
    )

    coordinator: str | None = _setting(
        None,
        "several hosts",
        "HOST:PORT of process 0, where the same command runs on several hosts; auto: as Slurm, "
        "Open MPI or the TPU pod says (default: one process)",
        metavar="HOST:PORT",
        decides=False,
    )
    num_processes: int | None = _setting(
        None,
        "several hosts",
        "how many processes there are (default: as the cluster says)",
        bound=_COUNT,
        decides=False,
    )
    process_id: int | None = _setting(
        None,
        "several hosts",
        "which of them this is, from 0; 0 writes the run folder (default: as the cluster says)",
        bound=_NOT_NEGATIVE,
        decides=False,
    )

    def __post_init__(self):
        """Refuses what no data set could make sense of, and makes the data's path absolute."""
        for field in dataclasses.fields(self):
            check(field, getattr(self, field.name))
        if self.momentum >= 1:
            raise UserError(f"--momentum is {self.momentum}; it must be below 1")
        kind, _, path = self.dataset.partition(":")
        if kind in _PATHS and path:  # a run is resumed from any folder
            path = os.path.abspath(os.path.expanduser(path))
            object.__setattr__(self, "dataset", f"{kind}:{path}")
        if not re.fullmatch(r"auto|(\[[\da-fA-F:]+\]|[\w.-]+):\d{1,5}", self.coordinator or "auto"):
            raise UserError(
                f"--coordinator is {self.coordinator}; it must be HOST:PORT, such as host0:1234, "
                "or auto"
            )
        place = (self.num_processes, self.process_id)
        needed = 0 if self.coordinator in (None, "auto") else 2
        if sum(x is not None for x in place) != needed:
            raise UserError(
                "--coordinator HOST:PORT, --num-processes and --process-id go together; "
                "--coordinator auto needs neither of the others"
            )

    def folder(self) -> str:
        """Where the run goes."""
        return self.out or f"runs/{self.label()}-seed{self.seed}"

    def label(self) -> str:
        """Method, preset, data set and backbone, as a name for a folder."""
        kind, _, path = self.dataset.partition(":")
        name = f"{kind}-{Path(path).stem if kind == 'npz' else Path(path).name}" if path else kind
        name = re.sub(r"[^\w.+-]+", "_", name)[:_LONGEST_NAME]
        return "-".join(filter(None, (self.method, self.preset, name, self.backbone)))

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, under their flags' names; plain values."""
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
    """The flag of a field."""
    return "--" + name.rstrip("_").replace("_", "-")


def kind(field: dataclasses.Field) -> type:
    """What a setting is: bool, int, float, str, or tuple, which holds floats."""
    return next(k for k in (tuple, bool, int, float, str) if k.__name__ in str(field.type))


def check(field: dataclasses.Field, value: Any) -> None:
    """Refuses a value that is none of a setting's choices, outside its bounds or not installed.

    Raises:
      UserError: with what it must be.
    """
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(f"unknown {flag(field.name)} {value!r}{nearest_name(str(value), choices)}")
    several = field.metadata.get("several")
    for word in filter(None, value.split(",") if several else ()):
        if word not in several:
            raise UserError(f"unknown {flag(field.name)} {word!r}{nearest_name(word, several)}")
        if importlib.util.find_spec(several[word]) is None:
            needed = several[word]
            raise UserError(f"{flag(field.name)} {word} needs a package: pip install {needed}")
    holds, bound = field.metadata.get("bound", (None, None))
    if holds and value is not None and not holds(value):
        is_tuple = isinstance(value, tuple)
        said = f"are {' '.join(map(str, value))}; they" if is_tuple else f"is {value}; it"
        raise UserError(f"{flag(field.name)} {said} must {bound}")


def plain(value: Any) -> Any:
    """A setting's value as YAML has it."""
    return list(value) if isinstance(value, tuple) else value
