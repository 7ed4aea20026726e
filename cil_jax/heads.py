"""The growing linear head: one column per class, allocated once with room for all classes.

The arrays keep their shape; a number says how many columns are open. This padded head gives the
same losses and gradients as a head that is resized, and each program is compiled only once.
"""

import chex
import jax
import jax.numpy as jnp

from cil_jax.typing import Array, Key, Params

# The logit of a closed column. It is finite, so that multiplying it by zero gives zero and not NaN.
CLOSED = -1e9


def create(n_features: int, room: int) -> Params:
    """Creates a head with no open columns: kernel [n_features, room] and bias [room], all zero."""
    return {"kernel": jnp.zeros((n_features, room)), "bias": jnp.zeros(room)}


def grow(head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
    """Initialises columns n_open .. n_open + n_new - 1 at random and keeps all others.

    Weights and biases are uniform in +-1/sqrt(n_features), PyTorch's default for a linear layer.
    Both counts may be traced. The weights of a column depend only on the key and on its index.
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
    """Computes logits [B, room] from features [B, D]; columns n_open and above are CLOSED."""
    chex.assert_rank(features, 2)
    return restrict(features @ head["kernel"] + head["bias"], 0, n_open)


def restrict(outputs: Array, start: int | Array, stop: int | Array) -> Array:
    """Sets all columns of outputs [B, C] except start .. stop - 1 to CLOSED."""
    chex.assert_rank(outputs, 2)
    column = jnp.arange(outputs.shape[1])
    return jnp.where((column >= start) & (column < stop), outputs, CLOSED)
