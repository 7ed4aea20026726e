"""LwM, learning without memorizing (Dhar et al. 2019, https://arxiv.org/abs/1811.08051).

LwF that also keeps where the network looks, as Grad-CAM shows it.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax.errors import UserError
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, zero_in_first_task
from cil_jax.methods.lwf import LwF
from cil_jax.network import Output
from cil_jax.selection import unit
from cil_jax.settings.declaring import NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class LwM(LwF):
    """The loss of LwF plus attention * mean over images of | Q / |Q|_2 - Q_old / |Q_old|_2 |_1.

    Q is the attention map of the network in training and Q_old that of the old network, for
    the old class that the old network predicts: Q = relu(sum over channels k of a_k A_k), with the
    maps A of the last stage. a_k is the mean over positions of the derivative of the class' logit
    by A_k (Grad-CAM, https://arxiv.org/abs/1610.02391). The loss is differentiated
    through both A and a.

    Attributes:
      attention: weight of the attention loss; 0 is LwF.
    """

    attention: float = setting(1.0, "weight of the attention loss", bound=NOT_NEGATIVE)

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation", "attention")

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train, maps=True)
        old = self.teacher(learner, batch, maps=True)
        loss, (parts, _) = self.of_output(learner, batch, output, old)
        predicted = old.logits.argmax(axis=1)
        new_map = self.attention_map(params["head"], output, predicted)
        old_map = self.attention_map(learner.teacher.params["head"], old, predicted)
        change = jnp.abs(new_map - jax.lax.stop_gradient(old_map)).sum(axis=1).mean()
        change = zero_in_first_task(learner, change)
        return loss + self.attention * change, ({**parts, "attention": change}, output)

    def attention_map(self, head: Params, output: Output, labels: Array) -> Array:
        """Computes the attention map of each image for a class, of length 1; [B, positions].

        Args:
          head: the parameters of the head.
          output: of a network that was asked for its maps.
          labels: int [B], the classes.

        Raises:
          UserError: if the features are not the means of the last recorded map over its positions.
        """
        names = [name for name in output.maps if not name.endswith("_before_relu")]
        last = output.maps[max(names)].astype(jnp.float32) if names else None
        if last is None or last.ndim != 4 or last.shape[3] != output.features.shape[1]:
            raise UserError(
                "LwM needs a backbone that records its last maps [B, H, W, D], whose mean over the "
                'positions are the features, by self.sow("intermediates", NAME, maps)'
            )

        def logits_of_labels(maps: Array) -> Array:
            n_columns = output.logits.shape[1]  # closed ones are not asked for
            logits = self.network.head.logits(head, maps.mean(axis=(1, 2)), n_columns)
            return jnp.take_along_axis(logits, labels[:, None], axis=1).sum()

        importance = jax.grad(logits_of_labels)(last).mean(axis=(1, 2))
        attention = jax.nn.relu(jnp.einsum("bhwk,bk->bhw", last, importance))
        return unit(attention.reshape(len(labels), -1))
