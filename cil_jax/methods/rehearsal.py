"""What methods with exemplars share: the memory, its selection, and the nearest mean of exemplars.

Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725, Algorithms 1, 4 and 5.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cil_jax.classifiers import COSINE, Scale, class_means, nearest_class_mean
from cil_jax.learner import Learner, views
from cil_jax.memory import Pool, Slots, equal_shares
from cil_jax.methods.base import Classifier, Method
from cil_jax.selection import herding_of_classes, uniform
from cil_jax.settings.declaring import NOT_NEGATIVE, setting
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Rehearsal(Method):
    """Keeps exemplars and trains on them together with the new images of each later task.

    Attributes:
      memory: number of exemplars over all classes.
      selection: "herding" or "random".
      mirror_means: whether the class means include mirror images of the exemplars. The setting is
        "auto", "yes" or "no", and the value follows from it and from the augmentation.
      answer: the classifier that counts as the method's prediction, "nme" or "linear".
    """

    memory: int = setting(2000, "total number of exemplars, over all classes", bound=NOT_NEGATIVE)
    selection: str = setting(
        "herding",
        "how the exemplars of a class are chosen: by herding or uniformly at random",
        choices=("herding", "random"),
    )
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

    @property
    def memory_size(self) -> int:
        return self.memory

    @property
    def selects_by_features(self) -> bool:
        return self.selection == "herding"

    def policy(self, learner: Learner, pool: Pool, features: Array | None, key: Key) -> Slots:
        """Drops exemplars of old classes and selects those of new ones (Algorithms 4 and 5)."""
        picks, n_available = self.picks(learner, pool, features, key)
        return equal_shares(pool, picks, n_available, learner.n_old, learner.n_seen)

    def picks(
        self, learner: Learner, pool: Pool, features: Array | None, key: Key
    ) -> tuple[Array, Array]:
        """Orders the images of each new class by how much they are wanted.

        Returns:
          Pool rows int [task_room, M], and how many of them are images, int [task_room].
        """
        count = min(self.memory_size, pool.class_room)
        if features is None:
            return random_picks(learner, pool, count, key)
        rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))
        picks = herding_of_classes(features[rows], count, mask)
        return jnp.take_along_axis(rows, picks, axis=1), mask.sum(axis=1)

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


def random_picks(learner: Learner, pool: Pool, count: int, key: Key) -> tuple[Array, Array]:
    """Orders the images of each new class at random.

    Args:
      learner, pool, key: see `Method.policy`.
      count: number of images of each class, at most `pool.class_room`.

    Returns:
      Pool rows int [task_room, count], and how many of a class are images, int [task_room].
    """
    rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))

    def pick(class_key: Key, class_mask: Array) -> Array:
        return uniform(class_key, pool.class_room, count, class_mask)

    picks = jax.vmap(pick)(jax.random.split(key, pool.task_room), mask)
    return jnp.take_along_axis(rows, picks, axis=1), mask.sum(axis=1)


def nme(learner: Learner, features: Array) -> Array:
    """Scores features by the nearest mean of exemplars, among unit-length features."""
    return nearest_class_mean(features, learner.means, learner.n_seen)


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
