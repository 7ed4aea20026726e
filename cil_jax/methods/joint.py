"""Joint training: all classes seen so far at once, from a fresh network. The upper bound."""

import dataclasses
from typing import ClassVar

import jax

from cil_jax import heads
from cil_jax.learner import initial_weights
from cil_jax.methods.finetune import Finetune


@dataclasses.dataclass(frozen=True)
class Joint(Finetune):
    """The labels of all images of all classes seen so far: no incremental learner may do this."""

    keeps_all_data: ClassVar = True

    def begin_task(self, learner, n_new, key):
        learner = super().begin_task(learner, n_new, key)
        backbone_key, head_key = jax.random.split(key)
        room = learner.means.shape[0]
        fresh = initial_weights(self.backbone, learner.image_shape, room, backbone_key)
        head = heads.grow(fresh.params["head"], 0, self.n_open(learner), head_key)
        return learner.replace(weights=fresh.replace(params={**fresh.params, "head": head}))
