"""DS-AL, dual-stream analytic learning (Zhuang et al. 2024).

https://arxiv.org/abs/2403.17503. ACIL with a second stream, which fits what the first one leaves.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.learner import Learner
from cil_jax.methods.acil import ACIL
from cil_jax.methods.base import Batch
from cil_jax.methods.plan import Fold
from cil_jax.regression import Pair, add_product, ridge_regression
from cil_jax.selection import EXACT
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class DSAL(ACIL):
    """Scores W relu(P^T f) + compensation * V tanh(P^T f); W is that of ACIL.

    V is the ridge regression of the residuals R on K = tanh(F P), over the images of all tasks so
    far. R = Y - H W^T, with the W after the task of the image, and with zeros in the columns of
    classes that were old then (previous label cleansing). So V, unlike W, depends on
    the division into tasks. An image is passed over twice: for W, and then for V.

    Attributes:
      compensation: weight of the second stream.
      compensation_ridge: the ridge of V.
    """

    compensation: float = setting(0.6, "weight of the second stream", bound=NOT_NEGATIVE)
    compensation_ridge: float = setting(0.1, "ridge of the second stream", bound=POSITIVE)

    def own(self, learner: Learner) -> Params:
        own, room, m = super().own(learner), learner.task_of.shape[0], self.n_random
        return {
            **own,
            "classes": {**own["classes"], "residual_product": Pair.zeros(room, m)},
            "total": {**own["total"], "residual_gram": Pair.zeros(m, m)},
            "residual_weights": jnp.zeros((room, m)),
        }

    def passes(self) -> tuple[Fold, ...]:
        second = Fold(self.before, self.add_residuals, self.after_residuals)
        return (*super().passes(), second)

    def add_residuals(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds a batch to the sums K^T K and R^T K of the second stream."""
        features = self.network(learner.weights, batch.images, learner.n_seen).features
        is_image, room = batch.labels[:, None] >= 0, learner.task_of.shape[0]
        first = super().scores(learner, features)
        is_new = (jnp.arange(room) >= learner.n_old) & (jnp.arange(room) < learner.n_seen)
        residuals = jnp.where(is_new, jax.nn.one_hot(batch.labels, room) - first, 0.0)
        classes, total = sums["classes"], sums["total"]
        with jax.enable_x64(True):
            random = jnp.tanh(self.projected(learner, features.astype(jnp.float64)))
            random = jnp.where(is_image, random, 0.0)
            product = add_product(classes["residual_product"], residuals, random)
            gram = add_product(total["residual_gram"], random, random)
        return {
            "classes": {**classes, "residual_product": product},
            "total": {**total, "residual_gram": gram},
        }

    def after_residuals(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Computes V."""
        weights = ridge_regression(
            sums["total"]["residual_gram"],
            sums["classes"]["residual_product"],
            self.compensation_ridge,
        )
        return learner.replace(own={**learner.own, **sums, "residual_weights": weights})

    def scores(self, learner: Learner, features: Array) -> Array:
        random = jnp.tanh(self.projected(learner, features))
        second = jnp.matmul(random, learner.own["residual_weights"].T, precision=EXACT)
        scores = super().scores(learner, features) + self.compensation * second
        return heads.restrict(scores, 0, learner.n_seen)

    def why_not_forget(self, learner: Learner, label: int) -> str:
        return "DS-AL can't forget a class: the residuals of later tasks depend on its images"
