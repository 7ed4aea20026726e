"""Learning without Forgetting (Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).

The old network's outputs for the new images serve as soft labels, so no old image is needed.
"""

import dataclasses
from typing import Any

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.distillation import Distillation
from cil_jax.network import Output
from cil_jax.settings.declaring import setting
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class LwF(Distillation):
    """Classification of new images plus lambda * distillation of the old outputs.

    With softmax_over "new", the softmax normalises over the new task's outputs, as in Li and Hoiem
    and in PyCIL. With "open", cross-entropy would lower the old outputs for every image, and
    distillation, a softmax over the old outputs, cannot detect that. With objective "sigmoid", the
    loss is iCaRL's: that is LwF.MC.

    Attributes:
      softmax_over: the outputs that the softmax normalises over: all "open" ones, or those of the
        "new" task.
    """

    softmax_over: str = setting(
        "open",
        "outputs in the softmax of the cross-entropy: open (all current outputs, see --outputs) "
        "or new (those of the current task only)",
        choices=("open", "new"),
    )

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = super().unused_settings(config)
        return unused | ({"softmax_over"} if config.objective == "sigmoid" else set())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        return self.of_output(learner, batch, output)

    def of_output(
        self, learner: Learner, batch: Batch, output: Output, old: Output | None = None
    ) -> LossResult:
        """Computes the loss from the outputs of the network in training and of the old network.

        Args:
          learner: has the old network.
          batch: the images.
          output: of the network in training for them.
          old: of the old network for them (default: it is computed).
        """
        if not self.is_icarls:
            first = learner.n_old if self.softmax_over == "new" else 0
            return self.with_distillation(learner, batch, output, first, old)
        n_open, old = self.n_open(learner), old or self.teacher(learner, batch)
        parts = losses.icarl(
            output.logits, batch.labels, old.logits, learner.n_old, n_open, self.divisor
        )
        return parts["classification"] + parts["distillation"], (parts, output)
