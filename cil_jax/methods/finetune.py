"""Finetuning: each task is learned as if there had been none before. The lower bound."""

import dataclasses
from typing import ClassVar

from cil_jax import losses
from cil_jax.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Finetune(Method):
    """Cross-entropy over all open outputs, on the new task's images alone."""

    parts: ClassVar = ("cross_entropy",)

    def loss(self, params, learner, batch, key, train=True):
        output = self.student(params, learner, batch, train)
        loss = losses.cross_entropy(output.logits, batch.labels)
        return loss, ({"cross_entropy": loss}, output)
