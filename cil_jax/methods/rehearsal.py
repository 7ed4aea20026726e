"""What methods share that classify by the nearest mean of exemplars, and balanced training on them.

Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725, Algorithm 1. `cil_jax.methods.exemplars` says
which images are kept.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from cil_jax.classifiers import COSINE, Scale, class_means, nearest_class_mean
from cil_jax.learner import Learner, views
from cil_jax.memory import Pool
from cil_jax.methods.base import Classifier
from cil_jax.methods.exemplars import ExemplarMethod
from cil_jax.settings.declaring import setting
from cil_jax.typing import Array, Key

FARTHEST = -4.0  # minus the squared distance of two opposite vectors of unit length


@dataclasses.dataclass(frozen=True)
class Rehearsal(ExemplarMethod):
    """Keeps exemplars and trains on them together with the new images of each later task.

    Attributes:
      mirror_means: whether the class means include mirror images of the exemplars. The setting is
        "auto", "yes" or "no", and the value follows from it and from the augmentation.
      answer: the classifier that counts as the method's prediction, "nme" or "linear".
    """

    mirror_means: bool = setting(
        "auto",
        "include horizontally flipped exemplars in the class means; auto: yes if --mirror flips "
        "the training images",
        choices=("auto", "yes", "no"),
    )
    answer: str = setting(
        "nme",
        "classifier of the headline result: nme (nearest mean of exemplars) or linear (argmax of "
        "the outputs); results of both are reported",
        choices=("nme", "linear"),
    )

    @property
    def headline(self) -> str:
        return self.answer

    def kept(self, learner: Learner) -> Learner:
        """Computes the class means of the exemplars with the current network."""
        memory = learner.memory
        sides = views(self.network, learner, memory.images, self.mirror_means)
        features, labels = jnp.concatenate(sides), jnp.tile(memory.labels, len(sides))
        means = class_means(features, labels, learner.means.shape[0])
        return learner.replace(means=means)

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns "nme" and "linear", the method's prediction first."""
        return self.answer_first({"nme": nme, "linear": self.linear})

    def answer_first(self, classifiers: Mapping[str, Classifier]) -> Mapping[str, Classifier]:
        """Returns the classifiers with the method's prediction first."""
        return {self.answer: classifiers[self.answer], **classifiers}

    def scale(self, classifier: str) -> Scale:
        return COSINE if classifier == "nme" else super().scale(classifier)


def nme(learner: Learner, features: Array) -> Array:
    """Scores features by the nearest mean of exemplars, among unit-length features.

    A class without exemplars, as a reservoir may leave one, has no mean: it is never the nearest.
    """
    scores = nearest_class_mean(features, learner.means, learner.n_seen)
    has_mean = jnp.any(learner.means != 0.0, axis=1)
    return jnp.where(has_mean, scores, jnp.minimum(scores, FARTHEST))


def balanced(learner: Learner, pool: Pool, key: Key) -> Array:
    """Marks the exemplars and, at random, as many images of each new class; bool [R].

    These are the rows of a training that must not favour the new classes, for a `Train` step.

    Args:
      learner: a learner that has exemplars.
      pool: the images of the task and the exemplars.
      key: a random key.
    """
    n_classes = learner.task_of.shape[0]
    n_largest = learner.memory.counts(n_classes).max()
    return (pool.labels >= 0) & (pool.random_ranks(key) < n_largest)
