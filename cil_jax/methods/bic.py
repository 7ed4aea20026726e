"""BiC, bias correction (Wu et al. 2019, https://arxiv.org/abs/1905.13260).

Trained on few old and many new images, a head prefers new classes. A second training, on images
held out from the first, fits two numbers that correct the outputs of the newest task.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax.learner import Learner
from cil_jax.memory import Pool
from cil_jax.methods.base import Batch, Classifier, LossResult, all_factors
from cil_jax.methods.plan import Keep, Plan, Train
from cil_jax.methods.rehearsal import Rehearsal
from cil_jax.network import Weights
from cil_jax.schedules import Schedule
from cil_jax.settings.declaring import BETWEEN_0_AND_1, COUNT, POSITIVE, setting
from cil_jax.typing import Array, ImageShape, Key, Params


@dataclasses.dataclass(frozen=True)
class BiC(Rehearsal):
    """Cross-entropy and distillation, then a linear correction of the newest task's outputs.

        L = (1 - n_old / n_seen) * CE(q, y) + n_old / n_seen * D_T(q, old q)

    where q are the corrected outputs, scale * z + shift, and D_T distils the old ones. Then the
    scale and shift of the newest task alone are trained by CE(q, y) on held-out images.

    The parameters "correction" have a "scale" and a "shift" for each task, float [n_tasks]: 1 and 0
    in the first task, fitted at the end of later ones, and then in force, also in the teacher.

    Attributes:
      temperature: of both softmaxes in the distillation.
      held_out: fraction of the exemplars that is held out for the second training, with as many
        images of each new class as of each old class, and at least one.
      correction_epochs: passes over the held-out images; None for as many as in the first training.
      rate, rate_steps, rate_factor, weight_decay, rate_shape: the settings of the first training,
        which also hold for the second.
    """

    temperature: float = setting(2.0, "temperature of the distillation", bound=POSITIVE)
    held_out: float = setting(
        0.1, "fraction of the exemplars held out to fit the correction", bound=BETWEEN_0_AND_1
    )
    correction_epochs: int | None = setting(
        None, "epochs in which the correction is fitted (default: --epochs)", bound=COUNT
    )
    rate: float = dataclasses.field(default=0.1, kw_only=True)
    rate_steps: tuple[float, ...] = dataclasses.field(default=(), kw_only=True)
    rate_factor: float = dataclasses.field(default=1.0, kw_only=True)
    weight_decay: float = dataclasses.field(default=0.0, kw_only=True)
    rate_shape: str = dataclasses.field(default="steps", kw_only=True)

    parts: ClassVar[tuple[str, ...]] = ("classification", "distillation")

    def initial_weights(self, image_shape: ImageShape, n_classes: int, key: Key) -> Weights:
        weights = super().initial_weights(image_shape, n_classes, key)
        none = {"scale": jnp.ones(self.n_tasks), "shift": jnp.zeros(self.n_tasks)}
        return weights.replace(params={**weights.params, "correction": none})

    def plan(self, is_first: bool) -> Plan:
        if is_first:
            return (Train(), Keep())
        rates = self.rate, self.rate_steps, self.rate_factor, self.weight_decay, self.rate_shape
        epochs = self.correction_epochs
        schedule = Schedule(epochs, *rates) if epochs is not None else None
        correction = Train(
            "correction",
            self.correction_loss,
            ("classification",),
            self.is_held_out,
            trainable=self.newest_correction,
            schedule=schedule,
        )
        return (Train(rows=self.is_not_held_out), correction, Keep())

    # The first training.

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        output = self.student(params, learner, batch, train)
        output = output.replace(logits=corrected(params, learner.task_of, output.logits))
        old = self.teacher(learner, batch).logits
        old = corrected(learner.teacher.params, learner.task_of, old)
        loss, parts = losses.by_shares(
            output.logits, batch.labels, old, learner.n_old, learner.n_seen, self.temperature
        )
        return loss, (parts, output)

    def trainable(self, learner: Learner) -> Params:
        """Trains everything except the corrections."""
        params = learner.weights.params
        return {**all_factors(params, 1.0), "correction": all_factors(params["correction"], 0.0)}

    # The second training.

    def correction_loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> LossResult:
        """Computes the cross-entropy of the corrected outputs, with the network as it is."""
        output = self.student(params, learner, batch, train=False)
        output = output.replace(logits=corrected(params, learner.task_of, output.logits))
        loss = losses.cross_entropy(output.logits, batch.labels)
        return loss, ({"classification": loss}, output)

    def newest_correction(self, learner: Learner) -> Params:
        """Trains the correction of the newest task alone."""
        newest = 1.0 * (jnp.arange(self.n_tasks) == learner.task)
        correction = {"scale": newest, "shift": newest}
        return {**all_factors(learner.weights.params, 0.0), "correction": correction}

    def is_held_out(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks the images of the second training: equally many of each class, at random."""
        share = self.held_out * (self.per_class or self.memory)
        n_held_out = jnp.floor(share if self.per_class else share / learner.n_old).clip(min=1)
        return (pool.labels >= 0) & (pool.random_ranks(key) < n_held_out)

    def is_not_held_out(self, learner: Learner, pool: Pool, key: Key) -> Array:
        """Marks the images of the first training: all others."""
        return ~self.is_held_out(learner, pool, key)

    # Predictions.

    def linear(self, learner: Learner, features: Array) -> Array:
        logits = self.uncorrected(learner, features)
        return corrected(learner.weights.params, learner.task_of, logits)

    def uncorrected(self, learner: Learner, features: Array) -> Array:
        """Scores features by the outputs before their correction."""
        return super().linear(learner, features)

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns "nme", "linear" and "uncorrected", the method's prediction first."""
        return {**super().classifiers(), "uncorrected": self.uncorrected}


def corrected(params: Params, task_of: Array, logits: Array) -> Array:
    """Corrects logits [B, room]: open columns of task t become scale[t] * logits + shift[t].

    Args:
      params: the parameters of the network that has computed the logits.
      task_of: int [room], the task of each class; negative for a class that no task has brought.
    """
    scale, shift = (params["correction"][name][task_of.clip(min=0)] for name in ("scale", "shift"))
    return jnp.where(logits == heads.CLOSED, logits, scale * logits + shift)
