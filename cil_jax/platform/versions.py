"""The versions that a result may depend on."""

import platform
from importlib import metadata

import cil_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    found = {"python": platform.python_version(), "cil_jax": cil_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
