"""Learning without Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

The old network's answers to new images are kept as soft labels: no old image is needed.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.methods.base import when_there_is_a_past
from cil_jax.methods.finetune import Finetune


@dataclasses.dataclass(frozen=True)
class LwF(Finetune):
    """Finetuning, and lambda * distillation of the old outputs; or iCaRL's loss, as LwF.MC.

    With softmax_over "new", labels compete among the new task's outputs, as in Li and Hoiem and in
    PyCIL. Over all "open" ones, cross-entropy would push the old outputs down on every image,
    which distillation, a softmax among the old outputs, cannot see.

    Attributes:
      distill: "all" old outputs in one softmax, each of the old "tasks" in its own, or "none".
      lambda_: weight of the distillation under a softmax; 0 is finetuning.
      temperature: of both softmaxes in the distillation.
    """

    distill: str
    lambda_: float
    temperature: float

    parts: ClassVar = ("classification", "distillation")

    @classmethod
    def idle(cls, config):
        found = super().idle(config)
        if config.objective == "sigmoid" or config.distill == "none":
            found |= {"lambda_", "temperature"}
        if config.objective == "sigmoid" and config.distill == "tasks":
            found |= {"distill"}  # every output is by itself there
        return found

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        parts = self._parts(learner, batch, output.logits)
        weight = self.lambda_ if self.objective == "softmax" else 1.0
        return parts["classification"] + weight * parts["distillation"], (parts, output)

    def _parts(self, learner, batch, logits):
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
            soft = self._soft(learner, logits, self.teacher(learner, batch).logits)
            distillation = when_there_is_a_past(learner, soft)
        classification = self.classification(learner, batch, logits)
        return {"classification": classification, "distillation": distillation}

    def _soft(self, learner, logits, teacher_logits):
        """Distillation at a temperature, of all old outputs or task by task."""
        old, old_teacher = (heads.restrict(x, 0, learner.n_old) for x in (logits, teacher_logits))
        if self.distill == "all":
            return losses.distillation(old, old_teacher, self.temperature)
        is_old = jnp.arange(logits.shape[1]) < learner.n_old
        task_of = jnp.where(is_old, learner.task_of, -1)
        return losses.distillation_by_task(old, old_teacher, self.temperature, task_of)
