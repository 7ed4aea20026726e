"""How a method is compiled where `jax.jit` alone does not do: three wishes, all for the CPU only.

Every program wants its convolutions computed by all cores. YNNPACK, to which XLA gives many of
them, computes them on one with jax 0.10, and no faster than XLA itself with 0.12.

A program that draws many random numbers and runs once wants a compiler that does not try hard:
XLA's takes two to eight times as long at its default level, for the same numbers.

A program that trains may want oneDNN's convolutions. XLA's CPU backend contains them and does not
use them unasked. They are up to 1.6 times as fast as Eigen's and YNNPACK's, and give the same
numbers up to rounding. A program that has them cannot be written to the persistent compilation
cache: XLA ends in a MemoryError, so it is never tried here.
"""

import contextlib
import functools
import math
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Options = dict[str, Any]  # of XLA's compiler

ALL_CORES: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}  # no kind of work for YNNPACK
LESS_EFFORT: Options = {"xla_backend_optimization_level": 2}  # 3 by default; at 0 other numbers
ONEDNN: Options = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_onednn": True,
    **ALL_CORES,  # or YNNPACK would take convolutions for itself
}


class Program:
    """A method that `jax.jit` compiles with self static, on the CPU with options of its own.

    Read from the class, it is the compiled function of this platform.

    Args:
      method: a pure function of self and its arguments.
      static_argnames: arguments that are static, beside self.
      options: for the CPU; all are left out where this JAX does not know one.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        static_argnames: Sequence[str] = (),
        options: Options = ALL_CORES,
    ):
        compiled = functools.partial(jax.jit, method, static_argnames=("self", *static_argnames))
        self._plain, self._with_options = compiled(), compiled(compiler_options=options)
        self._options = options
        functools.update_wrapper(self, method)

    def __get__(self, owner: Any, _: type | None = None) -> Callable[..., Any]:
        on_cpu = jax.default_backend() == "cpu" and knows(**self._options)
        program = self._with_options if on_cpu else self._plain
        return program if owner is None else types.MethodType(program, owner)


class FastProgram(Program):
    """A `Program`; with oneDNN where `self.fast` asks for it.

    Read from the class, it is the compiled function without.
    """

    def __init__(self, method: Callable[..., Any]):
        super().__init__(method)
        self.with_onednn = jax.jit(method, static_argnames="self", compiler_options=ONEDNN)

    def __get__(self, owner: Any, kind: type | None = None) -> Callable[..., Any]:
        if owner is not None and owner.fast and has_onednn():
            return types.MethodType(self._unsaved, owner)
        return super().__get__(owner, kind)

    def _unsaved(self, *args: Any, **named: Any) -> Any:
        with unsaved_programs():
            return self.with_onednn(*args, **named)


@functools.cache
def knows(**options: Any) -> bool:
    """Whether XLA, as this JAX has it, takes these options."""
    try:
        with unsaved_programs():
            jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def has_onednn() -> bool:
    """Whether this JAX has these convolutions here: 0.12 on x86 does, 0.10 does not."""
    if jax.default_backend() != "cpu" or not knows(**ONEDNN):
        return False
    x = jnp.zeros((1, 4, 4, 16))
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    with unsaved_programs():
        program = jax.jit(convolve, compiler_options=ONEDNN)
        compiled = program.lower(x, jnp.zeros((3, 3, 16, 16))).compile()
    return "__onednn$convolution" in compiled.as_text()


@contextlib.contextmanager
def unsaved_programs() -> Iterator[None]:
    """What is compiled meanwhile is not written to the persistent cache."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)
