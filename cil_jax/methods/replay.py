"""Replay: finetuning on the new images and the exemplars together."""

import dataclasses
from typing import ClassVar

from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.classification import Classification
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class Replay(Rehearsal, Classification):
    """Classification loss over all open outputs, on new images and exemplars."""

    parts: ClassVar[tuple[str, ...]] = ("classification",)

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        loss = self.classification(output.logits, batch.labels, self.n_open(learner))
        return loss, ({"classification": loss}, output)
