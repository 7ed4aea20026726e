"""Classifiers of features: nearest means, ridge regression, Gaussians, and counts of predictions.

A classifier gives each class a score; it predicts the class with the highest score.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import jax.scipy.optimize
from flax import struct

from cil_jax import heads
from cil_jax.selection import EXACT, unit
from cil_jax.typing import Array


class Scale(NamedTuple):
    """How the scores of a classifier are presented to users. It keeps the order of the classes.

    Attributes:
      meaning: describes the presented scores in words.
      apply: maps scores [B, C], CLOSED for unseen classes, to presented scores [B, C].
    """

    meaning: str
    apply: Callable[[Array], Array]


PROBABILITY = Scale("probability over all known classes", jax.nn.softmax)
PROBABILITY_EACH = Scale("probability of each class by itself", jax.nn.sigmoid)
# For features and means of length 1, minus the squared distance is 2 cos - 2.
COSINE = Scale("cosine to the mean of the class' exemplars", lambda scores: 1.0 + scores / 2.0)


def nearest_mean(features: Array, means: Array) -> Array:
    """Returns the class whose mean is nearest in Euclidean distance.

    Rebuffi et al., "iCaRL" (2017), Algorithm 1, https://arxiv.org/abs/1611.07725. With means of
    unit length, as in iCaRL, the result does not depend on the length of the features.

    Args:
      features: float [B, D].
      means: float [C, D].

    Returns:
      int [B]: the labels, each in 0..C-1; in a tie, the lowest label.
    """
    return jnp.argmax(negative_distances(features, means), axis=1)


def negative_distances(features: Array, means: Array) -> Array:
    """Returns minus the squared Euclidean distances [B, C] of features [B, D] to means [C, D]."""
    chex.assert_rank([features, means], 2)
    chex.assert_equal_shape_suffix([features, means], 1)
    product = jnp.matmul(features, means.T, precision=EXACT)
    return 2.0 * product - jnp.sum(features**2, 1, keepdims=True) - jnp.sum(means**2, 1)


def nearest_class_mean(features: Array, means: Array, n_seen: int | Array) -> Array:
    """Scores features by minus their squared distance to the means of the classes seen.

    With the means of the exemplars this is iCaRL's NME; with the means of all training data it is
    NCM, the reference that iCaRL is compared with.

    Args:
      features: float [B, D], of any length.
      means: float [C, D], of unit length.
      n_seen: classes n_seen and above are CLOSED.

    Returns:
      float [B, C].
    """
    return heads.restrict(negative_distances(unit(features), means), 0, n_seen)


def class_means(features: Array, labels: Array, n_classes: int) -> Array:
    """Averages the unit-length features of each class and scales the mean to unit length.

    Args:
      features: float [N, D], of any scale.
      labels: int [N]; rows with a negative label are ignored.
      n_classes: C.

    Returns:
      float [C, D]; zero for a class without rows.
    """
    return unit(class_sums(features, labels, n_classes))


def class_sums(features: Array, labels: Array, n_classes: int) -> Array:
    """Sums the unit-length features of each class; arguments and result as for `class_means`."""
    chex.assert_rank([features, labels], [2, 1])
    return sums_by_class(unit(features), labels, n_classes)


def sums_by_class(rows: Array, labels: Array, n_classes: int) -> Array:
    """Sums rows, float [N] or [N, D], by label; [n_classes] or [n_classes, D].

    Rows with a negative label are left out.
    """
    is_member = jax.nn.one_hot(labels, n_classes, axis=0)  # a negative label gives a zero column
    return jnp.matmul(is_member, rows, precision=EXACT)


def ridge(features: Array, labels: Array, n_classes: int, strength: float) -> Array:
    """Computes the weights of ridge regression from unit-length features to one-hot labels.

    These minimise |H W - Y|^2 + strength * |W|^2, so W = (H^T H + strength I)^-1 H^T Y, where the
    rows of H are features. The scores of further features are their product with W.

    Args:
      features: float [N, D], of any scale.
      labels: int [N]; rows with a negative label are ignored.
      n_classes: C.
      strength: weight of the penalty, above 0.

    Returns:
      float [D, C].
    """
    chex.assert_rank([features, labels], [2, 1])
    rows = jnp.where(labels[:, None] >= 0, unit(features), 0.0)
    gram = jnp.matmul(rows.T, rows, precision=EXACT) + strength * jnp.eye(rows.shape[1])
    products = class_sums(features, labels, n_classes).T
    return jax.scipy.linalg.solve(gram, products, assume_a="pos")


def tukey(features: Array, power: float = 0.5) -> Array:
    """Raises the absolute value of features to a power and keeps their sign.

    Of features that are not negative, as a last ReLU leaves them, it makes the distributions less
    skewed (Goswami et al. 2023, FeCAM, https://arxiv.org/abs/2309.14062).
    """
    return jnp.sign(features) * jnp.abs(features) ** power


class Gaussians(NamedTuple):
    """A normal distribution of the features of each class; see `gaussians`.

    Attributes:
      means: float [C, D], of unit length.
      precisions: float [C, D, D], the inverse of each correlation matrix.
    """

    means: Array
    precisions: Array


def gaussians(features: Array, labels: Array, n_classes: int, shrinkage: float = 1.0) -> Gaussians:
    """Fits a normal distribution to the features of each class, as FeCAM does.

    Goswami et al. 2023, https://arxiv.org/abs/2309.14062: `shrinkage` times the mean variance of
    the class is added to its variances, and the result is scaled to a correlation matrix, so that
    the distances to all classes have one scale. Unlike there, covariances are not shrunk.

    Args:
      features: float [N, D], of any scale; see also `tukey`.
      labels: int [N]; rows with a negative label are ignored. Each class must have a row.
      n_classes: C.
      shrinkage: above 0. A class whose features do not vary at all gets the identity.
    """
    chex.assert_rank([features, labels], [2, 1])
    n_features = features.shape[1]

    def of_class(label: Array) -> tuple[Array, Array]:
        is_member = (labels == label)[:, None]
        n = is_member.sum()
        mean = jnp.where(is_member, features, 0.0).sum(axis=0) / jnp.maximum(n, 1)
        centred = jnp.where(is_member, features - mean, 0.0)
        covariance = jnp.matmul(centred.T, centred, precision=EXACT) / jnp.maximum(n - 1, 1)
        added = shrinkage * jnp.diagonal(covariance).mean()
        added = jnp.where(added > 0, added, 1.0)
        covariance += added * jnp.eye(n_features)
        deviations = jnp.sqrt(jnp.diagonal(covariance))
        correlation = covariance / (deviations[:, None] * deviations)
        precision = jax.scipy.linalg.solve(correlation, jnp.eye(n_features), assume_a="pos")
        return unit(mean), precision

    return Gaussians(*jax.lax.map(of_class, jnp.arange(n_classes)))


def mahalanobis(features: Array, classes: Gaussians) -> Array:
    """Scores features by minus their squared Mahalanobis distance to each class.

    Args:
      features: float [B, D], of any length.
      classes: the result of `gaussians`.

    Returns:
      float [B, C].
    """
    rows = unit(features)

    def of_class(parameters: Gaussians) -> Array:
        difference = rows - parameters.means
        product = jnp.matmul(difference, parameters.precisions, precision=EXACT)
        return -jnp.sum(product * difference, axis=1)

    return jax.lax.map(of_class, classes).T


def fitted_correction(logits: Array, labels: Array, is_new: Array) -> tuple[Array, Array]:
    """Fits a scale and a shift of the logits of new classes by cross-entropy.

    They are the correction of BiC (Wu et al. 2019, https://arxiv.org/abs/1905.13260, eq. 4 and 5).
    The cross-entropy is a convex function of them.

    Args:
      logits: float [N, C].
      labels: int [N].
      is_new: bool [C], the classes whose logits become scale * logits + shift.

    Returns:
      The scale and the shift, float [].
    """

    def cost(correction: Array) -> Array:
        corrected = jnp.where(is_new, correction[0] * logits + correction[1], logits)
        log_probabilities = jax.nn.log_softmax(corrected)
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).mean()

    found = jax.scipy.optimize.minimize(cost, jnp.array([1.0, 0.0]), method="BFGS").x
    return found[0], found[1]


class Counts(struct.PyTreeNode):
    """Counts of the predictions of a classifier.

    Attributes:
      confusion: int32 [C, C]; rows are true classes, columns predicted ones.
      top5: int32 [C], the images of each class for which it has one of the five highest scores.
      task_aware: int32 [C], the images of each class that are predicted right when only the classes
        of its own task are candidates.
    """

    confusion: Array
    top5: Array
    task_aware: Array

    @classmethod
    def none(cls, n_classes: int) -> "Counts":
        """Returns the counts before the first image."""
        zero = jnp.zeros(n_classes, jnp.int32)
        return cls(jnp.zeros((n_classes, n_classes), jnp.int32), zero, zero)

    def plus(self, scores: Array, labels: Array, mask: Array, task_of: Array) -> "Counts":
        """Returns the counts with a further batch.

        Args:
          scores: float [B, C].
          labels: int [B].
          mask: bool [B], the rows to count.
          task_of: int [C], the task of each class.
        """
        _, five_best = jax.lax.top_k(scores, min(5, scores.shape[1]))
        is_candidate = task_of[labels][:, None] == task_of
        task_aware = jnp.where(is_candidate, scores, -jnp.inf).argmax(axis=1)
        weight = mask.astype(jnp.int32)
        return Counts(
            self.confusion.at[labels, scores.argmax(axis=1)].add(weight),
            self.top5.at[labels].add(weight * (five_best == labels[:, None]).any(axis=1)),
            self.task_aware.at[labels].add(weight * (task_aware == labels)),
        )
