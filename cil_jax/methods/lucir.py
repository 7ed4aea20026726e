"""LUCIR (Hou et al. 2019, CVPR), a classifier that treats old and new classes alike.

Three measures against the imbalance between few exemplars and many new images: logits are scaled
cosines, features keep the directions that they had in the old network, and exemplars keep a margin
to the new classes that are most similar to them. The authors' code is
https://github.com/hshustc/CVPR19_Incremental_Learning.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.cosine import CosineRehearsal
from cil_jax.settings.declaring import COUNT, NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class LUCIR(CosineRehearsal):
    """Cosine head, less-forget constraint and margin ranking. It needs `last_relu` to be false.

        L = CE(z, y) + lambda * sqrt(C_old / C_new) * (1 - cos(f, old f)) + margin_weight * R

    where f are the features, and R is the mean of max(0, margin - cos_y + cos_r) over exemplars and
    their rivals r, the new classes with the largest cosines.

    Attributes:
      lambda_: the less-forget constraint has the weight lambda sqrt(C_old / C_new) (section 3.3).
      margin: between the cosines to the right class and to a new one.
      n_rivals: number of new classes that an exemplar keeps this margin to.
      margin_weight: weight of the margin ranking loss.
    """

    lambda_: float = setting(
        5.0,
        "weight of the less-forget constraint, which is multiplied by sqrt(old / new classes)",
        bound=NOT_NEGATIVE,
    )
    margin: float = setting(0.5, "margin of the ranking loss, in cosines", bound=NOT_NEGATIVE)
    n_rivals: int = setting(2, "new classes that each exemplar keeps the margin to", bound=COUNT)
    margin_weight: float = setting(1.0, "weight of the margin ranking loss", bound=NOT_NEGATIVE)

    parts: ClassVar[tuple[str, ...]] = ("classification", "less_forget", "margin")

    @classmethod
    def unused_settings(cls, config: Any) -> set[str]:
        unused = {"margin", "n_rivals"} if config.margin_weight == 0 else set()
        return super().unused_settings(config) | unused

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        old_features = self.teacher(learner, batch).features
        cosines = self.head.cosines(params["head"], output.features)
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
