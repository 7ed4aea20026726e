"""RanPAC, random projections and pre-trained models (McDonnell et al. 2023).

https://arxiv.org/abs/2307.02251. Ridge regression on many random features of a frozen network,
here that of the first task. The ridge is chosen anew in each task.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.learner import Learner
from cil_jax.memory import Pool
from cil_jax.methods.base import Batch
from cil_jax.methods.plan import Fold
from cil_jax.methods.random_features import RandomFeatures
from cil_jax.regression import Pair, is_pair, ridge_regression
from cil_jax.selection import EXACT
from cil_jax.settings.declaring import COUNT, POSITIVE, setting
from cil_jax.typing import Array, Key, Params

RIDGES = tuple(10.0**exponent for exponent in range(-8, 9))


@dataclasses.dataclass(frozen=True)
class RanPAC(RandomFeatures):
    """W = Y^T H (H^T H + ridge I)^-1 over the images of all tasks so far.

    Unless `ridge` is given, a task chooses it from 10^-8 .. 10^8: a regression on 80%
    of its images must predict the one-hot labels of the others with the least squared error. Ridges
    below 1e-12 of the trace of H^T H are left out, as float64 could not solve the system.

    Attributes:
      n_random: see `RandomFeatures`.
      ridge: weight of the squared weights; None to choose it in each task.
    """

    n_random: int = setting(10000, "number of random features", bound=COUNT)
    ridge: float | None = setting(
        None,
        "ridge: weight of the squared weights (default: chosen in each task on held-out images)",
        bound=POSITIVE,
    )

    def draw(self, key: Key, shape: tuple[int, int]) -> Array:
        """Draws standard normal weights."""
        return jax.random.normal(key, shape)

    def own(self, learner: Learner) -> Params:
        own = super().own(learner)
        if self.ridge is not None:
            return {**own, "ridge": jnp.float32(self.ridge)}
        trials = jnp.zeros((len(RIDGES), self.task_room, self.n_random))
        return {**own, "ridge": jnp.float32(0.0), "trials": trials}

    def passes(self) -> tuple[Fold, ...]:
        if self.ridge is not None:
            return super().passes()
        fit = Fold(self.none, self.add, self.fitted, rows=self.is_fitted)
        return (fit, Fold(self.held_out, self.add_errors, self.chosen, rows=self.is_held_out))

    def solved(self, learner: Learner) -> Learner:
        own = learner.own
        gram, product = own["total"]["gram"], own["classes"]["product"]
        weights = ridge_regression(gram, product, own["ridge"])
        return learner.replace(own={**own, "weights": weights})

    def why_not_forget(self, learner: Learner, label: int) -> str:
        if self.ridge is None and learner.task_of[label] == learner.task - 1:
            return (
                "the ridge was chosen on images of this class: learn another task, or give --ridge"
            )
        return super().why_not_forget(learner, label)

    # The choice of the ridge.

    def is_held_out(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks a random fifth of the images of each class, rounded down; bool [R]."""
        ordered = jnp.sort(pool.labels)
        first, last = (jnp.searchsorted(ordered, pool.labels, side=s) for s in ("left", "right"))
        return (pool.labels >= 0) & (pool.random_ranks(key) < (last - first) // 5)

    def is_fitted(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks all other images; bool [R]."""
        return ~self.is_held_out(learner, pool, key)

    def none(self, learner: Learner) -> dict[str, Any]:
        """Returns the sums over this task before its first image."""
        return jax.tree.map(jnp.zeros_like, self.before(learner))

    def fitted(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Computes the weights of the new classes with each ridge; adds this task's sums."""
        rows = (learner.n_old + jnp.arange(self.task_room)).clip(max=learner.task_of.shape[0] - 1)
        product = jax.tree.map(lambda x: x[rows], sums["classes"]["product"])

        def weights(ridge: Array) -> Array:
            return ridge_regression(sums["total"]["gram"], product, ridge)

        trials = jax.lax.map(weights, jnp.array(RIDGES))
        all_tasks = jax.tree.map(Pair.plus, self.before(learner), sums, is_leaf=is_pair)
        return learner.replace(own={**learner.own, **all_tasks, "trials": trials})

    def held_out(self, learner: Learner) -> dict[str, Any]:
        """Returns the sums before the first held-out image."""
        return {**self.before(learner), "errors": jnp.zeros(len(RIDGES))}

    def add_errors(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds the squared errors of the predictions with each ridge, and the images themselves."""
        features = self.network(learner.weights, batch.images, learner.n_seen).features
        random = jax.nn.relu(self.projected(learner, features))
        targets = jax.nn.one_hot(batch.labels - learner.n_old, self.task_room)
        predicted = jnp.einsum("bm,rcm->rbc", random, learner.own["trials"], precision=EXACT)
        errors = jnp.where(batch.labels[:, None] >= 0, (predicted - targets) ** 2, 0.0)
        added = self.added(learner, sums, features, batch.labels)
        return {**added, "errors": sums["errors"] + errors.sum(axis=(1, 2))}

    def chosen(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Chooses the ridge with the least error, and computes W from all images so far."""
        errors, smallest = sums["errors"], 1e-12 * jnp.trace(sums["total"]["gram"].high)
        is_solved = jnp.isfinite(errors) & (jnp.array(RIDGES) > smallest)
        ridge = jnp.array(RIDGES)[jnp.where(is_solved, errors, jnp.inf).argmin()]
        sums = {part: sums[part] for part in ("classes", "total")}
        return self.solved(learner.replace(own={**learner.own, **sums, "ridge": ridge}))
