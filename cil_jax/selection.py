"""Selection of the exemplars of a class, and vectors of unit length, which most of it compares."""

import chex
import jax
import jax.numpy as jnp
from jax import lax

from cil_jax.typing import Array, Key

EXACT = lax.Precision.HIGHEST  # so that rounding in low precision does not decide near ties


def unit(vectors: Array) -> Array:
    """Scales vectors [..., D] to unit length along the last axis; zero vectors stay zero.

    The vectors are first divided by a power of two, which is exact, so that no square overflows or
    underflows. The gradient at a zero vector is zero.
    """
    is_zero = jnp.all(vectors == 0.0, axis=-1, keepdims=True)
    vectors = jnp.where(is_zero, 1.0, vectors)  # else the gradient of the norm would be NaN
    _, exponent = jnp.frexp(jnp.abs(vectors).max(axis=-1, keepdims=True))
    vectors = jnp.ldexp(vectors, -exponent)
    norms = jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return jnp.where(is_zero, 0.0, vectors / norms)


def herding(features: Array, count: int, mask: Array | None = None) -> Array:
    """Selects rows greedily so that their mean stays close to the mean of all rows.

    Rebuffi et al., "iCaRL" (2017), Algorithm 4, https://arxiv.org/abs/1611.07725, without
    repeats. Rows are scaled to unit length; the target is their mean, not scaled again. Every
    prefix of the selection is itself a good smaller set, so a memory can shrink by dropping the
    last exemplars of each class.

    Args:
      features: float [n, d], of any scale.
      count: number of rows to select, 0..n.
      mask: bool [n], the valid rows (default: all). If `count` exceeds the number of valid rows,
        the last entries of the result are invalid rows, and the caller must ignore them.

    Returns:
      int32 [count]: row indices in the order of selection.

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

    # With k rows selected and s their sum, minimising |target - (s + f) / (k + 1)|^2 over f equals
    # maximising 2 f.w - |f|^2 with w = (k + 1) target - s: one matrix-vector product for all rows.
    # Rows that are invalid or already selected have an infinite cost.
    def pick(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        wanted, cost = carry
        gain = 2.0 * jnp.matmul(rows, wanted, precision=EXACT) - cost
        index = jnp.argmax(gain).astype(jnp.int32)
        return (wanted + target - rows[index], cost.at[index].set(jnp.inf)), index

    cost = jnp.where(mask, jnp.sum(rows * rows, axis=1), jnp.inf)
    _, picks = lax.scan(pick, (target, cost), None, length=count)
    return picks


def herding_of_classes(features: Array, count: int, masks: Array) -> Array:
    """Applies `herding` to each class separately.

    Args:
      features: float [K, n, d], of any scale.
      count: number of rows to select from each class, 0..n.
      masks: bool [K, n], the valid rows.

    Returns:
      int32 [K, count]: for each class, the result of `herding`.
    """

    def herd_class(features: Array, mask: Array) -> Array:
        return herding(features, count, mask)

    # One class at a time fits the cache of a CPU; an accelerator is faster with all at once.
    return lax.platform_dependent(
        features,
        masks,
        cpu=lambda *classes: lax.map(lambda arrays: herd_class(*arrays), classes),
        default=jax.vmap(herd_class),
    )


def closest(features: Array, count: int, mask: Array | None = None) -> Array:
    """Selects the rows that are closest to the mean of all rows, the closest first.

    Castro et al., "End-to-End Incremental Learning" (2018), "Selection of new samples",
    https://arxiv.org/abs/1807.09536. Distances are those of `herding`: rows are scaled to unit
    length, and their mean is not scaled again. Of equally close rows, the first comes first.

    Args:
      features: float [n, d], of any scale.
      count, mask: see `herding`.

    Returns:
      int32 [count]: row indices in the order of selection.

    Raises:
      ValueError: if count is not in 0..n.
    """
    chex.assert_rank(features, 2)
    rows = unit(features.astype(jnp.float32))
    valid = jnp.ones(len(rows), bool) if mask is None else mask
    mean = jnp.sum(rows, axis=0, where=valid[:, None]) / jnp.maximum(valid.sum(), 1)
    return _lowest(jnp.sum((rows - mean) ** 2, axis=1), count, valid)


def highest_entropy(logits: Array, count: int, mask: Array | None = None) -> Array:
    """Selects the rows of which a classifier is least sure, the least sure first.

    Chaudhry et al., "Riemannian Walk for Incremental Learning" (2018),
    https://arxiv.org/abs/1801.10112. The entropy is that of the softmax of the logits. Of equally
    sure rows, the first comes first.

    Args:
      logits: float [n, classes].
      count, mask: see `herding`.

    Returns:
      int32 [count]: row indices in the order of selection.

    Raises:
      ValueError: if count is not in 0..n.
    """
    chex.assert_rank(logits, 2)
    valid = jnp.ones(len(logits), bool) if mask is None else mask
    entropy = jax.scipy.special.entr(jax.nn.softmax(logits.astype(jnp.float32))).sum(axis=1)
    return _lowest(-entropy, count, valid)


def uniform(key: Key, n: int, count: int, mask: Array | None = None) -> Array:
    """Selects rows uniformly at random, without repeats.

    Args:
      key: a random key.
      n: number of rows.
      count: number of rows to select, 0..n.
      mask: bool [n], the valid rows (default: all); invalid rows come last.

    Returns:
      int32 [count]: row indices in random order.

    Raises:
      ValueError: if count is not in 0..n.
    """
    _check_count(count, n)
    order = jax.random.permutation(key, n)
    if mask is not None:
        order = order[jnp.argsort(~mask[order], stable=True)]
    return order[:count].astype(jnp.int32)


def _lowest(values: Array, count: int, mask: Array) -> Array:
    """Returns the rows with the lowest values [n] in increasing order; invalid rows come last."""
    _check_count(count, len(values))
    return jnp.argsort(jnp.where(mask, values, jnp.inf), stable=True)[:count].astype(jnp.int32)


def _check_count(count: int, n: int) -> None:
    if not 0 <= count <= n:
        raise ValueError(f"cannot select {count} of {n} rows without repeats")
