"""Joint training: all classes seen so far at once, from a new network. The upper bound."""

import dataclasses
from typing import ClassVar

from cil_jax.learner import Learner
from cil_jax.methods.classification import Classification
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Joint(Classification):
    """Trains on all images of all classes seen, which an incremental learner must not keep."""

    keeps_all_data: ClassVar[bool] = True

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        learner = super().begin_task(learner, n_new, key)
        return learner.replace(weights=self.new_weights(learner, key))
