"""`jax.jit` for methods, with compiler options for the CPU.

There are three sets of options, and none of them is used on other platforms:

- ALL_CORES, for every program, keeps convolutions away from YNNPACK, which XLA uses by default for
  many of them. With jax 0.10, YNNPACK runs them on one core; with 0.12, it is no faster than XLA.
- LESS_EFFORT is for a program that draws many random numbers and runs once. At its default level of
  effort, XLA takes two to eight times as long to compile it, for the same numbers.
- ONEDNN is for a program that trains, if the user asks for it. It selects oneDNN's convolutions,
  which are up to 1.6 times as fast as Eigen's and YNNPACK's and give the same numbers up to
  rounding. XLA fails with a MemoryError when it writes such a program to the persistent compilation
  cache, so these programs are never cached.
"""

import contextlib
import functools
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import lax

Options: TypeAlias = dict[str, Any]  # of XLA's compiler

# The empty value leaves no operation to YNNPACK.
ALL_CORES: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
# The default level is 3; level 0 gives other numbers.
LESS_EFFORT: Options = {"xla_backend_optimization_level": 2}
ONEDNN: Options = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_onednn": True,
    **ALL_CORES,  # else YNNPACK would take some of the convolutions
}


class Program:
    """A method that `jax.jit` compiles with self as a static argument.

    Accessed on the class, it is the compiled function for this platform.

    Args:
      method: a pure function of self and its arguments.
      static_argnames: names of further static arguments.
      options: compiler options for the CPU; none is used if this version of JAX lacks any of them.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        static_argnames: Sequence[str] = (),
        options: Options = ALL_CORES,
    ):
        jit = functools.partial(jax.jit, method, static_argnames=("self", *static_argnames))
        self._plain, self._with_options = jit(), jit(compiler_options=options)
        self._options = options
        functools.update_wrapper(cast(Any, self), method)  # typed for functions only

    def __get__(self, owner: Any, owner_type: type | None = None) -> Callable[..., Any]:
        use_options = jax.default_backend() == "cpu" and accepts(**self._options)
        program = self._with_options if use_options else self._plain
        return program if owner is None else types.MethodType(program, owner)


class FastProgram(Program):
    """A `Program` that is compiled with oneDNN's convolutions if `self.fast` is true.

    Accessed on the class, it is the compiled function without them.
    """

    def __init__(self, method: Callable[..., Any], static_argnames: Sequence[str] = ()):
        super().__init__(method, static_argnames)
        self.with_onednn = jax.jit(
            method, static_argnames=("self", *static_argnames), compiler_options=ONEDNN
        )

    def __get__(self, owner: Any, owner_type: type | None = None) -> Callable[..., Any]:
        if owner is not None and owner.fast and has_onednn():
            return types.MethodType(self._call_with_onednn, owner)
        return super().__get__(owner, owner_type)

    def _call_with_onednn(self, *args: Any, **kwargs: Any) -> Any:
        with no_cache_writes():
            return self.with_onednn(*args, **kwargs)


@functools.cache
def accepts(**options: Any) -> bool:
    """Returns whether the XLA of this version of JAX accepts these options."""
    try:
        with no_cache_writes():
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def has_onednn() -> bool:
    """Returns whether this JAX has oneDNN's convolutions: 0.12 on x86 does, 0.10 does not."""
    if jax.default_backend() != "cpu" or not accepts(**ONEDNN):
        return False
    x = jnp.zeros((1, 4, 4, 16))
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    with no_cache_writes():
        program = jax.jit(convolve, compiler_options=ONEDNN)
        compiled = program.lower(x, jnp.zeros((3, 3, 16, 16))).compile()
    return "__onednn$convolution" in (compiled.as_text() or "")


@contextlib.contextmanager
def no_cache_writes() -> Iterator[None]:
    """A context in which no compiled program is written to the persistent compilation cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)
