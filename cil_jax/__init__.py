"""Class-incremental learning in JAX and Flax.

    config = cil_jax.preset("icarl", "paper", dataset="digits", task_size=2)
    results = cil_jax.run(config)
    learner = cil_jax.load("runs/icarl")

Modules are imported when they are first used, so that flags can be read, and the accelerator
chosen, before JAX starts.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022
    # run a method, and use what it has learned
    "preset",  # the settings of a published variant, with yours laid over them
    "run",  # runs a method through all tasks
    "load",  # a learner out of a run's folder
    "frame",  # the numbers of several runs as a pandas table
    # the field's vocabulary: pure functions of arrays
    "losses",  # cross-entropy, distillation, iCaRL's binary cross-entropy
    "heads",  # output layers that grow: linear and cosine
    "network",  # a backbone, or several side by side, and a head
    "selection",  # herding and random selection of exemplars
    "memory",  # the exemplar memory
    "classifiers",  # nearest mean of exemplars, nearest class mean
    "metrics",  # accuracy matrix, average incremental accuracy, forgetting
    "schedules",  # learning rates and SGD
    # registries that you can extend
    "data",  # data sets and scenarios
    "models",  # backbones
    "methods",  # finetuning, LwF, iCaRL and the others
]

_FUNCTIONS = {
    "preset": "cil_jax.settings.loading",
    "run": "cil_jax.app.launch",
    "load": "cil_jax.trained.saved_learner",
    "frame": "cil_jax.report.frame",
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"cil_jax.{name}")
    raise AttributeError(f"module 'cil_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
