"""The linear head that grows: one column a class, with room for all of them.

Storage never changes its shape; how many columns are open is a number. A padded head gives the
same losses and gradients as one that is really resized, and every program is compiled once.
"""

import chex
import jax
import jax.numpy as jnp

from cil_jax.typing import Array, Key, Params

# The logit of a closed column. Finite, so that zero times it is zero and never NaN.
CLOSED = -1e9


def create(n_features: int, room: int) -> Params:
    """A head without open columns: kernel [n_features, room] and bias [room], all zero."""
    return {"kernel": jnp.zeros((n_features, room)), "bias": jnp.zeros(room)}


def grow(head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
    """Gives columns n_open .. n_open + n_new - 1 fresh random weights and leaves the others.

    Weights and biases are uniform in +-1/sqrt(n_features), as PyTorch initialises a linear layer.
    Both counts may be traced. A column's weights depend on the key and its own number only.
    """
    chex.assert_rank([head["kernel"], head["bias"]], [2, 1])
    n_features, room = head["kernel"].shape
    bound = n_features**-0.5
    column = jnp.arange(room)
    fresh = jax.vmap(
        lambda c: jax.random.uniform(
            jax.random.fold_in(key, c), (n_features + 1,), minval=-bound, maxval=bound
        )
    )(column)
    is_new = (column >= n_open) & (column < n_open + n_new)
    return {
        "kernel": jnp.where(is_new, fresh[:, :-1].T, head["kernel"]),
        "bias": jnp.where(is_new, fresh[:, -1], head["bias"]),
    }


def logits(head: Params, features: Array, n_open: int | Array) -> Array:
    """Outputs [B, room] for features [B, D]; columns from n_open on are CLOSED."""
    chex.assert_rank(features, 2)
    return restrict(features @ head["kernel"] + head["bias"], 0, n_open)


def restrict(outputs: Array, start: int | Array, stop: int | Array) -> Array:
    """Closes all columns of outputs [B, C] but start .. stop - 1."""
    chex.assert_rank(outputs, 2)
    column = jnp.arange(outputs.shape[1])
    return jnp.where((column >= start) & (column < stop), outputs, CLOSED)
