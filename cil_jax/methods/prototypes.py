"""What methods share that remember each class by the mean of its features, without exemplars."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cil_jax.classifiers import sums_by_class
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, Method
from cil_jax.methods.plan import Fold
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class Prototypes(Method):
    """Keeps "means" [room, D] and "variances" [room] of the features of each class.

    The variance of a class is the mean over its features of their variances, from n - 1.
    """

    takes_old_classes: ClassVar[bool] = False

    def own(self, learner: Learner) -> Params:
        return {"means": learner.means, "variances": jnp.zeros(len(learner.means))}

    @property
    def describe(self) -> Fold:
        """The step that computes means and variances of the new classes."""
        return Fold(self.no_moments, self.add_moments, self.described)

    def no_moments(self, learner: Learner) -> dict[str, Any]:
        room = len(learner.means)
        n, sums = jnp.zeros(room), jnp.zeros_like(learner.means)
        return {"n": n, "sums": sums, "squares": n}

    def add_moments(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds a batch: its images, their features and the squared lengths of these, by class."""
        features = self.network(learner.weights, batch.images, learner.n_seen).features
        rows = {
            "n": jnp.ones(len(features)),
            "sums": features,
            "squares": (features**2).sum(axis=1),
        }
        new = {k: sums_by_class(x, batch.labels, len(sums["n"])) for k, x in rows.items()}
        return jax.tree.map(jnp.add, sums, new)

    def described(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Writes the rows of the new classes."""
        del key
        n, n_features = sums["n"], sums["sums"].shape[1]
        means = sums["sums"] / jnp.maximum(n, 1.0)[:, None]
        spread = sums["squares"] - n * (means**2).sum(axis=1)
        variances = jnp.maximum(spread, 0.0) / (jnp.maximum(n - 1.0, 1.0) * n_features)
        is_new, old = n > 0, learner.own
        new = {
            "means": jnp.where(is_new[:, None], means, old["means"]),
            "variances": jnp.where(is_new, variances, old["variances"]),
        }
        return learner.replace(own={**old, **new})
