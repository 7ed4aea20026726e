"""FeCAM (Goswami et al. 2023, https://arxiv.org/abs/2309.14062): a Mahalanobis distance per class.

A class has a mean and a covariance of its own, over the features of a network that is frozen after
the first task.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.classifiers import Scale
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch
from cil_jax.methods.frozen import Frozen
from cil_jax.methods.plan import Fold
from cil_jax.selection import EXACT, unit
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class FeCAM(Frozen):
    """Predicts the class with the least (x - m)^T N(S)^-1 (x - m).

    x is the feature vector and m the mean vector of the class, both transformed as x^tukey (Tukey's
    ladder) and then scaled to unit length. S is the covariance of the transformed vectors of the
    class before scaling, shrunk by S + shrinkage * v I + shrinkage_other * c (1 - I), where v is
    the mean variance and c the mean covariance of two features; N divides it by the standard
    deviations, so that it is a matrix of correlations. As in the authors' code, m transforms the
    mean of the features, S is shrunk twice, and its inverse is a pseudo-inverse.

    Attributes:
      tukey: exponent of the transformation. Negative features keep their sign.
      shrinkage, shrinkage_other: of the diagonal, and of the other entries.
    """

    tukey: float = setting(0.5, "exponent that features are raised to", bound=POSITIVE)
    shrinkage: float = setting(
        1.0, "shrinkage: multiple of the mean variance added to variances", bound=NOT_NEGATIVE
    )
    shrinkage_other: float = setting(
        1.0, "multiple of the mean covariance added to covariances", bound=NOT_NEGATIVE
    )

    @property
    def headline(self) -> str:
        return "mahalanobis"

    def own(self, learner: Learner) -> Params:
        room, n_features = learner.means.shape
        precisions = jnp.zeros((room, n_features, n_features))
        return {"classes": {"means": learner.means, "precisions": precisions}, "total": {}}

    def passes(self) -> tuple[Fold, ...]:
        return (Fold(self.no_moments, self.add_moments, self.described),)

    def no_moments(self, learner: Learner) -> dict[str, Any]:
        """Returns the moments of the new classes before their first image."""
        n_features = learner.means.shape[1]
        empty = jnp.zeros((self.task_room, n_features))
        squares = jnp.zeros((self.task_room, n_features, n_features))
        return {"n": empty[:, 0], "features": empty, "bent": empty, "squares": squares}

    def add_moments(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds a batch: features, transformed features, and products of two of these."""
        features = self.network(learner.weights, batch.images, learner.n_seen).features
        bent = self.bent(features)
        is_member = jax.nn.one_hot(batch.labels - learner.n_old, self.task_room)
        # A row without an image is a member of no class.
        is_member = jnp.where(batch.labels[:, None] >= 0, is_member, 0.0)
        new = {
            "n": is_member.sum(axis=0),
            "features": jnp.einsum("bc,bd->cd", is_member, features, precision=EXACT),
            "bent": jnp.einsum("bc,bd->cd", is_member, bent, precision=EXACT),
            "squares": jnp.einsum("bc,bd,be->cde", is_member, bent, bent, precision=EXACT),
        }
        return jax.tree.map(jnp.add, sums, new)

    def described(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Computes mean and inverse covariance of each new class."""
        n = sums["n"][:, None, None]
        bent, classes = sums["bent"], learner.own["classes"]
        products = jnp.einsum("cd,ce->cde", bent, bent) / jnp.maximum(n, 1.0)
        covariances = (sums["squares"] - products) / jnp.maximum(n - 1.0, 1.0)
        new = {
            "means": sums["features"] / jnp.maximum(n[:, 0], 1.0),
            "precisions": jnp.linalg.pinv(self.correlations(covariances), hermitian=True),
        }
        rows = learner.n_old + jnp.arange(self.task_room)
        rows = jnp.where(rows < learner.n_seen, rows, learner.task_of.shape[0])
        classes = jax.tree.map(lambda x, y: x.at[rows].set(y, mode="drop"), classes, new)
        return learner.replace(own={**learner.own, "classes": classes})

    def bent(self, features: Array) -> Array:
        """Transforms features [B, D] by Tukey's ladder."""
        return jnp.sign(features) * jnp.abs(features) ** self.tukey

    def correlations(self, covariances: Array) -> Array:
        """Shrinks covariances [C, D, D] twice and scales them to a diagonal of ones."""
        size = covariances.shape[-1]
        identity = jnp.eye(size)
        for _ in range(2):
            trace = jnp.trace(covariances, axis1=1, axis2=2)[:, None, None]
            others = covariances.sum(axis=(1, 2), keepdims=True) - trace
            mean_variance, mean_other = trace / size, others / max(size * (size - 1), 1)
            covariances += self.shrinkage * mean_variance * identity
            covariances += self.shrinkage_other * mean_other * (1.0 - identity)
        deviations = jnp.sqrt(jnp.diagonal(covariances, axis1=1, axis2=2).clip(min=1e-12))
        scaled = covariances / (deviations[:, :, None] * deviations[:, None, :])
        return jnp.where(identity == 1.0, 1.0, scaled)

    def scores(self, learner: Learner, features: Array) -> Array:
        means, precisions = (learner.own["classes"][name] for name in ("means", "precisions"))
        points, centres = unit(self.bent(features)), unit(self.bent(means))

        def distance(of_class: tuple[Array, Array]) -> Array:
            centre, precision = of_class
            offsets = points - centre
            return (jnp.matmul(offsets, precision, precision=EXACT) * offsets).sum(axis=1)

        return heads.restrict(-jax.lax.map(distance, (centres, precisions)).T, 0, learner.n_seen)

    def scale(self, classifier: str) -> Scale:
        return Scale("minus the squared Mahalanobis distance", lambda scores: scores)
