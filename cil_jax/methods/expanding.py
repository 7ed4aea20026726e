"""What methods share that add a backbone in each task, and read the features of several."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from cil_jax import heads
from cil_jax.learner import Learner
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.network import Network, Weights
from cil_jax.typing import Array, ImageShape, Key, Params

AUXILIARY = heads.Linear()  # reads the newest features alone


@dataclasses.dataclass(frozen=True)
class Expanding(Rehearsal):
    """Freezes the trained backbone when a task begins, and goes on with a copy of it.

    The head reads the features of all backbones. The parameters "auxiliary" are a second head, for
    the features of the newest backbone by themselves, which is drawn again in each task.
    """

    @property
    def slots(self) -> int:
        """The number of backbones that there is room for."""
        # With one slot it could never be taught a second task: nothing would be frozen.
        return max(2, self.n_tasks)

    @property
    def network(self) -> Network:
        return Network(self.backbone, slots=self.slots)

    @property
    def auxiliary_room(self) -> int:
        """The number of outputs of the auxiliary head that there is room for."""
        return self.n_classes

    def n_auxiliary(self, learner: Learner) -> Array:
        """Returns the number of outputs of the auxiliary head in this task, int32 []."""
        return learner.n_seen

    def initial_weights(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        weights = super().initial_weights(image_shape, n_classes, key)
        n_features = self.network.features_per_backbone(image_shape)
        auxiliary = AUXILIARY.create(n_features, self.auxiliary_room)
        return weights.replace(params={**weights.params, "auxiliary": auxiliary})

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Freezes the newest backbone, except in the first task, and grows the head."""
        head_key, auxiliary_key = jax.random.split(key)
        after = super().begin_task(learner, n_new, head_key)
        weights = lax.cond(
            learner.n_seen > 0, self.network.expand, lambda weights: weights, after.weights
        )
        head = self.grown(weights, self.n_open(learner), self.n_open(after), head_key)
        n_outputs = self.n_auxiliary(after)
        auxiliary = AUXILIARY.grow(weights.params["auxiliary"], 0, n_outputs, auxiliary_key)
        params = {**weights.params, "head": head, "auxiliary": auxiliary}
        return after.replace(weights=weights.replace(params=params))

    def grown(self, weights: Weights, n_open: Array, n_open_after: Array, key: Key) -> Params:
        """Draws the weights of new columns and features, uniform in +-1/sqrt(features in use)."""
        head = weights.params["head"]
        n_features, room = head["kernel"].shape
        in_use, newest = self.network.is_row_in_use(weights, n_features)
        fresh = self.network.head.grow(head, 0, n_open_after, key)
        scale = jnp.sqrt(n_features / in_use.sum())  # the bound is for the features of all slots
        is_new = jnp.arange(room) >= n_open
        kernel = jnp.where(is_new | newest[:, None], scale * fresh["kernel"], head["kernel"])
        bias = jnp.where(is_new, scale * fresh["bias"], head["bias"])
        return {"kernel": jnp.where(in_use[:, None], kernel, 0.0), "bias": bias}
