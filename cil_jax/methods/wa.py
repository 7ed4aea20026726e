"""WA, weight aligning (Zhao et al. 2020, https://arxiv.org/abs/1911.07053).

Trained on few old and many new images, a head gets longer weight vectors for new classes and
prefers them. After each task, those of the new classes are shortened to the mean length of the old
ones.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, with_head
from cil_jax.methods.plan import Do, Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.settings.declaring import POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class WA(Rehearsal):
    """Cross-entropy and distillation on new images and exemplars, then weight aligning.

        L = (1 - n_old / n_seen) * CE(z, y) + n_old / n_seen * D_T(z, old z)

    D_T distils the old outputs, and its weight is the share of the old classes. Then the weight
    vectors of new classes are multiplied by mean |w_old| / mean |w_new|.

    Attributes:
      temperature: of both softmaxes in the distillation.
      clip_weights: whether no weight of the head may be negative, as in the paper. Then a long
        weight vector means high logits, since the features are not negative either.
    """

    temperature: float = setting(2.0, "temperature of the distillation", bound=POSITIVE)
    clip_weights: bool = setting(
        False, "set negative weights of the outputs to zero after each update"
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    def plan(self, is_first: bool) -> Plan:
        return (Train(), Keep()) if is_first else (Train(), Do(self.align), Keep())

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        old = self.teacher(learner, batch).logits
        loss, parts = losses.by_shares(
            output.logits, batch.labels, old, learner.n_old, learner.n_seen, self.temperature
        )
        return loss, (parts, output)

    def updated(self, before: Learner, learner: Learner, grads: Params) -> Learner:
        if not self.clip_weights:
            return learner
        head = learner.weights.params["head"]
        return with_head(learner, {**head, "kernel": jnp.maximum(head["kernel"], 0.0)})

    def align(self, learner: Learner, key: Key) -> Learner:
        """Aligns the weights of the new classes; see `aligned`."""
        head = learner.weights.params["head"]
        return with_head(learner, aligned(head, learner.n_old, learner.n_seen))


def aligned(head: Params, n_old: int | Array, n_seen: int | Array) -> Params:
    """Scales the weight vectors of new classes to the mean length of those of old classes.

    Zhao et al. 2020, eq. 6 to 8. Biases stay as they are. To repeat it changes nothing.

    Args:
      head: its "kernel" is float [D, room].
      n_old, n_seen: columns n_old .. n_seen - 1 are new; those below are old. There must be both.
    """
    kernel = head["kernel"]
    column = jnp.arange(kernel.shape[1])
    is_old, is_new = column < n_old, (column >= n_old) & (column < n_seen)
    lengths = jnp.linalg.norm(kernel, axis=0)
    ratio = lengths.mean(where=is_old) / lengths.mean(where=is_new)
    return {**head, "kernel": jnp.where(is_new, ratio * kernel, kernel)}
