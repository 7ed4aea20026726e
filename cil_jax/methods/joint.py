"""Joint training: all classes seen so far at once, from a new network. The upper bound."""

import dataclasses
from typing import ClassVar

import jax

from cil_jax.learner import Learner
from cil_jax.methods.classification import Classification
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Joint(Classification):
    """Trains on all images of all classes seen, which an incremental learner must not keep."""

    keeps_all_data: ClassVar[bool] = True

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        learner = super().begin_task(learner, n_new, key)
        backbone_key, head_key = jax.random.split(key)
        room = learner.means.shape[0]
        initial = self.initial_weights(learner.image_shape, room, backbone_key)
        params = dict(initial.params)
        params["head"] = self.network.head.grow(params["head"], 0, self.n_open(learner), head_key)
        return learner.replace(weights=initial.replace(params=params))
