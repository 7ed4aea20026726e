"""Floating-point operations of a computation, counted from the shapes of its layers."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def of(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of the convolutions and matrix products in a function.

    The customary count: a multiplication and an addition for each weight at each place, the
    border's included, and nothing for all else. Zeros that a strided convolution's gradient puts
    between pixels are no work. It is the count of the mathematics, whatever a program makes of it,
    so that shares of the peak can be compared.

    Args:
      function: what is counted.
      *arguments: of it; arrays or their shapes.

    Raises:
      ValueError: if there is a product in a loop whose length is not known beforehand.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("conv_general_dilated", "dot_general"):
            total += (_convolution if name.startswith("conv") else _product)(equation)
            continue
        inner = sum(_count(part) for part in _parts(equation.params))
        if inner and name == "while":
            raise ValueError("a loop of unknown length can't be counted: count its body")
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _parts(parameters: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(one, "jaxpr", one)  # a closed one's
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    n_out = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    spread = math.prod(equation.params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * math.prod(kernel) // n_out // spread


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
