"""From features to classes: the linear head, and the nearest mean of exemplars.

A classifier scores features against classes; the class with the highest score is its answer.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from cil_jax import heads
from cil_jax.selection import EXACT, unit
from cil_jax.typing import Array


class Scale(NamedTuple):
    """How the scores of a classifier are shown to people; the order of classes stays as it is.

    Attributes:
      meaning: what they are then.
      of: scores [B, C], CLOSED for classes not seen, to what is shown.
    """

    meaning: str
    of: Callable[[Array], Array]


PROBABILITY = Scale("probability, over all classes known", jax.nn.softmax)
PROBABILITY_EACH = Scale("probability of each class by itself", jax.nn.sigmoid)
# Of features and means of length 1, minus the squared distance is 2 cos - 2.
COSINE = Scale("cosine to the mean of the class' exemplars", lambda scores: 1.0 + scores / 2.0)


def nearest_mean(features: Array, means: Array) -> Array:
    """The class whose mean is nearest, in Euclidean distance.

    Rebuffi et al., "iCaRL" (2017), Algorithm 1, https://arxiv.org/abs/1611.07725. With means of
    unit length, as iCaRL has them, the answer does not depend on the length of the features.

    Args:
      features: float [B, D].
      means: float [C, D].

    Returns:
      int [B]: the labels, each in 0..C-1; of equally near means the first.
    """
    return jnp.argmax(negative_distances(features, means), axis=1)


def negative_distances(features: Array, means: Array) -> Array:
    """Scores [B, C]: minus the squared Euclidean distance of features [B, D] to means [C, D]."""
    chex.assert_rank([features, means], 2)
    chex.assert_equal_shape_suffix([features, means], 1)
    product = jnp.matmul(features, means.T, precision=EXACT)
    return 2.0 * product - jnp.sum(features**2, 1, keepdims=True) - jnp.sum(means**2, 1)


def nearest_class_mean(features: Array, means: Array, n_seen: int | Array) -> Array:
    """Scores [B, C] of features [B, D] of any length by the nearest of the means [C, D] seen.

    Classes from n_seen on are CLOSED. With the means of exemplars this is iCaRL's NME; with those
    of all training data, the NCM that it is compared to.
    """
    return heads.restrict(negative_distances(unit(features), means), 0, n_seen)


def class_means(features: Array, labels: Array, n_classes: int) -> Array:
    """The mean of each class' unit-length features, brought to unit length again.

    Args:
      features: float [N, D], of any scale.
      labels: int [N]; rows with a negative label are left out.
      n_classes: C.

    Returns:
      float [C, D]; zero for a class without rows.
    """
    return unit(class_sums(features, labels, n_classes))


def class_sums(features: Array, labels: Array, n_classes: int) -> Array:
    """The sum of each class' unit-length features, as for `class_means`."""
    chex.assert_rank([features, labels], [2, 1])
    member = jax.nn.one_hot(labels, n_classes, axis=0)  # a negative label belongs nowhere
    return jnp.matmul(member, unit(features), precision=EXACT)


@struct.dataclass
class Counts:
    """Right and wrong answers of a classifier.

    Attributes:
      confusion: int32 [C, C], rows true classes, columns answers.
      top5: int32 [C], images of each class that was among the five highest scores.
      task_aware: int32 [C], images of each class told apart from the others of its own task.
    """

    confusion: Array
    top5: Array
    task_aware: Array

    @classmethod
    def none(cls, n_classes: int) -> "Counts":
        """Before the first image."""
        zero = jnp.zeros(n_classes, jnp.int32)
        return cls(jnp.zeros((n_classes, n_classes), jnp.int32), zero, zero)

    def plus(self, scores: Array, labels: Array, exists: Array, task_of: Array) -> "Counts":
        """With a batch more.

        Args:
          scores: float [B, C].
          labels: int [B].
          exists: bool [B], which rows count.
          task_of: int [C], the task of each class.
        """
        _, best = jax.lax.top_k(scores, min(5, scores.shape[1]))
        of_its_task = task_of[labels][:, None] == task_of
        told = jnp.where(of_its_task, scores, -jnp.inf).argmax(axis=1)
        one = exists.astype(jnp.int32)
        return Counts(
            self.confusion.at[labels, scores.argmax(axis=1)].add(one),
            self.top5.at[labels].add(one * (best == labels[:, None]).any(axis=1)),
            self.task_aware.at[labels].add(one * (told == labels)),
        )
