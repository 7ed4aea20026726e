"""The list of all methods: their presets, and what each keeps from one task to the next."""

import sys
import textwrap
from collections.abc import Iterator

from cil_jax.app.accelerator import start_accelerator
from cil_jax.settings import code, loading

IMAGE_SHAPE = (32, 32, 3)  # of CIFAR-100
N_TASKS, TASK_SIZE = 10, 10
BACKBONE = "resnet8"  # a larger one would be kept in the same way, and takes longer to trace
WIDTH, INDENT = 96, 11


def entries() -> Iterator[str]:
    """Describes each method of the package in a few lines, found in its code and presets."""
    start_accelerator("cpu")
    for name, method_class in code.METHODS.items():
        about = (sys.modules[method_class.__module__].__doc__ or "").partition("\n")[0]
        presets = loading.presets(name)
        default = loading.default_preset(name)
        kept = ", ".join(_kept(name, default))
        lines = [f"{name:{INDENT - 1}} {about.rstrip('.')}"]
        for text in (f"presets: {', '.join(presets)}", f"keeps ({default}): {kept}"):
            indent = " " * INDENT
            hanging = indent + "  "
            lines += textwrap.wrap(
                text, WIDTH, initial_indent=indent, subsequent_indent=hanging,
                break_on_hyphens=False,
            )  # fmt: skip
        yield "\n".join(lines)


def _kept(name: str, preset: str) -> list[str]:
    """What a method keeps with a preset, in ten tasks of ten classes of CIFAR-100."""
    from cil_jax.training.build import room_of
    from cil_jax.training.inventory import inventory

    # Augmentation is not kept; without a data set, it must be given.
    config = loading.preset(name, preset, backbone=BACKBONE, pad=0, mirror="no")
    return inventory(config, IMAGE_SHAPE, room_of([TASK_SIZE] * N_TASKS)).words()
