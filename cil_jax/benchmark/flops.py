"""Floating-point operations of a computation, counted from the shapes of its layers."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var


def of(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of the convolutions and matrix products in a function.

    By convention, each weight costs a multiplication and an addition at each position, including
    the border, and everything else costs nothing. The zeros that the gradient of a strided
    convolution inserts between pixels do not count. The count is that of the mathematics, however
    it is compiled, so that fractions of the peak speed can be compared.

    Args:
      function: the function.
      *arguments: its arguments: arrays, or `jax.ShapeDtypeStruct`s.

    Raises:
      ValueError: if it has a convolution or product in a loop of unknown length.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("conv_general_dilated", "dot_general"):
            total += (_convolution if name.startswith("conv") else _product)(equation)
            continue
        inner = sum(_count(subjaxpr) for subjaxpr in _subjaxprs(equation.params))
        if inner and name == "while":
            raise ValueError(
                "can't count the operations of a loop of unknown length: count its body"
            )
        total += inner * (equation.params["length"] if name == "scan" else 1)
    return total


def _subjaxprs(parameters: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of an equation."""
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)  # unwraps a ClosedJaxpr
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _convolution(equation: JaxprEqn) -> int:
    kernel = _shape(equation.invars[1])
    n_out = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    dilation = math.prod(equation.params["lhs_dilation"])
    n_values = math.prod(_shape(equation.outvars[0]))
    return 2 * n_values * math.prod(kernel) // n_out // dilation


def _product(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape, n_values = _shape(equation.invars[0]), math.prod(_shape(equation.outvars[0]))
    return 2 * n_values * math.prod(shape[axis] for axis in contracted)


def _shape(variable: Var | Literal) -> tuple[int, ...]:
    abstract_value = variable.aval
    assert isinstance(abstract_value, ShapedArray)
    return abstract_value.shape
