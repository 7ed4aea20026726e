"""Ridge regression from sums over images, exact to float32 for ridges far below the largest sum.

The sum of H^T H over the features H of a network is ill-conditioned: with 8192 random ReLU features
and a ridge of 0.1 its condition number is about 1e8. A float32 sum, with 24 bits, loses the ridge
in its rounding. Here each sum is a pair of float32 arrays, which hold 48 bits, and is added up and
solved in float64. The float64 arrays exist only within these functions, so the option
JAX_ENABLE_X64 stays off.

Against a float64 solution of the same features, the entries of a solution are wrong by about 1e-7
of the largest one; see `tests/test_regression.py`.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from cil_jax.typing import Array


class Pair(struct.PyTreeNode):
    """An array of 48 bits: the sum of two float32 arrays, the second one of rounding errors."""

    high: Array
    low: Array

    @classmethod
    def zeros(cls, *shape: int) -> "Pair":
        """Returns zeros."""
        return cls(jnp.zeros(shape), jnp.zeros(shape))

    @classmethod
    def split(cls, exact: Array) -> "Pair":
        """Returns a float64 array as a pair."""
        high = exact.astype(jnp.float32)
        return cls(high, (exact - high).astype(jnp.float32))

    def plus(self, other: "Pair") -> "Pair":
        """Returns the sum of two arrays."""
        with jax.enable_x64(True):
            return Pair.split(self.joined() + other.joined())

    def divided_by(self, divisor: Array) -> "Pair":
        """Returns the array divided by another one that broadcasts to it."""
        with jax.enable_x64(True):
            return Pair.split(self.joined() / divisor.astype(jnp.float64))

    def joined(self) -> Array:
        """Returns the array in float64; call it within `jax.enable_x64(True)`."""
        return self.high.astype(jnp.float64) + self.low


def is_pair(x: object) -> bool:
    """Whether it is a pair, for `jax.tree.map`."""
    return isinstance(x, Pair)


def add_product(total: Pair, left: Array, right: Array, sign: int = 1) -> Pair:
    """Returns total + sign * left^T right.

    Args:
      total: [K, L].
      left: [N, K], float32, or float64 within `jax.enable_x64(True)`.
      right: [N, L], likewise.
      sign: 1, or -1 to take a product out again.
    """
    chex.assert_rank([left, right], 2)
    chex.assert_equal_shape_prefix([left, right], 1)
    with jax.enable_x64(True):
        product = left.astype(jnp.float64).T @ right.astype(jnp.float64)
        return Pair.split(total.joined() + sign * product)


def ridge_regression(gram: Pair, product: Pair, ridge: float | Array) -> Array:
    """Solves (gram + ridge * identity) W^T = product^T for W, by a Cholesky decomposition.

    With gram = H^T H and product = Y^T H it minimises |H W^T - Y|^2 + ridge * |W|^2.

    Args:
      gram: [K, K], symmetric and positive semidefinite.
      product: [L, K].
      ridge: above 0. Below about 1e-13 of the trace of gram, the result may be NaN.

    Returns:
      float32 [L, K].
    """
    chex.assert_rank([gram.high, product.high], 2)
    with jax.enable_x64(True):
        matrix = gram.joined()
        matrix += jnp.asarray(ridge, jnp.float64) * jnp.eye(len(matrix), dtype=jnp.float64)
        factor = jax.scipy.linalg.cho_factor(matrix)
        return jax.scipy.linalg.cho_solve(factor, product.joined().T).T.astype(jnp.float32)


def within_class_scatter(gram: Pair, class_sums: Pair, counts: Array) -> Pair:
    """Computes the sum over images of (x - mean of its class) (x - mean of its class)^T.

    Args:
      gram: the sum of x x^T over all images, [D, D].
      class_sums: the sum of x over the images of each class, [C, D].
      counts: number of images of each class, [C]; 0 for a class without images.
    """
    means = class_sums.divided_by(jnp.maximum(counts, 1.0)[:, None])
    with jax.enable_x64(True):
        return Pair.split(gram.joined() - class_sums.joined().T @ means.joined())
