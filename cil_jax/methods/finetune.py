"""Finetuning: trains on each task as if there were no other. The lower bound."""

import dataclasses
from typing import Any

from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.classification import Classification
from cil_jax.settings.declaring import setting
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class Finetune(Classification):
    """Classification loss on the current images, with nothing against forgetting.

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
        first = learner.n_old if self.softmax_over == "new" else 0
        loss = self.classification(output.logits, batch.labels, self.n_open(learner), first)
        return loss, ({"classification": loss}, output)
