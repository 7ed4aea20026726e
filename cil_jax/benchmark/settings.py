"""The parts of the benchmark, and the sizes of their work."""

import dataclasses

from cil_jax.errors import UserError
from cil_jax.settings.declaring import flag

# The parts, and for each the program whose first call in a process is timed.
PROGRAMS = {"step": "train", "epoch": "train", "herding": "herd", "nme": "evaluate", "run": "run"}
PARTS = (*PROGRAMS, "scale")
LONG_PARTS = ("shipped",)  # only measured if named: they take from minutes to hours


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes of the benchmark. The defaults are iCaRL on CIFAR-100 in ten tasks.

    Attributes:
      backbone: a key of `cil_jax.models.BACKBONES`.
      batch_size: images per update.
      fast: whether updates use the faster convolutions of `cil_jax.training.compilation`, if
        available.
      precision: of the layers, "float32" or "bfloat16"; in PyTorch, autocast to it.
      repeat: the number of rounds. Each contestant is timed once per round.
      limit: seconds after which a part starts no new round.
      torch: whether to measure PyTorch, if it is installed.
      torch_compile: whether to measure `torch.compile` as well.
      n_classes, images_per_class, test_images: the size of the data set, whose pixels are random.
      task_size: classes per task.
      memory: the number of exemplars.
      herded: the number of images of each class that herding selects.
      herded_classes: the numbers of classes to herd at once; each is measured.
      matmul: rows and columns of the matrices whose product gives the peak speed; 0 for a size
        that suits the device.
      run_backbone, run_classes, run_epochs, run_memory: the sizes of the whole small run, on
        scikit-learn's digits.
      scale_classes: the numbers of classes of the whole runs that show the cost of more classes.
      scale_tasks: the number of tasks of each of these runs, at least two.
      shipped_digits: whether the part "shipped" is a run of one epoch on digits, to try it out,
        rather than the reduced protocol on CIFAR-100.
    """

    backbone: str = "resnet32"
    batch_size: int = 128
    fast: bool = False
    precision: str = "float32"
    repeat: int = 7
    limit: float = 120.0
    torch: bool = True
    torch_compile: bool = True
    n_classes: int = 100
    images_per_class: int = 500
    test_images: int = 10_000
    task_size: int = 10
    memory: int = 2000
    herded: int = 200
    herded_classes: tuple[int, ...] = (10, 100)
    matmul: int = 0
    run_backbone: str = "resnet8"
    run_classes: int = 10
    run_epochs: int = 20
    run_memory: int = 100
    scale_classes: tuple[int, ...] = (10, 100, 1000)
    scale_tasks: int = 10
    shipped_digits: bool = False

    def __post_init__(self):
        if self.limit < 0:
            raise UserError(f"--limit is {self.limit:g}; it must not be negative")
        for name in ("batch_size", "repeat"):
            if getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1")


QUICK = {
    "backbone": "resnet8",
    "batch_size": 8,
    "repeat": 2,
    "limit": 10.0,
    "torch_compile": False,
    "n_classes": 20,
    "images_per_class": 12,
    "test_images": 40,
    "task_size": 2,
    "memory": 40,
    "herded": 6,
    "herded_classes": (2,),
    "matmul": 256,
    "run_classes": 4,
    "run_epochs": 1,
    "scale_classes": (4, 8),
    "scale_tasks": 2,
    "shipped_digits": True,
}
