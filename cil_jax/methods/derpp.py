"""DER++ (Buzzega et al. 2020, https://arxiv.org/abs/2004.07211): dark experience replay.

Exemplars are kept with the logits that the network gave them at the time. Later networks must give
the same logits to them, and predict their labels.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult
from cil_jax.methods.two_streams import ReservoirReplay
from cil_jax.network import Output
from cil_jax.settings.declaring import NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class DarkExperienceReplay(ReservoirReplay):
    """Cross-entropy on new images, and two terms on exemplars drawn at random beside them.

        L = CE(new images) + alpha * mean of (z - stored z)^2 + beta * CE(exemplars)

    where z are the logits of exemplars, and the mean is over outputs that were open at the time.
    Each term has its own draw, as large as a batch of new images. A term of weight 0 draws nothing:
    with beta 0 this is DER, with alpha 0 experience replay. For experience replay as it is usually
    run, see `cil_jax.methods.er`.

    Attributes:
      alpha: weight of the squared difference from the stored logits.
      beta: weight of the cross-entropy on the labels of exemplars.
    """

    alpha: float = setting(
        0.3,
        "weight of the squared difference between the logits of exemplars and those stored with "
        "them; 0 for experience replay",
        bound=NOT_NEGATIVE,
    )
    beta: float = setting(
        0.5,
        "weight of the cross-entropy on the labels of exemplars; 0 for DER without ++",
        bound=NOT_NEGATIVE,
    )

    parts: ClassVar[tuple[str, ...]] = ("classification", "logits", "labels")

    @property
    def n_draws(self) -> int:
        return (self.alpha > 0) + (self.beta > 0)

    def extras(self, learner: Learner, output: Output) -> Params:
        """Returns the logits, zero in closed columns, and the number of open columns."""
        n_open = self.n_open(learner)
        is_open = jnp.arange(output.logits.shape[1]) < n_open
        return {
            "logits": jnp.where(is_open, output.logits, 0.0),
            "n_open": jnp.full(output.logits.shape[0], n_open, jnp.int32),
        }

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of new images alone."""
        output = self.student(params, learner, batch, train)
        loss, zero = losses.cross_entropy(output.logits, batch.labels), jnp.zeros(())
        return loss, ({"classification": loss, "logits": zero, "labels": zero}, output)

    def loss_with_exemplars(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the loss of new images and of the exemplars that follow them in the batch.

        Each part of the batch is normalised by itself, as in the authors' code.
        """
        parts, outputs, output = self.by_draw(params, learner, batch, train)
        classification = losses.cross_entropy(outputs[0].logits, parts[0].labels)
        logits = labels = jnp.zeros(())
        if self.alpha:
            stored = parts[1].extras
            logits = logit_difference(outputs[1].logits, stored["logits"], stored["n_open"])
        if self.beta:
            labels = losses.cross_entropy(outputs[-1].logits, parts[-1].labels)
        loss = classification + self.alpha * logits + self.beta * labels
        values = {"classification": classification, "logits": logits, "labels": labels}
        return loss, (values, output)


def logit_difference(logits: Array, stored: Array, n_open: Array) -> Array:
    """Computes the mean squared difference of logits, over columns that were open at the time.

    With outputs that are all open from the first task on, it is the mean over all columns.

    Args:
      logits: float [B, C], of the network in training.
      stored: float [B, C], of the network that stored them.
      n_open: int [B], number of columns that were open when the logits were stored.

    Returns:
      A scalar.
    """
    was_open = jnp.arange(logits.shape[1]) < n_open[:, None]
    squares = jnp.where(was_open, logits - stored, 0.0) ** 2
    return squares.sum() / jnp.maximum(was_open.sum(), 1)
