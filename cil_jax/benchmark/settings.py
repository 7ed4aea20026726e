"""What is measured, and at which size."""

import dataclasses

from cil_jax.config import UserError, flag

# Parts, and the program whose first call in a process is timed for each.
PROGRAMS = {"step": "train", "epoch": "train", "herding": "herd", "nme": "evaluate", "run": "run"}
PARTS = (*PROGRAMS, "scale")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes; the defaults are those of CIFAR-100 in ten tasks, as iCaRL's authors ran it.

    Attributes:
      backbone: a key of `cil_jax.models.BACKBONES`.
      batch_size: images an update.
      fast: whether updates take the faster convolutions of `cil_jax.programs`, where there are any.
      repeat: rounds, in each of which everything is timed once, in turn.
      limit: seconds after which a part begins no further round.
      torch: whether PyTorch is measured where it is installed.
      torch_compile: whether `torch.compile` is tried beside it.
      n_classes, images_per_class, test_images: of the data, pixels drawn at random.
      task_size: classes a task.
      memory: exemplars.
      herded: images that herding ranks of each class.
      herded_classes: how many classes are herded at once.
      matmul: rows and columns of the matrices whose product is the peak; 0 to suit the device.
      run_backbone, run_classes, run_epochs, run_memory: of the whole small run, on scikit-learn's
        digits.
      scale_classes: of each of the whole runs that show what more classes cost.
      scale_tasks: of each of these, at least two.
    """

    backbone: str = "resnet32"
    batch_size: int = 128
    fast: bool = False
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
}
