"""LUCIR (Hou et al. 2019, CVPR), a classifier that treats old and new classes alike.

Three measures against the imbalance between few exemplars and many new images: logits are scaled
cosines, features keep the directions that they had in the old network, and exemplars keep a margin
to the new classes that are most similar to them. The authors' code is
https://github.com/hshustc/CVPR19_Incremental_Learning.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.classifiers import class_sums
from cil_jax.learner import Learner
from cil_jax.memory import Pool, Slots, equal_shares
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.plan import Fold, Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal, balanced
from cil_jax.network import Network
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import COUNT, NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params

HEAD = heads.Cosine()


@dataclasses.dataclass(frozen=True)
class LUCIR(Rehearsal):
    """Cosine head, less-forget constraint and margin ranking. It needs `last_relu` to be false.

    Attributes:
      per_class: number of exemplars of each class; 0 to divide `memory` among the classes.
      lambda_: the less-forget constraint has the weight lambda sqrt(C_old / C_new) (section 3.3).
      margin: between the cosines to the right class and to a new one.
      n_rivals: number of new classes that an exemplar keeps this margin to.
      margin_weight: weight of the margin ranking loss.
      finetune_epochs: epochs of the head's training on balanced images after each later task.
    """

    per_class: int = setting(
        20,
        "exemplars per class; 0 to divide --memory equally among the classes seen",
        bound=NOT_NEGATIVE,
    )
    lambda_: float = setting(
        5.0,
        "weight of the less-forget constraint, which is multiplied by sqrt(old / new classes)",
        bound=NOT_NEGATIVE,
    )
    margin: float = setting(0.5, "margin of the ranking loss, in cosines", bound=NOT_NEGATIVE)
    n_rivals: int = setting(2, "new classes that each exemplar keeps the margin to", bound=COUNT)
    margin_weight: float = setting(1.0, "weight of the margin ranking loss", bound=NOT_NEGATIVE)
    finetune_epochs: int = setting(
        0,
        "epochs of training the output layer on equally many images of each class, after a task",
        bound=NOT_NEGATIVE,
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "less_forget", "margin")

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = {"memory"} if config.per_class else set()
        return unused | ({"margin", "n_rivals"} if config.margin_weight == 0 else set())

    @property
    def network(self) -> Network:
        return Network(self.backbone, HEAD)

    @property
    def memory_size(self) -> int:
        return self.per_class * self.n_classes if self.per_class else self.memory

    def policy(self, learner: Learner, pool: Pool, features: Array | None, key: Key) -> Slots:
        picks, n_available = self.picks(learner, pool, features, key)
        share = self.per_class or None
        return equal_shares(pool, picks, n_available, learner.n_old, learner.n_seen, share)

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), Keep())
        imprint = Fold(zero=self.no_sums, add=self.with_sums_of, done=self.imprinted)
        if not self.finetune_epochs:
            return (imprint, Train(), Keep())
        schedule = Schedule(self.finetune_epochs, 0.01, (0.5,), 10.0, 5e-4)
        finetune = Train(
            "head", self.loss_of_head, rows=balanced, trainable=self.head_alone, schedule=schedule
        )
        return (imprint, Train(), finetune, Keep())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        old_features = self.teacher(learner, batch).features
        cosines = HEAD.cosines(params["head"], output.features)
        n_old, n_seen = learner.n_old, learner.n_seen
        less_forget = losses.cosine_distance(output.features, old_features)
        parts = {
            "classification": losses.cross_entropy(output.logits, batch.labels),
            "less_forget": zero_in_first_task(learner, less_forget),
            "margin": losses.margin_ranking(
                cosines, batch.labels, n_old, n_seen, self.margin, self.n_rivals
            ),
        }
        weight = self.weight_of_less_forget(n_old, n_seen)
        loss = parts["classification"] + weight * parts["less_forget"]
        return loss + self.margin_weight * parts["margin"], (parts, output)

    def weight_of_less_forget(self, n_old: Array, n_seen: Array) -> Array:
        """Returns lambda sqrt(C_old / C_new)."""
        return self.lambda_ * jnp.sqrt(n_old / (n_seen - n_old))

    def trainable(self, learner: Learner) -> Params:
        """Trains everything except the weight vectors of old classes."""
        is_new = (jnp.arange(learner.means.shape[0]) >= learner.n_old).astype(jnp.float32)
        backbone = jax.tree.map(lambda _: jnp.ones(()), learner.weights.params["backbone"])
        return {"backbone": backbone, "head": {"kernel": is_new, "scale": jnp.ones(())}}

    # Imprinting: the weight vector of a new class starts at the mean of its features.

    def no_sums(self, learner: Learner) -> Array:
        return jnp.zeros_like(learner.means)

    def with_sums_of(self, learner: Learner, sums: Array, batch: Batch) -> Array:
        features = self.network(learner.weights, batch.images, learner.n_old).features
        return sums + class_sums(features, batch.labels, len(sums))

    def imprinted(self, learner: Learner, sums: Array, key: Key) -> Learner:
        del key
        n_old, n_new = learner.n_old, learner.n_seen - learner.n_old
        params = learner.weights.params
        head = HEAD.imprint(params["head"], sums.T, n_old, n_new)
        return learner.replace(weights=learner.weights.replace(params={**params, "head": head}))

    # Balanced finetuning of the head.

    def loss_of_head(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        del train  # the backbone stays in evaluation mode
        return self.loss(params, learner, batch, key, train=False)

    def head_alone(self, learner: Learner) -> Params:
        """Trains the weight vectors of all classes and nothing else, not even the scale."""
        nothing = jax.tree.map(lambda _: jnp.zeros(()), learner.weights.params)
        return {**nothing, "head": {**nothing["head"], "kernel": jnp.ones(())}}
