"""Finetuning: trains on each task as if there were no other. The lower bound."""

import dataclasses
from typing import ClassVar

import jax

from cil_jax import heads, losses
from cil_jax.classifiers import PROBABILITY, PROBABILITY_EACH, Scale
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, Method
from cil_jax.settings.config import Config
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Classification loss on the current images, with nothing against forgetting.

    Attributes:
      objective: "softmax" for cross-entropy; "sigmoid" for a binary classifier per output.
      softmax_over: the outputs that the softmax normalises over: all "open" ones, or those of the
        "new" task.
      divisor: constant that the summed sigmoid loss is divided by.
    """

    objective: str
    softmax_over: str
    divisor: float

    parts: ClassVar[tuple[str, ...]] = ("classification",)

    @classmethod
    def unused_settings(cls, config: Config) -> set[str]:
        return {"softmax_over" if config.objective == "sigmoid" else "divisor"}

    def scale(self, classifier: str) -> Scale:
        return PROBABILITY_EACH if self.objective == "sigmoid" else PROBABILITY

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        loss = self.classification(learner, batch, output.logits)
        return loss, ({"classification": loss}, output)

    def classification(self, learner: Learner, batch: Batch, logits: Array) -> Array:
        """Computes the classification loss of logits [B, room]; a scalar."""
        n_open = self.n_open(learner)
        if self.objective == "sigmoid":
            targets = jax.nn.one_hot(batch.labels, logits.shape[1])
            return losses.icarl_bce(heads.restrict(logits, 0, n_open), targets, self.divisor)
        first = learner.n_old if self.softmax_over == "new" else 0
        return losses.cross_entropy(heads.restrict(logits, first, n_open), batch.labels)
