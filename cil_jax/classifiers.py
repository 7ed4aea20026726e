"""From features to classes: the linear head, and the nearest mean of exemplars.

A classifier scores features against classes; the class with the highest score is its answer.
"""

import chex
import jax
import jax.numpy as jnp

from cil_jax.selection import EXACT, unit
from cil_jax.typing import Array


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


def class_means(features: Array, labels: Array, n_classes: int) -> Array:
    """The mean of each class' unit-length features, brought to unit length again.

    Args:
      features: float [N, D], of any scale.
      labels: int [N]; rows with a negative label are left out.
      n_classes: C.

    Returns:
      float [C, D]; zero for a class without rows.
    """
    chex.assert_rank([features, labels], [2, 1])
    member = jax.nn.one_hot(labels, n_classes, axis=0)  # a negative label belongs nowhere
    return unit(jnp.matmul(member, unit(features), precision=EXACT))
