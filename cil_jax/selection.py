"""Choosing which images of a class to keep: herding and uniform sampling."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, Key

EXACT = lax.Precision.HIGHEST  # a near tie must not be decided by a matrix unit's rounding


def unit(vectors: Array) -> Array:
    """Brings vectors [..., D] to length 1 along the last axis; a zero vector stays zero.

    A power of two is taken out first, which is exact, so that no square overflows or vanishes.
    """
    _, exponent = jnp.frexp(jnp.abs(vectors).max(axis=-1, keepdims=True))
    vectors = jnp.ldexp(vectors, -exponent)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def herding(features: Array, count: int, mask: Array | None = None) -> Array:
    """Greedy herding: each pick brings the mean of the picks nearest to the mean of all.

    Rebuffi et al., "iCaRL" (2017), Algorithm 4, https://arxiv.org/abs/1611.07725, without
    repeats. Rows are first brought to unit length; the target is their plain mean. So any prefix
    of the picks is a good small set, and a memory shrinks by dropping its tail.

    Args:
      features: float [n, d], of any scale.
      count: how many to pick, 0..n.
      mask: bool [n], which rows exist (default: all). Picks beyond the number of these are
        rows that do not exist: the caller counts.

    Returns:
      int32 [count]: the indices, in the order of selection.

    Raises:
      ValueError: if count is not in 0..n.
    """
    chex.assert_rank(features, 2)
    n = features.shape[0]
    _check_count(count, n)
    mask = jnp.ones(n, bool) if mask is None else mask
    rows = unit(features.astype(jnp.float32))
    rows = jnp.where(mask[:, None], rows, 0.0)
    target = rows.sum(axis=0) / jnp.maximum(mask.sum(), 1)

    # With k picks summing to s, minimising |target - (s + f) / (k + 1)|^2 over f is maximising
    # 2 f.w - |f|^2, where w = (k + 1) target - s: one product of all rows with a vector.
    # A row that is not to be had costs infinitely much.
    def pick(carry, _):
        wanted, cost = carry
        gain = 2.0 * jnp.matmul(rows, wanted, precision=EXACT) - cost
        index = jnp.argmax(gain).astype(jnp.int32)
        return (wanted + target - rows[index], cost.at[index].set(jnp.inf)), index

    cost = jnp.where(mask, jnp.sum(rows * rows, axis=1), jnp.inf)
    _, picks = lax.scan(pick, (target, cost), None, length=count)
    return picks


def herding_of_classes(features: Array, count: int, masks: Array) -> Array:
    """Herding of each class by itself.

    Args:
      features: float [K, n, d], of any scale.
      count: how many to pick of each class, 0..n.
      masks: bool [K, n], which rows exist.

    Returns:
      int32 [K, count], as `herding` gives them for each class.
    """

    def one(features, mask):
        return herding(features, count, mask)

    # On a CPU one class fits its cache; an accelerator has room for all at once.
    return lax.platform_dependent(
        features,
        masks,
        cpu=lambda *classes: lax.map(lambda c: one(*c), classes),
        default=jax.vmap(one),
    )


def uniform(key: Key, n: int, count: int, mask: Array | None = None) -> Array:
    """Picks without repeats, uniformly at random.

    Args:
      key: a random key.
      n: how many rows there are.
      count: how many to pick, 0..n.
      mask: bool [n], which rows exist (default: all); rows that do not exist come last.

    Returns:
      int32 [count]: the indices, in random order.

    Raises:
      ValueError: if count is not in 0..n.
    """
    _check_count(count, n)
    order = jax.random.permutation(key, n)
    if mask is not None:
        order = order[jnp.argsort(~mask[order], stable=True)]
    return order[:count].astype(jnp.int32)


def _check_count(count: int, n: int) -> None:
    if not 0 <= count <= n:
        raise ValueError(f"cannot pick {count} of {n} rows without repeats")
