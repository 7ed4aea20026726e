"""Deep SLDA, streaming linear discriminant analysis (Hayes and Kanan 2020).

https://arxiv.org/abs/1909.01520. Classes are Gaussians with one covariance for all, over the
features of a network that is frozen after the first task.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.learner import Learner
from cil_jax.methods.frozen import Frozen
from cil_jax.regression import Pair, add_product, ridge_regression, within_class_scatter
from cil_jax.selection import EXACT
from cil_jax.settings.declaring import BETWEEN_0_AND_1, setting
from cil_jax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SLDA(Frozen):
    """Scores x^T L m_c - 1/2 m_c^T L m_c, with L = ((1 - e) S + e I)^-1.

    m_c is the mean of class c, and S the mean of (x - m_y) (x - m_y)^T over all images so far. It
    follows from the sum of x x^T and the sums of x by class, so it does not depend on the number
    and order of tasks. The paper updates S image by image around means in motion, which does.

    Attributes:
      shrinkage: e, the share of the identity in the covariance.
    """

    shrinkage: float = setting(
        1e-4, "share of the identity in the covariance", bound=BETWEEN_0_AND_1
    )

    @property
    def headline(self) -> str:
        return "lda"

    def own(self, learner: Learner) -> Params:
        room, n_features = learner.means.shape
        return {
            "classes": {"sums": Pair.zeros(room, n_features), "counts": jnp.zeros(room)},
            "total": {"gram": Pair.zeros(n_features, n_features)},
            "weights": jnp.zeros((room, n_features)),
            "bias": jnp.zeros(room),
        }

    def added(
        self,
        learner: Learner,
        sums: dict[str, Any],
        features: Array,
        labels: Array,
        sign: int = 1,
    ) -> dict[str, Any]:
        classes, gram = sums["classes"], sums["total"]["gram"]
        targets = jax.nn.one_hot(labels, len(classes["counts"]))
        features = jnp.where(labels[:, None] >= 0, features, 0.0)
        classes = {
            "sums": add_product(classes["sums"], targets, features, sign),
            "counts": classes["counts"] + sign * targets.sum(axis=0),
        }
        return {"classes": classes, "total": {"gram": add_product(gram, features, features, sign)}}

    def solved(self, learner: Learner) -> Learner:
        """Computes L m_c and the bias of each class."""
        own = learner.own
        sums, counts = own["classes"]["sums"], own["classes"]["counts"]
        scatter = within_class_scatter(own["total"]["gram"], sums, counts)
        # S = scatter / n, so L = n / (1 - e) * (scatter + e n / (1 - e) I)^-1.
        factor = counts.sum() / (1.0 - self.shrinkage)
        means = sums.divided_by(jnp.maximum(counts, 1.0)[:, None])
        weights = factor * ridge_regression(scatter, means, self.shrinkage * factor)
        bias = -0.5 * (weights * means.high).sum(axis=1)
        return learner.replace(own={**own, "weights": weights, "bias": bias})

    def scores(self, learner: Learner, features: Array) -> Array:
        weights, bias = learner.own["weights"], learner.own["bias"]
        scores = jnp.matmul(features, weights.T, precision=EXACT) + bias
        return heads.restrict(scores, 0, learner.n_seen)
