"""MAS, memory aware synapses (Aljundi et al. 2018, https://arxiv.org/abs/1711.09601).

The importance of a weight is how much the outputs change with it. It needs no labels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax.learner import Learner
from cil_jax.methods.base import Batch
from cil_jax.methods.penalty import IMAGES_AT_ONCE, WeightPenalty, add_gradients, no_gradients
from cil_jax.methods.plan import Fold, Plan, Train
from cil_jax.settings.declaring import BETWEEN_0_AND_1, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class MAS(WeightPenalty):
    """Cross-entropy of new images plus lambda * sum of O * (weights - anchor)^2.

    O = 1/N * sum over images of |d |z(x)|^2 / d weight|, where |z|^2 is the squared length of the
    outputs of all classes seen. The anchor is the weights at the end of the
    previous task.

    Attributes:
      alpha: share of the old importance in the new; None to add up that of all tasks.
    """

    alpha: float | None = setting(
        None,
        "share of the old importance, when that of a new task is averaged with it (default: the "
        "importance of all tasks is added up)",
        bound=BETWEEN_0_AND_1,
    )

    def plan(self, is_first: bool) -> Plan:
        return (Train(), Fold(no_gradients, self.add, self.merged, batch_size=IMAGES_AT_ONCE))

    def add(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds the absolute gradients of the squared length of the outputs of each image."""

        def squared_length(params: Params, image: Array, label: Array) -> Array:
            del label
            weights = learner.weights.replace(params=params)
            logits = self.network(weights, image, learner.n_seen).logits
            is_open = jnp.arange(logits.shape[1]) < learner.n_seen
            return jnp.sum(jnp.where(is_open, logits, 0.0) ** 2)

        return add_gradients(sums, learner, batch, squared_length, jnp.abs)

    def merged(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Merges the importance of the task with that of earlier ones; moves the anchor."""
        before, now = (1.0, 1.0) if self.alpha is None else (self.alpha, 1.0 - self.alpha)

        def merge(old: Array, total: Array) -> Array:
            return before * old + now * total / sums["n"]

        importance = jax.tree.map(merge, learner.own["importance"], sums["total"])
        return learner.replace(own={"importance": importance, "anchor": learner.weights.params})
