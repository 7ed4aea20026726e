"""Learning without Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

The old network's outputs for the new images serve as soft labels, so no old image is needed.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.classification import Classification
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class LwF(Classification):
    """Classification of new images plus lambda * distillation of the old outputs.

    With softmax_over "new", the softmax normalises over the new task's outputs, as in Li and Hoiem
    and in PyCIL. With "open", cross-entropy would lower the old outputs for every image, and
    distillation, a softmax over the old outputs, cannot detect that. With objective "sigmoid", the
    loss is iCaRL's: that is LwF.MC.

    Attributes:
      softmax_over: the outputs that the softmax normalises over: all "open" ones, or those of the
        "new" task.
      distill: "all" for one softmax over all old outputs, "tasks" for one softmax per old task, or
        "none".
      lambda_: weight of the distillation with a softmax; 0 is finetuning.
      temperature: of both softmaxes in the distillation.
    """

    softmax_over: str = setting(
        "open",
        "outputs in the softmax of the cross-entropy: open (all current outputs, see --outputs) "
        "or new (those of the current task only)",
        choices=("open", "new"),
    )
    distill: str = setting(
        "all",
        "distillation of the old outputs: all (one softmax over all old outputs), tasks (one "
        "softmax per old task) or none; with --objective sigmoid, all and tasks are the same",
        choices=("all", "tasks", "none"),
    )
    lambda_: float = setting(
        1.0, "weight of the distillation loss (--objective softmax)", bound=NOT_NEGATIVE
    )
    temperature: float = setting(
        2.0, "temperature of the distillation (--objective softmax)", bound=POSITIVE
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = super().unused_settings(config) | unused_in_distillation(config)
        return unused | ({"softmax_over"} if config.objective == "sigmoid" else set())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        old = self.teacher(learner, batch).logits
        loss, parts = self.of_outputs(learner, output.logits, batch.labels, old)
        return loss, (parts, output)

    def of_outputs(
        self, learner: Learner, logits: Array, labels: Array, old: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Computes the loss and its parts from logits [B, room], labels, and the old logits."""
        n_open = self.n_open(learner)
        first = learner.n_old if self.softmax_over == "new" else 0
        if self.distill == "none":
            loss = self.classification(logits, labels, n_open, first)
            return loss, {"classification": loss, "distillation": jnp.zeros(())}
        if self.objective == "sigmoid":
            parts = losses.icarl(logits, labels, old, learner.n_old, n_open, self.divisor)
            return parts["classification"] + parts["distillation"], parts
        task_of = learner.task_of if self.distill == "tasks" else None
        # In this order, on which the last bits of the gradient depend.
        distillation = losses.distillation_of_old_outputs(
            logits, old, learner.n_old, self.temperature, task_of
        )
        classification = self.classification(logits, labels, n_open, first)
        parts = {"classification": classification, "distillation": distillation}
        return classification + self.lambda_ * distillation, parts


def unused_in_distillation(config: Any) -> set[str]:
    """Returns which of distill, lambda_ and temperature have no effect under the given settings."""
    unused = set()
    if config.objective == "sigmoid" or config.distill == "none":
        unused |= {"lambda_", "temperature"}
    if config.objective == "sigmoid" and config.distill == "tasks":
        unused |= {"distill"}  # sigmoids have no softmax to split by task
    return unused
