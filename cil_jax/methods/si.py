"""SI, synaptic intelligence (Zenke et al. 2017, https://arxiv.org/abs/1703.04200).

The importance of a weight is what it has contributed to the fall of the loss, on its way.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cil_jax.learner import Learner
from cil_jax.methods.penalty import WeightPenalty
from cil_jax.methods.plan import Do, Plan, Train
from cil_jax.settings.declaring import POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class SI(WeightPenalty):
    """Cross-entropy of new images plus c * sum of O * (weights - anchor)^2 (eq. 4); c is lambda.

    In training, w -= g * (change of the weight) after each update, where g is the gradient of the
    cross-entropy alone (eq. 3). At the end of a task, O += w / ((weights - anchor)^2 + damping)
    (eq. 5). The anchor is the weights at the beginning of the task, and w starts at 0 there. The
    change is that of the whole update, with momentum and weight decay, and O may be negative, as in
    the paper.

    Attributes:
      damping: xi, keeps the quotient finite where a weight has hardly moved.
    """

    damping: float = setting(0.1, "xi, added to the squared change of a weight", bound=POSITIVE)

    def own(self, learner: Learner) -> Params:
        own = super().own(learner)
        return {**own, "path": own["anchor"]}

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        learner = super().begin_task(learner, n_new, key)
        path = jax.tree.map(jnp.zeros_like, learner.own["path"])
        own = {**learner.own, "anchor": learner.weights.params, "path": path}
        return learner.replace(own=own)

    def plan(self, is_first: bool) -> Plan:
        return (Train(), Do(self.consolidated))

    def updated(self, before: Learner, learner: Learner, grads: Params) -> Learner:
        """Adds the part of each weight in the fall of the cross-entropy to "path"."""
        own = before.own

        def longer(path: Array, grad: Array, old: Array, new: Array, o: Array, a: Array) -> Array:
            # The gradient is that of the whole loss; take that of the penalty out.
            return path - (grad - 2.0 * self.strength * o * (old - a)) * (new - old)

        params = before.weights.params, learner.weights.params
        trees = own["path"], grads, *params, own["importance"], own["anchor"]
        return learner.replace(own={**own, "path": jax.tree.map(longer, *trees)})

    def consolidated(self, learner: Learner, key: Key) -> Learner:
        """Computes the importance at the end of a task."""
        own = learner.own

        def plus(o: Array, path: Array, now: Array, anchor: Array) -> Array:
            return o + path / ((now - anchor) ** 2 + self.damping)

        trees = own["importance"], own["path"], learner.weights.params, own["anchor"]
        return learner.replace(own={**own, "importance": jax.tree.map(plus, *trees)})
