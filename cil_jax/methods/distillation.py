"""What methods share that take the old network's outputs as soft labels."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.classification import Classification
from cil_jax.network import Output
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Distillation(Classification):
    """Classification plus distillation of the old outputs.

    Attributes:
      distill: "all" for one softmax over all old outputs, "tasks" for one softmax per old task, or
        "none".
      lambda_: weight of the distillation with a softmax; 0 leaves the classification alone.
      temperature: of both softmaxes in the distillation.
    """

    distill: str = setting(
        "all",
        "distillation of the old outputs: all (one softmax over all old outputs), tasks (one "
        "softmax per old task) or none (exemplars, if any, are trained on their labels); with "
        "--objective sigmoid, all and tasks are the same",
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
        unused = super().unused_settings(config)
        if config.objective == "sigmoid" or config.distill == "none":
            unused |= {"lambda_", "temperature"}
        if config.objective == "sigmoid" and config.distill == "tasks":
            unused |= {"distill"}  # sigmoids have no softmax to split by task
        return unused

    @property
    def is_icarls(self) -> bool:
        """Whether the loss is iCaRL's, in which the old outputs are the targets of sigmoids."""
        return self.objective == "sigmoid" and self.distill != "none"

    def with_distillation(
        self,
        learner: Learner,
        batch: Batch,
        output: Output,
        first: int | Array = 0,
        old: Output | None = None,
    ) -> LossResult:
        """Computes the classification loss plus lambda * the distillation with a softmax.

        Args:
          learner: has the old network.
          batch: the images.
          output: of the network in training for them.
          first: outputs below are left out of the softmax of the classification loss.
          old: of the old network for them (default: it is computed).
        """
        logits, n_open = output.logits, self.n_open(learner)
        if self.distill == "none":
            loss = self.classification(logits, batch.labels, n_open, first)
            return loss, ({"classification": loss, "distillation": jnp.zeros(())}, output)
        old = old or self.teacher(learner, batch)
        task_of = learner.task_of if self.distill == "tasks" else None
        # Before the classification loss: the last bits of the gradient depend on the order.
        distillation = losses.distillation_of_old_outputs(
            logits, old.logits, learner.n_old, self.temperature, task_of
        )
        classification = self.classification(logits, batch.labels, n_open, first)
        parts = {"classification": classification, "distillation": distillation}
        return classification + self.lambda_ * distillation, (parts, output)
