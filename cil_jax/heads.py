"""Heads: output layers whose columns open when their classes arrive.

A head is allocated once, with room for all classes, and its arrays keep their shape; a number says
how many columns are open. This padded head gives the same losses and gradients as a head that is
resized, and each program is compiled only once.
"""

import dataclasses
from typing import Protocol

import chex
import jax
import jax.numpy as jnp

from cil_jax.selection import unit
from cil_jax.typing import Array, Key, Params

# The logit of a closed column. It is finite, so that multiplying it by zero gives zero and not NaN.
CLOSED = -1e9


class Head(Protocol):
    """What a network needs of its head: a frozen dataclass without arrays."""

    def create(self, n_features: int, room: int) -> Params:
        """Creates the parameters of a head with no open columns; their last axis is `room`."""
        ...

    def grow(self, head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
        """Initialises columns n_open .. n_open + n_new - 1 at random and keeps all others."""
        ...

    def logits(self, head: Params, features: Array, n_open: int | Array) -> Array:
        """Computes logits [B, room] from features [B, D]; columns from n_open on are CLOSED."""
        ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """One weight vector and one bias per class."""

    def create(self, n_features: int, room: int) -> Params:
        """Creates a head with no open columns: kernel [n_features, room] and bias [room], zero."""
        return {"kernel": jnp.zeros((n_features, room)), "bias": jnp.zeros(room)}

    def grow(self, head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
        """Initialises columns n_open .. n_open + n_new - 1 at random and keeps all others.

        Weights and biases are uniform in +-1/sqrt(n_features), PyTorch's default for a linear
        layer. Both counts may be traced. The weights of a column depend only on the key and on its
        index.
        """
        chex.assert_rank([head["kernel"], head["bias"]], [2, 1])
        n_features, room = head["kernel"].shape
        fresh = _uniform_columns(key, n_features + 1, room, n_features**-0.5)
        is_new = _is_between(room, n_open, n_open + n_new)
        return {
            "kernel": jnp.where(is_new, fresh[:-1], head["kernel"]),
            "bias": jnp.where(is_new, fresh[-1], head["bias"]),
        }

    def logits(self, head: Params, features: Array, n_open: int | Array) -> Array:
        """Computes logits [B, room] from features [B, D]; columns from n_open on are CLOSED."""
        chex.assert_rank(features, 2)
        return restrict(features @ head["kernel"] + head["bias"], 0, n_open)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """A learned scale times the cosine between features and weight vectors; no bias.

    Hou et al. 2019 (LUCIR), section 3.2. With several weight vectors (proxies) per class, as in
    PODNet (Douillard et al. 2020, section 3.2), the cosine of a class is the mean over its proxies,
    each weighted by the softmax over their cosines.

    Attributes:
      proxies: number of weight vectors per class.
    """

    proxies: int = 1

    def create(self, n_features: int, room: int) -> Params:
        """Creates a head with no open columns.

        Returns:
          "kernel" [proxies, n_features, room], zero; and "scale" [], which starts at 1.
        """
        return {"kernel": jnp.zeros((self.proxies, n_features, room)), "scale": jnp.ones(())}

    def grow(self, head: Params, n_open: int | Array, n_new: int | Array, key: Key) -> Params:
        """Initialises columns n_open .. n_open + n_new - 1 at random and keeps all others.

        Weights are uniform in +-1/sqrt(n_features). The weights of a column depend only on the key
        and on its index.
        """
        n_proxies, n_features, room = head["kernel"].shape
        fresh = _uniform_columns(key, n_proxies * n_features, room, n_features**-0.5)
        is_new = _is_between(room, n_open, n_open + n_new)
        kernel = jnp.where(is_new, fresh.reshape(head["kernel"].shape), head["kernel"])
        return {**head, "kernel": kernel}

    def imprint(
        self, head: Params, directions: Array, n_open: int | Array, n_new: int | Array
    ) -> Params:
        """Points the proxies of columns n_open .. n_open + n_new - 1 in the given directions.

        Their length becomes the mean length of the columns before n_open, or 1 if there is none
        (Qi et al. 2018, https://arxiv.org/abs/1712.07136, as LUCIR's code uses it).

        Args:
          head: the parameters.
          directions: float [D, room] for all proxies of a class, or [proxies, D, room] for each;
            of any length. Columns that do not change are ignored.
          n_open, n_new: which columns change.
        """
        kernel = head["kernel"]
        room = kernel.shape[-1]
        is_old = _is_between(room, 0, n_open)
        lengths = jnp.linalg.norm(kernel, axis=1)
        total = jnp.where(is_old, lengths, 0.0).sum()
        count = is_old.sum() * self.proxies
        length = jnp.where(count > 0, total / jnp.maximum(count, 1), 1.0)
        is_new = _is_between(room, n_open, n_open + n_new)
        return {**head, "kernel": jnp.where(is_new, length * _unit_columns(directions), kernel)}

    def cosines(self, head: Params, features: Array) -> Array:
        """Computes the cosines [B, room], in -1..1, before they are scaled."""
        chex.assert_rank(features, 2)
        cosines = jnp.einsum("bd,pdc->pbc", unit(features), _unit_columns(head["kernel"]))
        return (jax.nn.softmax(cosines, axis=0) * cosines).sum(axis=0)

    def logits(self, head: Params, features: Array, n_open: int | Array) -> Array:
        """Computes logits [B, room] from features [B, D]; columns from n_open on are CLOSED."""
        return restrict(head["scale"] * self.cosines(head, features), 0, n_open)


def restrict(outputs: Array, start: int | Array, stop: int | Array) -> Array:
    """Sets all columns of outputs [B, C] except start .. stop - 1 to CLOSED."""
    chex.assert_rank(outputs, 2)
    return jnp.where(_is_between(outputs.shape[1], start, stop), outputs, CLOSED)


def _is_between(room: int, start: int | Array, stop: int | Array) -> Array:
    """Marks columns start .. stop - 1; bool [room]."""
    column = jnp.arange(room)
    return (column >= start) & (column < stop)


def _unit_columns(vectors: Array) -> Array:
    """Scales the columns of [..., D, room] to unit length."""
    return jnp.swapaxes(unit(jnp.swapaxes(vectors, -1, -2)), -1, -2)


def _uniform_columns(key: Key, n_rows: int, room: int, bound: float) -> Array:
    """Draws weights [n_rows, room], uniform in +-bound; a column depends on the key and its index.

    So a head with more room has the same weights in its first columns.
    """
    return jax.vmap(
        lambda column: jax.random.uniform(
            jax.random.fold_in(key, column), (n_rows,), minval=-bound, maxval=bound
        )
    )(jnp.arange(room)).T
