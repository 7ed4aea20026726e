"""Learning without Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

The old network's outputs for the new images serve as soft labels, so no old image is needed.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.finetune import Finetune
from cil_jax.settings.config import Config
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class LwF(Finetune):
    """Finetuning plus lambda * distillation of the old outputs; or iCaRL's loss, as in LwF.MC.

    With softmax_over "new", the softmax normalises over the new task's outputs, as in Li and Hoiem
    and in PyCIL. With "open", cross-entropy would lower the old outputs for every image, and
    distillation, a softmax over the old outputs, cannot detect that.

    Attributes:
      distill: "all" for one softmax over all old outputs, "tasks" for one softmax per old task, or
        "none".
      lambda_: weight of the distillation with a softmax; 0 is finetuning.
      temperature: of both softmaxes in the distillation.
    """

    distill: str
    lambda_: float
    temperature: float

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    @classmethod
    def unused_settings(cls, config: Config) -> set[str]:
        unused = super().unused_settings(config)
        if config.objective == "sigmoid" or config.distill == "none":
            unused |= {"lambda_", "temperature"}
        if config.objective == "sigmoid" and config.distill == "tasks":
            unused |= {"distill"}  # sigmoids have no softmax to split by task
        return unused

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        parts = self._parts(learner, batch, output.logits)
        weight = self.lambda_ if self.objective == "softmax" else 1.0
        return parts["classification"] + weight * parts["distillation"], (parts, output)

    def _parts(self, learner: Learner, batch: Batch, logits: Array) -> Mapping[str, Array]:
        """Computes the unweighted parts of the loss; scalars."""
        if self.distill != "none" and self.objective == "sigmoid":
            return losses.icarl(
                logits,
                batch.labels,
                self.teacher(learner, batch).logits,
                learner.n_old,
                self.n_open(learner),
                self.divisor,
            )
        distillation = jnp.zeros(())
        if self.distill != "none":
            teacher_logits = self.teacher(learner, batch).logits
            distillation = zero_in_first_task(
                learner, self._softmax_distillation(learner, logits, teacher_logits)
            )
        classification = self.classification(learner, batch, logits)
        return {"classification": classification, "distillation": distillation}

    def _softmax_distillation(
        self, learner: Learner, logits: Array, teacher_logits: Array
    ) -> Array:
        """Computes the distillation loss of the old outputs, over all of them or by task."""
        old, old_teacher = (heads.restrict(x, 0, learner.n_old) for x in (logits, teacher_logits))
        if self.distill == "all":
            return losses.distillation(old, old_teacher, self.temperature)
        is_old = jnp.arange(logits.shape[1]) < learner.n_old
        task_of = jnp.where(is_old, learner.task_of, -1)
        return losses.distillation_by_task(old, old_teacher, self.temperature, task_of)
