"""What a method is: a frozen dataclass of hyper-parameters, and four pure hooks.

A new method is one file with a subclass, one line in `cil_jax.methods.METHODS`, and a passing
`tests/test_method_contract.py`. The engine compiles the hooks; a method has no loop, no jit and no
file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax import struct

from cil_jax import heads
from cil_jax.learner import Learner, Output, Weights, forward
from cil_jax.memory import Pool
from cil_jax.typing import Array, Key, Params

Classifier = Callable[[Learner, Array], Array]  # (learner, features [B, D]) -> scores [B, room]


@struct.dataclass
class Batch:
    """Images as the network sees them, float [B, H, W, C], and labels int32 [B]."""

    images: Array
    labels: Array


@dataclasses.dataclass(frozen=True)
class Method:
    """The hooks, with what every method does unless it says otherwise.

    Fields of a subclass that have the name of a setting are filled from it.

    Attributes:
      backbone: the Linen module that makes features.
      headline: the classifier that the method answers with.
      parts: the names of the loss' parts.
    """

    backbone: nn.Module

    headline: ClassVar[str] = "linear"
    parts: ClassVar[tuple[str, ...]] = ()

    @property
    def memory_size(self) -> int | None:
        """Exemplars kept, over all classes; None for a method that keeps none."""
        return None

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Before training: freezes the network as teacher and opens n_new head columns."""
        params = dict(learner.weights.params)
        params["head"] = heads.grow(params["head"], learner.n_seen, n_new, key)
        return learner.replace(
            weights=learner.weights.replace(params=params),
            teacher=learner.weights,
            n_old=learner.n_seen,
            n_seen=learner.n_seen + n_new,
        )

    def loss(
        self, params: Params, learner: Learner, batch: Batch, key: Key, train: bool = True
    ) -> tuple[Array, tuple[Mapping[str, Array], Output]]:
        """The loss of a batch, by which params are updated.

        Args:
          params: what is differentiated, of the form of learner.weights.params.
          learner: everything else, teacher and counts included.
          batch: augmented images while training, plain ones in evaluation.
          key: a random key of this step, for a loss that draws.
          train: whether the network runs in training mode. The teacher never does.

        Returns:
          A scalar; its parts, named as in `parts`; and what the network said.
        """
        raise TypeError(f"{type(self).__name__} has no loss")

    def end_task(self, learner: Learner, pool: Pool, key: Key) -> Learner:
        """After training: keeps exemplars, estimates importances, corrects bias, or nothing."""
        del pool, key
        return learner

    def classifiers(self) -> Mapping[str, Classifier]:
        """Score functions by name. All are reported."""
        return {"linear": linear}

    def student(self, params: Params, learner: Learner, batch: Batch, train: bool) -> Output:
        """What the network that learns says of a batch."""
        weights = Weights(params, learner.weights.batch_stats)
        return forward(self.backbone, weights, batch.images, learner.n_seen, train=train)

    def teacher(self, learner: Learner, batch: Batch) -> Output:
        """What the network of the task before says of a batch, in evaluation mode."""
        return forward(self.backbone, learner.teacher, batch.images, learner.n_old)


def linear(learner: Learner, features: Array) -> Array:
    """The outputs of the head. The literature calls its argmax 'CNN'."""
    return heads.logits(learner.weights.params["head"], features, learner.n_seen)


def when_there_is_a_past(learner: Learner, value: Array) -> Array:
    """The value, and zero in the first task, when there is no teacher yet."""
    return jnp.where(learner.n_old > 0, value, 0.0)
