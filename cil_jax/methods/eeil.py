"""EEIL, end-to-end incremental learning (Castro et al. 2018, https://arxiv.org/abs/1807.09536).

The pool has many new images and few exemplars. The network is first trained on all of it and then
finetuned on equally many images of each class. In both stages, the outputs of each task are
distilled with a softmax of their own.
"""

import dataclasses
from typing import ClassVar

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.plan import Do, Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal, balanced
from cil_jax.network import Weights
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import COUNT, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class EEIL(Rehearsal):
    """Cross-entropy over all classes plus a distillation loss for each task, in two stages.

        L = L_C + sum over f of L_D,f

    (Castro et al., eq. 1 to 3). L_C is the cross-entropy on the labels, and L_D,f that between the
    softmax of task f's outputs, divided by T, of a teacher and that of the network. In the first
    stage, f runs over all old tasks, and the teacher is the network of the task before. In balanced
    finetuning, f also includes the new task, and the teacher is the network after the first stage.
    The first task has cross-entropy alone, and no finetuning.

    `own` has the "teacher" of the balanced finetuning.

    Attributes:
      temperature: T.
      finetune_epochs, finetune_rate: epochs and initial learning rate of balanced finetuning. The
        rate is divided by 10 after one and after two quarters of the epochs.
      weight_decay: a common setting, which also holds for balanced finetuning.
    """

    temperature: float = setting(2.0, "temperature of the distillation", bound=POSITIVE)
    finetune_epochs: int = setting(40, "epochs of balanced finetuning after a task", bound=COUNT)
    finetune_rate: float = setting(
        0.01, "initial learning rate of balanced finetuning", bound=POSITIVE
    )
    weight_decay: float = dataclasses.field(default=0.0, kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    def own(self, learner: Learner) -> dict[str, Weights]:
        return {"teacher": learner.weights}

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), Keep())
        schedule = Schedule(
            self.finetune_epochs, self.finetune_rate, (0.25, 0.5), 10.0, self.weight_decay
        )
        finetune = Train("balanced", self.balanced_loss, rows=balanced, schedule=schedule)
        return (Train(), Do(self.with_new_teacher), finetune, Keep())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of the first stage, which distils the old tasks."""
        old = self.teacher(learner, batch).logits
        return self._loss(params, learner, batch, train, old, learner.n_old)

    def balanced_loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of balanced finetuning, which distils all tasks."""
        teacher = self.network(learner.own["teacher"], batch.images, self.n_open(learner))
        return self._loss(params, learner, batch, train, teacher.logits, learner.n_seen)

    def _loss(
        self,
        params: Params,
        learner: Learner,
        batch: Batch,
        train: bool,
        teacher_logits: Array,
        n_distilled: Array,
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        parts = {
            "classification": losses.cross_entropy(output.logits, batch.labels),
            "distillation": losses.distillation_of_old_outputs(
                output.logits, teacher_logits, n_distilled, self.temperature, learner.task_of
            ),
        }
        return parts["classification"] + parts["distillation"], (parts, output)

    def with_new_teacher(self, learner: Learner, key: Key) -> Learner:
        """Makes the network the teacher of balanced finetuning."""
        del key
        return learner.replace(own={"teacher": learner.weights})
