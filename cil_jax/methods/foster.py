"""FOSTER, feature boosting and compression (Wang et al. 2022, https://arxiv.org/abs/2204.04662).

Each task adds a backbone that is fitted to what the old network gets wrong, as in gradient
boosting. Then both are compressed into one network, which answers and begins the next task.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.expanding import AUXILIARY, Expanding
from cil_jax.methods.plan import Do, Fold, Keep, Plan, Train
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import BETWEEN_0_AND_1, NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class FOSTER(Expanding):
    """Boosting with two backbones, then distillation into one.

        L = CE(z / w, y) + CE(z_new, y) + distillation_weight * D_2(z_old, old z)      boosting
        L = - mean_x sum_c q_c log softmax_c(s / 2),  q ~ softmax(z / 2) * v           compression

    z are the outputs from the features of both backbones, z_new those of an auxiliary head from the
    new features alone, and D distils the old outputs at temperature 2. A class with n images has
    the weight (1 - b) / (1 - b^n), divided by the mean over classes seen: w with b = boosting_beta,
    and v with b = compression_beta. s are the outputs of the compressed network, which starts as
    the old one and sees no label.

    `own` has the number of images of each class, and the boosted network while it is compressed.

    Attributes:
      distillation_weight: weight of the distillation in boosting.
      boosting_beta, compression_beta: b; 0 for equal weights.
      compression_epochs: epochs of the compression, as a fraction of those of boosting.
      rate: learning rate at the start of both, a common setting. That of the compression falls to
        zero along a cosine.
      epochs: epochs of boosting, a common setting.
    """

    distillation_weight: float = setting(
        1.0, "weight of the distillation of the old outputs in boosting", bound=NOT_NEGATIVE
    )
    boosting_beta: float = setting(
        0.96, "how much rarer classes count more in boosting: 0, not at all", bound=BETWEEN_0_AND_1
    )
    compression_beta: float = setting(0.97, "the same in the compression", bound=BETWEEN_0_AND_1)
    compression_epochs: float = setting(
        0.7647, "epochs of the compression, as a fraction of --epochs", bound=POSITIVE
    )
    rate: float = dataclasses.field(default=0.1, kw_only=True)
    epochs: int = dataclasses.field(default=1, kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("classification", "new_features", "distillation")

    @property
    def slots(self) -> int:
        return 2  # the old network and the new

    def own(self, learner: Learner) -> Params:
        return {"counts": jnp.zeros(len(learner.means)), "boosted": learner.weights}

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), Keep())
        count = Fold(self.exemplar_counts, self.counted, self.with_counts)
        epochs = max(1, round(self.compression_epochs * self.epochs))
        schedule = Schedule(epochs, self.rate, (), 1.0, 0.0, "cosine")
        compress = Train(
            "compression", self.loss_of_compression, ("compression",), schedule=schedule
        )
        return (count, Train("boosting"), Do(self.compressed), compress, Keep())

    # The number of images of each class.

    def exemplar_counts(self, learner: Learner) -> Array:
        return learner.memory.counts(len(learner.means)).astype(jnp.float32)

    def counted(self, learner: Learner, counts: Array, batch: Batch) -> Array:
        return counts + jax.nn.one_hot(batch.labels, len(counts)).sum(axis=0)

    def with_counts(self, learner: Learner, counts: Array, key: Key) -> Learner:
        return learner.replace(own={**learner.own, "counts": counts})

    # Boosting.

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        # In the first task nothing has been counted, and all weights are 1.
        weights = class_weights(learner.own["counts"], self.boosting_beta, learner.n_seen)
        classification = losses.cross_entropy(output.logits / weights, batch.labels)
        of_new = AUXILIARY.logits(params["auxiliary"], output.newest, learner.n_seen)
        # The frozen backbone is that of the old network, whose head has no weight for new features.
        head = learner.teacher.params["head"]
        old = self.network.head.logits(head, output.features, learner.n_old)
        parts = {
            "classification": classification,
            "new_features": zero_in_first_task(learner, losses.cross_entropy(of_new, batch.labels)),
            "distillation": losses.distillation_of_old_outputs(
                output.logits, old, learner.n_old, temperature=2.0
            ),
        }
        weighted = self.distillation_weight * parts["distillation"]
        return classification + parts["new_features"] + weighted, (parts, output)

    # Compression.

    def compressed(self, learner: Learner, key: Key) -> Learner:
        """Sets the boosted network aside, and starts from the old one with new columns."""
        old = learner.teacher
        drawn = self.grown(old, learner.n_old, self.n_open(learner), key)  # the old columns, too
        is_old = jnp.arange(len(learner.means)) < learner.n_old
        head = jax.tree.map(partial(jnp.where, is_old), old.params["head"], drawn)
        params = {**learner.weights.params, "backbone": old.params["backbone"], "head": head}
        weights = old.replace(params=params)
        return learner.replace(weights=weights, own={**learner.own, "boosted": learner.weights})

    def loss_of_compression(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        boosted = self.network(learner.own["boosted"], batch.images, learner.n_seen)
        weights = class_weights(learner.own["counts"], self.compression_beta, learner.n_seen)
        soft = jax.nn.softmax(jax.lax.stop_gradient(boosted.logits) / 2.0) * weights
        soft /= soft.sum(axis=1, keepdims=True)
        loss = -(soft * jax.nn.log_softmax(output.logits / 2.0)).sum(axis=1).mean()
        return loss, ({"compression": loss}, output)


def class_weights(counts: Array, beta: float, n_seen: int | Array) -> Array:
    """Computes the inverse effective number of images of each class, divided by its mean.

    Cui et al. 2019, https://arxiv.org/abs/1901.05555.

    Args:
      counts: float [room], the number of images of each class.
      beta: 0 for equal weights; the nearer to 1, the more rare classes count.
      n_seen: number of classes; the others get 1.
    """
    is_seen = jnp.arange(len(counts)) < n_seen
    weights = (1.0 - beta) / (1.0 - beta ** jnp.maximum(counts, 1.0))
    return jnp.where(is_seen, weights / weights.mean(where=is_seen), 1.0)
