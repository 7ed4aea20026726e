"""What a result depends on beside the settings of a run: options of JAX, versions, the machine.

Environment variables set the options of JAX: JAX_ENABLE_X64 sets jax_enable_x64. A command sets
them as a run needs them. A program of your own does so itself, and is refused where it does not.
What you may choose is recorded with the settings of the run; a run that is resumed says what has
changed.
"""

import enum
import os
from collections.abc import Mapping
from typing import Any

import jax

from cil_jax.errors import UserError
from cil_jax.platform import machine
from cil_jax.platform.versions import versions

NEEDED = {  # other values change results, or stop every run
    "jax_enable_x64": False,
    "jax_numpy_dtype_promotion": "standard",
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_disable_jit": False,
    "jax_disable_most_optimizations": False,
    "jax_enable_pgle": False,  # it compiles again, in the middle of a run
}
CHECKS = {  # other values change no result, but may stop a run with a traceback
    "jax_numpy_rank_promotion": "allow",
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_explicit_x64_dtypes": "warn",
}
RECORDED = (  # how numbers are rounded, which may be chosen
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
    """Sets JAX as a run needs it, whatever environment variables say; for a whole process."""
    for name, value in {**NEEDED, **CHECKS}.items():
        if name in jax.config.values:  # not every version of JAX has each
            jax.config.update(name, value)


def check_options() -> None:
    """Refuses options of JAX that are not as a run needs them.

    Raises:
      UserError: which option, and what to do.
    """
    for name, value in NEEDED.items():
        if name in jax.config.values and option(name) != value:
            raise UserError(
                f"JAX's option {name} is {option(name)}, and a run needs {value}: unset "
                f"{name.upper()}, or call jax.config.update({name!r}, {value!r}) first"
            )


def describe() -> dict[str, dict[str, Any]]:
    """The `versions`, `machine` and `options` that a result depends on; plain values."""
    options = {
        **{name: option(name) for name in RECORDED},
        **{name: os.environ.get(name) for name in RECORDED_VARIABLES},
    }
    here = {key: value for key, value in machine.describe().items() if key != "load"}
    return {"versions": versions(), "machine": here, "options": options}


def changes(before: Mapping[str, Any]) -> list[str]:
    """What is not as it was, such as 'cores was 2, is now 1', of all that results depend on.

    Args:
      before: what `describe` gave; a part that is missing is not compared.
    """
    there, here = _facts(before), _facts(describe())
    both = [name for name in here if name in there]
    return [f"{n} was {there[n]}, is now {here[n]}" for n in both if there[n] != here[n]]


def _facts(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of what `describe` gave, under one name each."""
    parts = (recorded.get(part) for part in ("versions", "machine", "options"))
    of_versions, of_machine, options = (part if isinstance(part, dict) else {} for part in parts)
    facts = {name: of_versions[name] for name in PACKAGES if name in of_versions}
    if "python" in of_versions:
        facts["python"] = str(of_versions["python"]).rpartition(".")[0]  # without the patch level
    # What computes nothing on an accelerator does not count there.
    unused = () if of_machine.get("platform") == "cpu" else ("cpu", "cores")
    return facts | {k: v for k, v in of_machine.items() if k not in unused} | options


def option(name: str) -> Any:
    """The value of an option of JAX as YAML has it, None where this JAX does not have it."""
    # Only those that a context can set are attributes, which know the context.
    value = getattr(jax.config, name, jax.config.values.get(name))
    return value.name.lower() if isinstance(value, enum.Enum) else value
