"""Fixed representation (Rebuffi et al. 2017, section 4.1, https://arxiv.org/abs/1611.07725).

The backbone is trained in the first task and then frozen; the outputs of a class are frozen when
its task ends. Old outputs never change, but the features are never adapted to later classes.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, all_factors
from cil_jax.methods.finetune import Finetune
from cil_jax.methods.plan import Plan, Train
from cil_jax.typing import Key, Params


@dataclasses.dataclass(frozen=True)
class FixedRepresentation(Finetune):
    """Finetuning that, after the first task, trains only the outputs of classes that are not old.

    With outputs "fixed", these include the outputs of classes that have not arrived yet.
    """

    takes_old_classes: ClassVar[bool] = False

    def plan(self, is_first: bool) -> Plan:
        later = Train(loss=self.loss_of_fixed_features, trainable=self.new_outputs)
        return (Train(),) if is_first else (later,)

    def loss_of_fixed_features(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        del train  # batch normalization is frozen with the other layers
        return self.loss(params, learner, batch, key, train=False)

    def new_outputs(self, learner: Learner) -> Params:
        """Trains the outputs of classes that are not old, and nothing else."""
        is_new = (jnp.arange(learner.means.shape[0]) >= learner.n_old).astype(jnp.float32)
        return {
            "backbone": all_factors(learner.weights.params["backbone"], 0.0),
            "head": {"kernel": is_new, "bias": is_new},
        }
