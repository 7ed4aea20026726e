"""The versions of Python and of the packages that results may depend on."""

import platform
from importlib import metadata

import cil_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions by name, with "python"; "not installed" for a missing package."""
    found = {"python": platform.python_version(), "cil_jax": cil_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
