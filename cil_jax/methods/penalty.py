"""What EWC, SI and MAS share: important weights are held near the values that they had before."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, Method
from cil_jax.settings.declaring import NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params

# Images whose gradients are in memory at once. A gradient is as large as the network.
IMAGES_AT_ONCE = 50


@dataclasses.dataclass(frozen=True)
class WeightPenalty(Method):
    """Cross-entropy of new images plus strength * sum of importance * (weights - anchor)^2.

    `Learner.own` has the trees "importance" and "anchor" with the structure of the parameters.
    Outputs that were not open have importance 0.

    Attributes:
      softmax_over: the outputs that the softmax normalises over: all "open" ones, or those of the
        "new" task.
      lambda_: weight of the penalty; 0 is finetuning.
    """

    softmax_over: str = setting(
        "new",
        "outputs in the softmax of the cross-entropy: open (all current outputs, see --outputs) "
        "or new (those of the current task only)",
        choices=("open", "new"),
    )
    lambda_: float = setting(1.0, "weight of the penalty", bound=NOT_NEGATIVE)

    parts: ClassVar[tuple[str, ...]] = ("classification", "penalty")

    @property
    def strength(self) -> float:
        """The factor of the sum."""
        return self.lambda_

    def own(self, learner: Learner) -> Params:
        zeros = jax.tree.map(jnp.zeros_like, learner.weights.params)
        return {"importance": zeros, "anchor": zeros}

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        first = learner.n_old if self.softmax_over == "new" else 0
        logits = heads.restrict(output.logits, first, self.n_open(learner))
        classification = losses.cross_entropy(logits, batch.labels)
        own = learner.own
        penalty = self.strength * penalty_of(params, own["importance"], own["anchor"])
        parts = {"classification": classification, "penalty": penalty}
        return classification + penalty, (parts, output)


def penalty_of(params: Params, importance: Params, anchor: Params) -> Array:
    """Computes the sum of importance * (params - anchor)^2; a scalar.

    The arguments are trees of the same structure.
    """
    products = jax.tree.map(lambda x, f, a: jnp.sum(f * (x - a) ** 2), params, importance, anchor)
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def no_gradients(learner: Learner) -> dict[str, Any]:
    """Returns the sums of `add_gradients` before the first image."""
    zeros = jax.tree.map(jnp.zeros_like, learner.weights.params)
    return {"total": zeros, "n": jnp.int32(0)}


def add_gradients(
    sums: dict[str, Any],
    learner: Learner,
    batch: Batch,
    value: Callable[[Params, Array, Array], Array],
    measure: Callable[[Array], Array],
) -> dict[str, Any]:
    """Adds a measure of the gradient of each image of a batch.

    Args:
      sums: "total", a tree like the parameters, and "n", the number of images.
      learner: its parameters are those that are differentiated by.
      batch: rows with the label -1 do not count.
      value: (params, images [1, ...], labels [1]) -> the scalar that is differentiated.
      measure: applied to each entry of a gradient, such as `jnp.square`.
    """
    is_image = batch.labels >= 0

    def of_image(params: Params, image: Array, label: Array) -> Array:
        return value(params, image[None], label[None])

    gradients = jax.vmap(jax.grad(of_image), (None, 0, 0))
    grads = gradients(learner.weights.params, batch.images, batch.labels)

    def plus(total: Array, grad: Array) -> Array:
        mask = is_image.reshape(-1, *[1] * total.ndim)
        return total + jnp.sum(measure(grad), axis=0, where=mask)

    return {"total": jax.tree.map(plus, sums["total"], grads), "n": sums["n"] + is_image.sum()}
