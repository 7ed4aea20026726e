"""What methods with a cosine head share: imprinting, frozen old columns, and a balanced training.

Hou et al. 2019 (LUCIR); PODNet (Douillard et al. 2020) takes these parts from it.
"""

import dataclasses

import jax.numpy as jnp

from cil_jax import heads
from cil_jax.classifiers import class_sums
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, all_factors, with_head
from cil_jax.methods.exemplars import per_class_setting
from cil_jax.methods.plan import Fold, Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal, balanced
from cil_jax.network import Network
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class CosineRehearsal(Rehearsal):
    """Keeps exemplars and has a cosine head, which needs `last_relu` to be false.

    A later task begins with imprinting: the weight vectors of a new class start at the mean of its
    features. Those of old classes are not trained, unless by the training of the head that follows.

    Attributes:
      finetune_epochs: epochs of the head's training on balanced images after each later task.
    """

    per_class: int = per_class_setting(20)
    finetune_epochs: int = setting(
        0,
        "epochs of training the output layer on equally many images of each class, after a task",
        bound=NOT_NEGATIVE,
    )

    @property
    def head(self) -> heads.Cosine:
        return heads.Cosine()

    @property
    def network(self) -> Network:
        return Network(self.backbone, self.head)

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), Keep())
        if not self.finetune_epochs:
            return (*self.imprinting(), Train(), Keep())
        schedule = self.finetune_schedule
        finetune = Train(
            "head", self.loss_of_head, rows=balanced, trainable=self.kernel_alone, schedule=schedule
        )
        return (*self.imprinting(), Train(), finetune, Keep())

    def trainable(self, learner: Learner) -> Params:
        """Trains everything except the weight vectors of old classes."""
        is_new = (jnp.arange(learner.means.shape[0]) >= learner.n_old).astype(jnp.float32)
        backbone = all_factors(learner.weights.params["backbone"], 1.0)
        return {"backbone": backbone, "head": {"kernel": is_new, "scale": 1.0}}

    # Imprinting: the weight vector of a new class starts at the mean of its features.

    def imprinting(self) -> tuple[Fold, ...]:
        """Returns the steps of imprinting."""
        return (Fold(zero=self.no_sums, add=self.with_sums_of, done=self.imprinted),)

    def no_sums(self, learner: Learner) -> Array:
        return jnp.zeros_like(learner.means)

    def with_sums_of(self, learner: Learner, sums: Array, batch: Batch) -> Array:
        features = self.network(learner.weights, batch.images, learner.n_old).features
        return sums + class_sums(features, batch.labels, len(sums))

    def imprinted(self, learner: Learner, sums: Array, key: Key) -> Learner:
        del key
        return self.pointing_to(learner, sums.T)

    def pointing_to(self, learner: Learner, directions: Array) -> Learner:
        """Returns the learner with new columns of these directions; see `heads.Cosine.imprint`."""
        params, n_new = learner.weights.params, learner.n_seen - learner.n_old
        head = self.head.imprint(params["head"], directions, learner.n_old, n_new)
        return with_head(learner, head)

    # Balanced finetuning of the head.

    @property
    def finetune_schedule(self) -> Schedule:
        return Schedule(self.finetune_epochs, 0.01, (0.5,), 10.0, 5e-4)

    def loss_of_head(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        del train  # the backbone stays in evaluation mode
        return self.loss(params, learner, batch, key, train=False)

    def kernel_alone(self, learner: Learner) -> Params:
        """Trains the weight vectors of all classes and nothing else, not even the scale."""
        nothing = all_factors(learner.weights.params, 0.0)
        return {**nothing, "head": {**nothing["head"], "kernel": 1.0}}
