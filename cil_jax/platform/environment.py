"""What results depend on besides the settings of a run: options of JAX, versions, the machine.

Environment variables set the options of JAX: JAX_ENABLE_X64 sets jax_enable_x64. Commands set the
options that a run needs. In your own program you set them yourself; a run rejects other values.
Options that you may choose are recorded with the settings of a run, and a resumed run warns if they
have changed.
"""

import enum
import os
from collections.abc import Mapping
from typing import Any

import jax

from cil_jax.errors import UserError
from cil_jax.platform import machine
from cil_jax.platform.versions import versions

NEEDED = {  # other values change results, or make every run fail
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_pgle": False,  # it compiles again in the middle of a run
}
CHECKS = {  # other values do not change results, but may end a run with a traceback
    "jax_numpy_rank_promotion": "allow",
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_explicit_x64_dtypes": "warn",
}
RECORDED = (  # they affect rounding; any value is allowed
    "jax_default_matmul_precision",
    "jax_optimization_level",
    "jax_softmax_custom_jvp",
    "jax_use_direct_linearize",
    "jax_use_hlo_logistic_lowering",
    "jax_accurate_erf_inv",
)
RECORDED_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")

PACKAGES = ("cil_jax", "jax", "jaxlib", "flax", "optax", "numpy")  # which compute results


def set_options() -> None:
    """Sets the options that a run needs, for the whole process; overrides environment variables."""
    for name, value in {**NEEDED, **CHECKS}.items():
        if name in jax.config.values:  # some versions of JAX lack some options
            jax.config.update(name, value)


def check_options() -> None:
    """Checks the options of JAX that a run needs.

    Raises:
      UserError: which option has another value, and what to do.
    """
    for name, value in NEEDED.items():
        if name in jax.config.values and option(name) != value:
            raise UserError(
                f"JAX's option {name} is {option(name)}, but a run needs {value}: unset "
                f"{name.upper()}, or call jax.config.update({name!r}, {value!r}) first"
            )


def describe() -> dict[str, dict[str, Any]]:
    """Returns the `versions`, `machine` and `options` that results depend on, as plain values."""
    options = {
        **{name: option(name) for name in RECORDED},
        **{name: os.environ.get(name) for name in RECORDED_VARIABLES},
    }
    machine_facts = {key: value for key, value in machine.describe().items() if key != "load"}
    return {"versions": versions(), "machine": machine_facts, "options": options}


def changes(before: Mapping[str, Any]) -> list[str]:
    """Returns what has changed since a run began, such as 'cores was 2, is now 1'.

    Args:
      before: the result of `describe` at that time; parts that it lacks are not compared.
    """
    old, new = _facts(before), _facts(describe())
    names = [name for name in new if name in old and old[name] != new[name]]
    return [f"{name} was {old[name]}, is now {new[name]}" for name in names]


def _facts(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts to compare, by name, from the result of `describe`."""
    parts = (recorded.get(part) for part in ("versions", "machine", "options"))
    of_versions, of_machine, options = (part if isinstance(part, dict) else {} for part in parts)
    facts = {name: of_versions[name] for name in PACKAGES if name in of_versions}
    if "python" in of_versions:
        facts["python"] = str(of_versions["python"]).rpartition(".")[0]  # without the patch level
    # On an accelerator, the CPU does not affect results.
    unused = () if of_machine.get("platform") == "cpu" else ("cpu", "cores")
    return facts | {k: v for k, v in of_machine.items() if k not in unused} | options


def option(name: str) -> Any:
    """Returns the value of an option of JAX as a plain value; None if JAX has no such option."""
    # Options that a context manager can set are attributes, which respect the context.
    value = getattr(jax.config, name, jax.config.values.get(name))
    return value.name.lower() if isinstance(value, enum.Enum) else value
