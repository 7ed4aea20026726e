"""Replay for memories that are small: adjusted outputs, then a second training of the head.

Old classes have few images in the pool, so plain replay learns to answer with new classes. Here the
loss takes the frequency of the classes into account (logit adjustment, Menon et al. 2021,
https://arxiv.org/abs/2007.07314), and the head is then trained once more on equally many images of
each class.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import losses
from cil_jax.learner import Learner
from cil_jax.memory import Pool
from cil_jax.methods.base import Batch, LossResult, head_alone
from cil_jax.methods.plan import Fold, Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import COUNT, NOT_NEGATIVE, POSITIVE, setting
from cil_jax.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class AdjustedReplay(Rehearsal):
    """Replay with logit adjustment, and a second training of the head on balanced images."""

    # Hyper-parameters: each is a flag, a key of presets and an entry in config.yaml.
    strength: float = setting(1.0, "strength of the logit adjustment", bound=NOT_NEGATIVE)
    head_epochs: int = setting(5, "epochs of the second training, of the head", bound=COUNT)
    head_rate: float = setting(0.01, "learning rate of the second training", bound=POSITIVE)

    parts: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    # State: the number of images of each class in the pool.
    def own(self, learner: Learner) -> Params:
        return {"counts": jnp.zeros(learner.task_of.shape[0])}

    # The steps of a task: count, train, train the head on balanced images, keep exemplars.
    def plan(self, is_first: bool) -> Plan:
        count = Fold(self.no_counts, self.add_counts, self.set_counts, source="pool")
        if is_first:
            return count, Train(), Keep()
        # Rates are per update; the rate falls by a factor of 10 after half of the epochs.
        schedule = Schedule(self.head_epochs, self.head_rate, (0.5,), 10.0, weight_decay=0.0)
        head = Train(
            "head",
            loss=self.balanced_loss,
            rows=self.balanced_rows,
            trainable=head_alone,
            schedule=schedule,
        )
        return count, Train(), head, Keep()

    def no_counts(self, learner: Learner) -> Array:
        return jnp.zeros_like(learner.own["counts"])

    def add_counts(self, learner: Learner, counts: Array, batch: Batch) -> Array:
        # A row without an image has the label -1, which gives no 1.
        return counts + jax.nn.one_hot(batch.labels, counts.shape[0]).sum(axis=0)

    def set_counts(self, learner: Learner, counts: Array, key: Key) -> Learner:
        return learner.replace(own={"counts": counts})

    # The loss of the first training.
    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        frequency = jnp.maximum(learner.own["counts"], 1.0)
        adjusted = output.logits + self.strength * jnp.log(frequency)
        cross_entropy = losses.cross_entropy(adjusted, batch.labels)
        return cross_entropy, ({"cross_entropy": cross_entropy}, output)

    # The second training: the head alone, on equally many images of each class.
    def balanced_loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        del key, train  # the backbone is frozen, so it stays in evaluation mode
        output = self.student(params, learner, batch, train=False)
        cross_entropy = losses.cross_entropy(output.logits, batch.labels)
        return cross_entropy, ({"cross_entropy": cross_entropy}, output)

    def balanced_rows(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks all exemplars, and as many random images of each new class as an old one has."""
        share = self.memory // jnp.maximum(learner.n_old, 1)
        is_old = pool.labels < learner.n_old
        place = jax.random.uniform(key, pool.labels.shape)
        in_order = jnp.lexsort((place, pool.labels))  # by class, at random within a class
        sorted_labels = pool.labels[in_order]
        rank = jnp.arange(len(in_order)) - jnp.searchsorted(sorted_labels, sorted_labels)
        is_among_first = jnp.zeros(len(in_order), bool).at[in_order].set(rank < share)
        return is_old | is_among_first
