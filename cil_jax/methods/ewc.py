"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796).

The Fisher information says how much the predictions for old images depend on each weight. Training
on new images moves the important weights less, so no old image is needed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner, Purpose
from cil_jax.methods.base import Batch
from cil_jax.methods.penalty import IMAGES_AT_ONCE, WeightPenalty, add_gradients, no_gradients
from cil_jax.methods.plan import Fold, Plan, Train
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class EWC(WeightPenalty):
    """Cross-entropy of new images plus lambda / 2 * sum of F * (weights - anchor)^2 (eq. 3).

    F is the diagonal of the Fisher information, merged over the tasks so far, and the anchor is the
    weights at the end of the previous task. With merge "online" it is online EWC (Schwarz et al.
    2018, https://arxiv.org/abs/1805.06370).

    Attributes:
      lambda_: weight of the penalty; 0 is finetuning.
      fisher_labels: "true" for the labels of the images, the empirical Fisher information;
        "sampled" for labels drawn from the predicted probabilities, as it is defined. The softmax
        is over all classes seen.
      fisher_limit: larger entries of the Fisher information of a task are reduced to this value.
      merge: "sum" to add up the Fisher information of all tasks; "classes" to average it, each task
        with a weight proportional to its number of classes; "online" to multiply the old by gamma
        and add the new.
      gamma: factor of the old Fisher information with merge "online".
    """

    lambda_: float = setting(1000.0, "weight of the penalty", bound=NOT_NEGATIVE)
    fisher_labels: str = setting(
        "true",
        "labels that the Fisher information is computed with: true, or sampled from the "
        "predictions",
        choices=("true", "sampled"),
    )
    fisher_limit: float | None = setting(
        None, "limit of each entry of the Fisher information of a task (default: none)",
        bound=POSITIVE,
    )  # fmt: skip
    merge: str = setting(
        "sum",
        "how the Fisher information of several tasks is merged: sum, classes (their mean, weighted "
        "by the number of classes) or online (gamma times the old plus the new)",
        choices=("sum", "classes", "online"),
    )
    gamma: float = setting(
        1.0, "factor of the old Fisher information (--merge online)", bound=NOT_NEGATIVE
    )

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        return set() if config.merge == "online" else {"gamma"}

    @property
    def strength(self) -> float:
        return 0.5 * self.lambda_

    def plan(self, is_first: bool) -> Plan:
        return (Train(), Fold(no_gradients, self.add, self.merged, batch_size=IMAGES_AT_ONCE))

    # The Fisher information of a task.

    def add(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds the squared gradients of the log-likelihood of each image of a batch."""
        if self.fisher_labels == "sampled":
            key = jax.random.fold_in(learner.task_key(Purpose.CHANGE), sums["n"])
            logits = self.network(learner.weights, batch.images, learner.n_seen).logits
            labels = jax.random.categorical(key, logits)
            batch = batch.replace(labels=jnp.where(batch.labels >= 0, labels, -1))

        def cost(params: Params, image: Array, label: Array) -> Array:
            weights = learner.weights.replace(params=params)
            return losses.cross_entropy(self.network(weights, image, learner.n_seen).logits, label)

        return add_gradients(sums, learner, batch, cost, jnp.square)

    def merged(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Merges the Fisher information of the task with that of earlier ones; moves the anchor."""
        share = (learner.n_seen - learner.n_old) / learner.n_seen
        before, now = {"sum": (1.0, 1.0), "online": (self.gamma, 1.0)}.get(
            self.merge, (1 - share, share)
        )
        limit = self.fisher_limit or jnp.inf

        def merge(old: Array, squares: Array) -> Array:
            return before * old + now * jnp.minimum(squares / sums["n"], limit)

        fisher = jax.tree.map(merge, learner.own["importance"], sums["total"])
        return learner.replace(own={"importance": fisher, "anchor": learner.weights.params})
