"""Finetuning: each task is learned as if there had been none before. The lower bound."""

import dataclasses
from typing import ClassVar

import jax

from cil_jax import heads, losses
from cil_jax.classifiers import PROBABILITY, PROBABILITY_EACH
from cil_jax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """The labels of the images at hand, and nothing against forgetting.

    Attributes:
      objective: "softmax" for cross-entropy; "sigmoid" for a binary classifier at each output.
      softmax_over: outputs among which labels compete under a softmax: all "open" ones, or the
        "new" task's own.
      divisor: the constant under the summed sigmoid loss.
    """

    objective: str
    softmax_over: str
    divisor: float

    parts: ClassVar = ("classification",)

    @classmethod
    def idle(cls, config):
        return {"softmax_over" if config.objective == "sigmoid" else "divisor"}

    def scale(self, classifier):
        return PROBABILITY_EACH if self.objective == "sigmoid" else PROBABILITY

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        loss = self.classification(learner, batch, output.logits)
        return loss, ({"classification": loss}, output)

    def classification(self, learner, batch, logits):
        """What the labels say of the outputs [B, room]; a scalar."""
        n_open = self.n_open(learner)
        if self.objective == "sigmoid":
            targets = jax.nn.one_hot(batch.labels, logits.shape[1])
            return losses.icarl_bce(heads.restrict(logits, 0, n_open), targets, self.divisor)
        first = learner.n_old if self.softmax_over == "new" else 0
        return losses.cross_entropy(heads.restrict(logits, first, n_open), batch.labels)
