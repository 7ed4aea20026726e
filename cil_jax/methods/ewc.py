"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796).

The Fisher information says how much the predictions for old images depend on each weight. Training
on new images moves the important weights less, so no old image is needed.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner, Purpose
from cil_jax.methods.base import Batch, LossResult, Method
from cil_jax.methods.plan import Fold, Plan, Train
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params

# Images whose gradients are in memory at once. A gradient is as large as the network.
IMAGES_AT_ONCE = 50


@dataclasses.dataclass(frozen=True)
class EWC(Method):
    """Cross-entropy of new images plus lambda / 2 * sum of F * (weights - anchor)^2.

    F is the diagonal of the Fisher information, merged over the tasks so far, and the anchor is the
    weights at the end of the previous task; both are in `Learner.own`. Outputs that were not open
    then have F = 0.

    Attributes:
      softmax_over: the outputs that the softmax normalises over: all "open" ones, or those of the
        "new" task. The Fisher information is always that of the softmax over all classes seen.
      lambda_: weight of the penalty; 0 is finetuning.
      fisher_labels: "true" for the labels of the images, the empirical Fisher information;
        "sampled" for labels drawn from the predicted probabilities, as it is defined.
      fisher_limit: larger entries of the Fisher information of a task are reduced to this value.
      merge: "sum" to add up the Fisher information of all tasks; "classes" to average it, each task
        with a weight proportional to its number of classes.
    """

    softmax_over: str = setting(
        "new",
        "outputs in the softmax of the cross-entropy: open (all current outputs, see --outputs) "
        "or new (those of the current task only)",
        choices=("open", "new"),
    )
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
        "how the Fisher information of several tasks is merged: sum, or classes (their mean, "
        "weighted by the number of classes)",
        choices=("sum", "classes"),
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "penalty")

    def own(self, learner: Learner) -> Params:
        zeros = jax.tree.map(jnp.zeros_like, learner.weights.params)
        return {"fisher": zeros, "anchor": zeros}

    def plan(self, is_first: bool) -> Plan:
        fisher = Fold(self.no_squares, self.add_squares, self.merged, batch_size=IMAGES_AT_ONCE)
        return (Train(), fisher)

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        first = learner.n_old if self.softmax_over == "new" else 0
        logits = heads.restrict(output.logits, first, self.n_open(learner))
        classification = losses.cross_entropy(logits, batch.labels)
        penalty = self.lambda_ * penalty_of(params, **learner.own)
        parts = {"classification": classification, "penalty": penalty}
        return classification + penalty, (parts, output)

    # The Fisher information of a task.

    def no_squares(self, learner: Learner) -> dict[str, Any]:
        """Returns the sums before the first image."""
        zeros = jax.tree.map(jnp.zeros_like, learner.weights.params)
        return {"squares": zeros, "n": jnp.int32(0)}

    def add_squares(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds the squared gradients of the log-likelihood of each image of a batch."""
        is_image = batch.labels >= 0
        labels = batch.labels
        if self.fisher_labels == "sampled":
            key = jax.random.fold_in(learner.task_key(Purpose.CHANGE), sums["n"])
            logits = self.network(learner.weights, batch.images, learner.n_seen).logits
            labels = jax.random.categorical(key, logits)

        def cost(params: Params, image: Array, label: Array) -> Array:
            weights = learner.weights.replace(params=params)
            logits = self.network(weights, image[None], learner.n_seen).logits
            return losses.cross_entropy(logits, label[None])

        grads = jax.vmap(jax.grad(cost), (None, 0, 0))(learner.weights.params, batch.images, labels)

        def plus(total: Array, grad: Array) -> Array:
            mask = is_image.reshape(-1, *[1] * total.ndim)
            return total + jnp.sum(grad**2, axis=0, where=mask)

        squares = jax.tree.map(plus, sums["squares"], grads)
        return {"squares": squares, "n": sums["n"] + is_image.sum()}

    def merged(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Merges the Fisher information of the task with that of earlier ones; moves the anchor."""
        share = (learner.n_seen - learner.n_old) / learner.n_seen
        before, now = (1 - share, share) if self.merge == "classes" else (1.0, 1.0)
        limit = self.fisher_limit or jnp.inf

        def merge(old: Array, squares: Array) -> Array:
            return before * old + now * jnp.minimum(squares / sums["n"], limit)

        fisher = jax.tree.map(merge, learner.own["fisher"], sums["squares"])
        return learner.replace(own={"fisher": fisher, "anchor": learner.weights.params})


def penalty_of(params: Params, fisher: Params, anchor: Params) -> Array:
    """Computes half the sum of fisher * (params - anchor)^2; a scalar.

    Kirkpatrick et al. 2017, eq. 3. The arguments are trees of the same structure.
    """
    products = jax.tree.map(lambda x, f, a: jnp.sum(f * (x - a) ** 2), params, fisher, anchor)
    return 0.5 * sum(jax.tree.leaves(products), start=jnp.zeros(()))
