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
from cil_jax.classifiers import PROBABILITY, Scale
from cil_jax.config import Config
from cil_jax.learner import SPARE, Learner, Output, Weights, forward
from cil_jax.memory import Memory, Pool
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
      outputs: "growing" for columns that open when their classes come, "fixed" for all columns
        open from the first task on. Only classes seen are answered in either case.
      headline: the classifier that the method answers with.
      parts: the names of the loss' parts.
      keeps_all_data: whether every task's pool holds the images of all tasks before it. No
        incremental learner may have that; a bound to compare with does.
    """

    backbone: nn.Module
    outputs: str = dataclasses.field(default="growing", kw_only=True)

    headline: ClassVar[str] = "linear"
    parts: ClassVar[tuple[str, ...]] = ()
    keeps_all_data: ClassVar[bool] = False

    @property
    def memory_size(self) -> int | None:
        """Exemplars kept, over all classes; None for a method that keeps none."""
        return None

    @classmethod
    def idle(cls, config: Config) -> set[str]:
        """Fields of a config that other fields leave without effect on this method."""
        del config
        return set()

    def begin_task(self, learner: Learner, n_new: Array, key: Key) -> Learner:
        """Before training: freezes the network as teacher and opens the head columns of n_new."""
        n_old, n_seen = learner.n_seen, learner.n_seen + n_new
        column = jnp.arange(learner.task_of.shape[0])
        is_new = (column >= n_old) & (column < n_seen)
        after = learner.replace(
            teacher=learner.weights,
            n_old=n_old,
            n_seen=n_seen,
            task_of=jnp.where(is_new, learner.task, learner.task_of),
        )
        n_open = self.n_open(learner)
        params = dict(learner.weights.params)
        params["head"] = heads.grow(params["head"], n_open, self.n_open(after) - n_open, key)
        return after.replace(weights=learner.weights.replace(params=params))

    def n_open(self, learner: Learner) -> Array:
        """How many head columns are open: int32 []."""
        if self.outputs == "growing":
            return learner.n_seen
        return jnp.where(learner.n_seen > 0, (learner.task_of != SPARE).sum(), 0)

    def trainable(self, learner: Learner) -> Params | None:
        """What updates are multiplied by, of the form of params; None where all may move."""
        del learner

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

    # A method with a memory does the same in two parts as well, for images that stay on the host.

    @property
    def selects_by_features(self) -> bool:
        """Whether `select` looks at features."""
        return False

    def select(
        self, learner: Learner, pool: Pool, features: Array | None, key: Key
    ) -> tuple[Memory, Array]:
        """Which new images are kept, by the features [N, D] of all of them.

        Args:
          learner: after training on the task.
          pool: what it trained on; its images may be missing.
          features: of the pool's new rows, or None if `selects_by_features` is false.
          key: a random key.

        Returns:
          As `cil_jax.memory.shared_out`.
        """
        raise TypeError(f"{type(self).__name__} keeps no exemplars")

    def keep(self, learner: Learner, after: Memory, new_images: Array) -> Learner:
        """Takes what `select` asked for, uint8 [room, H, W, C], into the memory."""
        raise TypeError(f"{type(self).__name__} keeps no exemplars")

    def classifiers(self) -> Mapping[str, Classifier]:
        """Score functions by name. All are reported."""
        return {"linear": linear}

    def scale(self, classifier: str) -> Scale:
        """How the scores of a classifier are shown to people."""
        del classifier
        return PROBABILITY

    def student(self, params: Params, learner: Learner, batch: Batch, train: bool) -> Output:
        """What the network that learns says of a batch."""
        weights = Weights(params, learner.weights.batch_stats)
        return forward(self.backbone, weights, batch.images, self.n_open(learner), train=train)

    def teacher(self, learner: Learner, batch: Batch) -> Output:
        """What the network of the task before says of a batch, in evaluation mode."""
        return forward(self.backbone, learner.teacher, batch.images, learner.n_old)


def linear(learner: Learner, features: Array) -> Array:
    """The outputs of the head. The literature calls its argmax 'CNN'."""
    return heads.logits(learner.weights.params["head"], features, learner.n_seen)


def when_there_is_a_past(learner: Learner, value: Array) -> Array:
    """The value, and zero in the first task, when there is no teacher yet."""
    return jnp.where(learner.n_old > 0, value, 0.0)
