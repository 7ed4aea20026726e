"""ER-ACE (Caccia et al. 2022, https://arxiv.org/abs/2104.05025): asymmetric cross-entropy.

In plain experience replay, the new images push down the outputs of old classes, and features that
served the old classes drift. Here they don't: their loss leaves the old outputs out, and exemplars
alone teach the network to tell old classes from new ones.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.two_streams import ReservoirReplay
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class ERACE(ReservoirReplay):
    """Two cross-entropies, added: of new images over some outputs, of exemplars over all.

        L = CE(new images; some outputs) + CE(exemplars; all open outputs)

    The outputs for new images are those of the classes in the batch and of classes not yet seen,
    which are open only if `outputs` is "fixed". The classes of a task count as seen from its first
    update on. In the first task, the loss is plain cross-entropy.
    """

    parts: ClassVar[tuple[str, ...]] = ("new", "exemplars")

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of new images alone, over all open outputs."""
        output = self.student(params, learner, batch, train)
        loss = losses.cross_entropy(output.logits, batch.labels)
        return loss, ({"new": loss, "exemplars": jnp.zeros(())}, output)

    def loss_with_exemplars(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of new images and of the exemplars that follow them in the batch.

        Each part of the batch is normalised by itself, as in the authors' code.
        """
        (new, exemplars), (of_new, of_exemplars), output = self.by_draw(
            params, learner, batch, train
        )
        logits = without_absent(of_new.logits, new.labels, learner.n_seen)
        parts = {
            "new": losses.cross_entropy(logits, new.labels),
            "exemplars": losses.cross_entropy(of_exemplars.logits, exemplars.labels),
        }
        return parts["new"] + parts["exemplars"], (parts, output)


def without_absent(logits: Array, labels: Array, n_seen: int | Array) -> Array:
    """Closes the outputs of seen classes of which the batch has no image.

    Caccia et al. 2022, section 4. The outputs of classes in the batch, and of those not yet seen,
    stay as they are.

    Args:
      logits: float [B, C].
      labels: int [B], each in 0..C-1.
      n_seen: classes 0 .. n_seen - 1 have been seen.

    Returns:
      float [B, C].
    """
    column = jnp.arange(logits.shape[1])
    is_present = (labels[:, None] == column).any(axis=0)
    return jnp.where(is_present | (column >= n_seen), logits, heads.CLOSED)
