"""DER, dynamically expandable representation (Yan et al. 2021, https://arxiv.org/abs/2103.16788).

Each task adds a backbone, which starts as a copy of the newest one; the others are frozen. The head
reads the features of all of them. There is no pruning: the method is "DER w/o P" of the paper.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, head_alone, with_head, zero_in_first_task
from cil_jax.methods.expanding import AUXILIARY, Expanding
from cil_jax.methods.plan import Do, Keep, Plan, Train
from cil_jax.methods.rehearsal import balanced
from cil_jax.methods.wa import aligned
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import COUNT, NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class DER(Expanding):
    """Cross-entropy over all classes, and over new classes and "old" by the newest features alone.

        L = CE(z, y) + auxiliary_weight * CE(auxiliary z, y or "old")

    Attributes:
      auxiliary_weight: weight of the cross-entropy of the auxiliary head.
      ending: what corrects the head's preference for new classes: "align", PyCIL's weight aligning;
        "retrain", the authors' training of a new head on balanced images; or "none".
      retrain_epochs, temperature: epochs of that training, and the divisor of its logits.
    """

    auxiliary_weight: float = setting(
        1.0, "weight of the loss of the newest features by themselves", bound=NOT_NEGATIVE
    )
    ending: str = setting(
        "align",
        "after each later task: align (scale the weights of new outputs), retrain (train a new "
        "output layer on equally many images of each class) or none",
        choices=("align", "retrain", "none"),
    )
    retrain_epochs: int = setting(30, "epochs of --ending retrain", bound=COUNT)
    temperature: float = setting(
        5.0, "divisor of the logits in the training of --ending retrain", bound=POSITIVE
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "auxiliary")

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = set() if config.ending == "retrain" else {"retrain_epochs", "temperature"}
        return super().unused_settings(config) | unused

    @property
    def auxiliary_room(self) -> int:
        return self.task_room + 1  # an output for all old classes, and one for each new class

    def n_auxiliary(self, learner: Learner) -> Array:
        return learner.n_seen - learner.n_old + 1

    def plan(self, is_first: bool) -> Plan:
        if is_first or self.ending == "none":
            return (Train(), Keep())
        if self.ending == "align":
            return (Train(), Do(self.align), Keep())
        schedule = Schedule(self.retrain_epochs, 0.1, (0.5,), 10.0, 5e-4)
        retrain = Train(
            "head", self.loss_of_head, rows=balanced, trainable=head_alone, schedule=schedule
        )
        return (Train(), Do(self.with_new_head), retrain, Keep())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        classification = losses.cross_entropy(output.logits, batch.labels)
        n_outputs = self.n_auxiliary(learner)
        logits = AUXILIARY.logits(params["auxiliary"], output.newest, n_outputs)
        labels = (batch.labels - learner.n_old + 1).clip(min=0)
        auxiliary = zero_in_first_task(learner, losses.cross_entropy(logits, labels))
        parts = {"classification": classification, "auxiliary": auxiliary}
        return classification + self.auxiliary_weight * auxiliary, (parts, output)

    def align(self, learner: Learner, key: Key) -> Learner:
        del key
        head = aligned(learner.weights.params["head"], learner.n_old, learner.n_seen)
        return with_head(learner, head)

    def with_new_head(self, learner: Learner, key: Key) -> Learner:
        head = self.grown(learner.weights, jnp.int32(0), self.n_open(learner), key)
        return with_head(learner, head)

    def loss_of_head(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        del train  # all backbones are in evaluation mode
        output = self.student(params, learner, batch, train=False)
        loss = losses.cross_entropy(output.logits / self.temperature, batch.labels)
        return loss, ({"classification": loss, "auxiliary": jnp.zeros(())}, output)
