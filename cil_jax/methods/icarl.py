"""iCaRL (Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725), and the paper's hybrids.

New outputs are trained on the labels, old outputs on the old network's outputs, for new images and
exemplars alike. The prediction is the class with the nearest mean of exemplars; see
`cil_jax.methods.rehearsal` for the memory.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.classification import Classification
from cil_jax.methods.lwf import unused_in_distillation
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.settings.declaring import NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class ICaRL(Rehearsal, Classification):
    """Distillation on new images and exemplars, and their nearest-mean classifier.

    objective "sigmoid" is the paper's; "softmax" is PyCIL's, cross-entropy over all open outputs
    plus distillation at a temperature. distill "none" gives hybrid 2 (with answer "nme") and hybrid
    3 (with answer "linear"); distillation with answer "linear" is hybrid 1.

    Attributes:
      distill: "all" for one softmax over all old outputs, "tasks" for one softmax per old task, or
        "none".
      lambda_: weight of the distillation with a softmax.
      temperature: of both softmaxes in the distillation.
    """

    distill: str = setting(
        "all",
        "distillation of the old outputs: all (one softmax over all old outputs), tasks (one "
        "softmax per old task) or none (exemplars are trained on their labels); with --objective "
        "sigmoid, all and tasks are the same",
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
        return super().unused_settings(config) | unused_in_distillation(config)

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        logits, n_open = output.logits, self.n_open(learner)
        if self.distill == "none":
            loss = self.classification(logits, batch.labels, n_open)
            return loss, ({"classification": loss, "distillation": jnp.zeros(())}, output)
        old = self.teacher(learner, batch).logits
        if self.objective == "sigmoid":
            parts = losses.icarl(logits, batch.labels, old, learner.n_old, n_open, self.divisor)
            return parts["classification"] + parts["distillation"], (parts, output)
        task_of = learner.task_of if self.distill == "tasks" else None
        # In this order, on which the last bits of the gradient depend.
        distillation = losses.distillation_of_old_outputs(
            logits, old, learner.n_old, self.temperature, task_of
        )
        classification = self.classification(logits, batch.labels, n_open)
        parts = {"classification": classification, "distillation": distillation}
        return classification + self.lambda_ * distillation, (parts, output)
