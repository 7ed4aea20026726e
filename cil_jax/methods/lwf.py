"""Learning without Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

The old network's answers to new images are kept as soft labels: no old image is needed.
"""

import dataclasses
from typing import ClassVar

from cil_jax import heads, losses
from cil_jax.methods.base import Method, when_there_is_a_past


@dataclasses.dataclass(frozen=True)
class LwF(Method):
    """lambda * distillation of the old outputs + cross-entropy of the new ones.

    Cross-entropy looks at the new task's outputs alone, as in Li and Hoiem and in PyCIL: over all
    outputs it would push the old ones down on every image, which distillation, a softmax among the
    old outputs, cannot see.

    Attributes:
      lambda_: weight of the distillation; 0 is finetuning of the new outputs.
      temperature: of both softmaxes in the distillation.
    """

    lambda_: float
    temperature: float

    parts: ClassVar = ("cross_entropy", "distillation")

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        new = heads.restrict(output.logits, learner.n_old, learner.n_seen)
        cross_entropy = losses.cross_entropy(new, batch.labels)

        old = heads.restrict(output.logits, 0, learner.n_old)
        teacher_logits = self.teacher(learner, batch).logits
        distillation = when_there_is_a_past(
            learner, losses.distillation(old, teacher_logits, self.temperature)
        )
        loss = self.lambda_ * distillation + cross_entropy
        return loss, ({"cross_entropy": cross_entropy, "distillation": distillation}, output)
