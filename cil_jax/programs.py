"""How a method is compiled where `jax.jit` alone does not do: two wishes, both for the CPU only.

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
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

ONEDNN = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_ynn_fusion_type": "",  # which would take convolutions for itself
}


LESS_EFFORT = {"xla_backend_optimization_level": 2}  # 3 is the default; at 0 numbers are others


class OnceProgram:
    """A method that `jax.jit` compiles with self static, on the CPU with less effort.

    Read from the class, it is the compiled function of this platform.
    """

    def __init__(self, method: Callable[..., Any], static_argnames: Sequence[str]):
        compiled = functools.partial(jax.jit, method, static_argnames=("self", *static_argnames))
        self._plain, self._quick = compiled(), compiled(compiler_options=LESS_EFFORT)

    def __get__(self, owner: Any, _: type | None = None) -> Callable[..., Any]:
        program = self._quick if jax.default_backend() == "cpu" else self._plain
        return program if owner is None else functools.partial(program, owner)


class FastProgram:
    """A method that `jax.jit` compiles with self static; with oneDNN where `self.fast` asks for it.

    Read from the class, it is the plain compiled function.
    """

    def __init__(self, method: Callable[..., Any]):
        self.plain = jax.jit(method, static_argnames="self")
        self.with_onednn = jax.jit(method, static_argnames="self", compiler_options=ONEDNN)

    def __get__(self, owner: Any, _: type | None = None) -> Callable[..., Any]:
        if owner is None:
            return self.plain
        if owner.fast and has_onednn():
            return functools.partial(self._unsaved, owner)
        return functools.partial(self.plain, owner)

    def _unsaved(self, *args: Any, **named: Any) -> Any:
        with unsaved_programs():
            return self.with_onednn(*args, **named)


@functools.cache
def has_onednn() -> bool:
    """Whether this JAX has these convolutions here: 0.12 on x86 does, 0.10 does not."""
    if jax.default_backend() != "cpu":
        return False
    x = jnp.zeros((1, 4, 4, 16))
    convolve = functools.partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    try:
        with unsaved_programs():
            program = jax.jit(convolve, compiler_options=ONEDNN)
            compiled = program.lower(x, jnp.zeros((3, 3, 16, 16))).compile()
        return "__onednn$convolution" in compiled.as_text()
    except jax.errors.JaxRuntimeError:  # options that this version does not know
        return False


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
