"""FeTrIL, feature translation (Petit et al. 2023, https://arxiv.org/abs/2211.13131).

The network is frozen after the first task, and an old class is remembered by its mean. The features
of new images, moved to the mean of an old class, stand for the images of that class.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, LossResult, head_alone, with_head
from cil_jax.methods.classification import Classification
from cil_jax.methods.plan import Do, Plan, Train
from cil_jax.methods.prototypes import Prototypes
from cil_jax.schedules import Schedule
from cil_jax.selection import EXACT, unit
from cil_jax.settings.declaring import COUNT, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class FeTrIL(Prototypes, Classification):
    """Trains a new linear classifier on new features and on translated ones, which stand for old.

        f_o = f(x) + m_o - m_n                                                   (eq. 1)

    is a pseudo-feature of the old class o, for each image x of the new class n whose mean m_n has
    the largest cosine to m_o. So each old class has as many pseudo-features as its new class has
    images, and all count alike in the cross-entropy.

    Attributes:
      head_epochs, head_rate: epochs of the classifier in later tasks, and the rate from which it
        falls to zero along a cosine.
    """

    head_epochs: int = setting(50, "epochs of the classifier of later tasks", bound=COUNT)
    head_rate: float = setting(
        0.05, "learning rate of that classifier in its first epoch", bound=POSITIVE
    )
    weight_decay: float = dataclasses.field(default=0.0, kw_only=True)

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), self.describe)
        schedule = Schedule(self.head_epochs, self.head_rate, (), 1.0, self.weight_decay, "cosine")
        train = Train(
            "head", self.loss_of_head, trainable=head_alone, augmented=False, schedule=schedule
        )
        return (self.describe, Do(self.with_new_head), train)

    def with_new_head(self, learner: Learner, key: Key) -> Learner:
        head = learner.weights.params["head"]
        return with_head(learner, self.network.head.grow(head, 0, self.n_open(learner), key))

    def loss_of_head(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the mean cross-entropy over new features and their translations."""
        del train  # the backbone stays in evaluation mode
        output = self.student(params, learner, batch, train=False)
        is_pair = translations(learner.own["means"], batch.labels, learner.n_old, learner.n_seen)
        # A linear head of a moved feature: the outputs of the feature, plus those of the move.
        kernel, means = params["head"]["kernel"], learner.own["means"]
        of_means = jnp.matmul(means, kernel, precision=EXACT)
        moves = of_means[None] - of_means[batch.labels][:, None]  # [B, old class, output]
        log_p = jax.nn.log_softmax(output.logits[:, None] + moves)
        of_pairs = jnp.diagonal(log_p, axis1=1, axis2=2)  # at the output of the old class itself
        of_new = jax.nn.log_softmax(output.logits)[jnp.arange(len(batch.labels)), batch.labels]
        total = of_new.sum() + jnp.where(is_pair, of_pairs, 0.0).sum()
        loss = -total / (len(batch.labels) + is_pair.sum())
        return loss, ({"classification": loss}, output)


def translations(means: Array, labels: Array, n_old: int | Array, n_seen: int | Array) -> Array:
    """Marks which old classes the features of an image are moved to.

    Args:
      means: float [room, D], of the classes.
      labels: int [B], the new classes of the images.
      n_old, n_seen: classes n_old .. n_seen - 1 are new; those below are old.

    Returns:
      bool [B, room], whether the image is of the new class nearest to the old class.
    """
    cosines = jnp.matmul(unit(means), unit(means).T, precision=EXACT)
    nearest = heads.restrict(cosines, n_old, n_seen).argmax(axis=1)
    is_old = jnp.arange(len(means)) < n_old
    return (nearest[None] == labels[:, None]) & is_old
