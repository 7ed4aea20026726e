"""Fixed representation (Rebuffi et al. 2017, section 4.1, https://arxiv.org/abs/1611.07725).

The features are learned with the first task and then frozen, and so are the outputs of a class
once its task is over: nothing is forgotten, and nothing new is seen.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cil_jax.methods.finetune import Finetune


@dataclasses.dataclass(frozen=True)
class FixedRepresentation(Finetune):
    """Finetuning, in which after the first task only outputs that are not old may move.

    With fixed outputs those of classes to come are among them.
    """

    def student(self, params, learner, batch, train):
        if not train:
            return super().student(params, learner, batch, train=False)
        parent = super().student
        return jax.lax.cond(
            learner.n_old > 0,
            lambda: parent(params, learner, batch, train=False),
            lambda: parent(params, learner, batch, train=True),
        )

    def trainable(self, learner):
        is_first = (learner.n_old == 0).astype(jnp.float32)
        is_new = (jnp.arange(learner.means.shape[0]) >= learner.n_old).astype(jnp.float32)
        return {
            "backbone": jax.tree.map(lambda _: is_first, learner.weights.params["backbone"]),
            "head": {"kernel": is_new, "bias": is_new},
        }
