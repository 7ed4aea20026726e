"""SS-IL, separated softmax (Ahn et al. 2021, https://arxiv.org/abs/2003.13947).

A softmax over all classes lets the many new images push down the old outputs. Here each image is
classified among the classes of its own side, old or new, and each old task is distilled by itself,
so nothing compares old with new but the shared features. The authors' code is
https://github.com/hongjoon0805/SS-IL-Official.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, all_factors
from cil_jax.methods.plan import Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.methods.two_streams import new_rows
from cil_jax.settings.declaring import COUNT, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class SSIL(Rehearsal):
    """Separated softmax and task-wise distillation, on new images and exemplars beside them.

        L = CE(z, y) + T^2 * sum over old tasks t of D_T,t

    The cross-entropy is the mean over all images, of new ones over the new outputs and of exemplars
    over the old ones. D_T,t is the distillation of task t with a softmax of its own, averaged over
    all images.

    Attributes:
      replay_batch_size: number of exemplars beside each batch of new images.
      temperature: T, of both softmaxes in the distillation.
      slower: whether the updates of the t-th task are divided by t.
    """

    replay_batch_size: int = setting(
        32, "exemplars drawn beside each batch of new images", bound=COUNT
    )
    temperature: float = setting(2.0, "temperature of the distillation", bound=POSITIVE)
    slower: bool = setting(
        True, "divide the updates of the t-th task by t, which acts as a lower learning rate"
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    def plan(self, is_first: bool) -> Plan:
        beside = 0 if is_first else self.replay_batch_size
        return (Train(rows=new_rows, beside=beside), Keep())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        old = self.teacher(learner, batch).logits
        n_old, task_of = learner.n_old, learner.task_of
        logits = separated(output.logits, batch.labels, n_old, learner.n_seen)
        parts = {
            "classification": losses.cross_entropy(logits, batch.labels),
            "distillation": self.temperature**2
            * losses.distillation_of_old_outputs(
                output.logits, old, n_old, self.temperature, task_of
            ),
        }
        return parts["classification"] + parts["distillation"], (parts, output)

    def trainable(self, learner: Learner) -> Params | None:
        if not self.slower:
            return None
        return all_factors(learner.weights.params, 1.0 / (learner.task + 1))


def separated(logits: Array, labels: Array, n_old: int | Array, n_seen: int | Array) -> Array:
    """Closes the new outputs for images of old classes, and the old outputs for the others.

    Ahn et al. 2021, section 4.2.

    Args:
      logits: float [B, C].
      labels: int [B].
      n_old, n_seen: outputs 0 .. n_old - 1 are old, and n_old .. n_seen - 1 are new.

    Returns:
      float [B, C].
    """
    old, new = heads.restrict(logits, 0, n_old), heads.restrict(logits, n_old, n_seen)
    return jnp.where(labels[:, None] < n_old, old, new)
