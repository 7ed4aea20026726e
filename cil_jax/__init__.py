"""Class-incremental learning in JAX and Flax.

Submodules are imported when they are first used, so that flags can be read, and the accelerator
chosen, before JAX starts.
"""

import importlib
import pkgutil
from typing import Any

_FUNCTIONS = {"run": "cil_jax.protocol", "load": "cil_jax.saved"}
_MODULES = tuple(module.name for module in pkgutil.iter_modules(__path__))

__all__ = [*_FUNCTIONS, *_MODULES]  # noqa: PLE0604
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"cil_jax.{name}")
    raise AttributeError(f"module 'cil_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
