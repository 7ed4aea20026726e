"""What methods with exemplars share: the memory, its selection, and the nearest mean of exemplars.

Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725, Algorithms 1, 4 and 5.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cil_jax import memory as memory_lib
from cil_jax.classifiers import COSINE, class_means, nearest_class_mean
from cil_jax.learner import embed, views
from cil_jax.methods.base import Method, linear
from cil_jax.selection import herding_of_classes, uniform


@dataclasses.dataclass(frozen=True)
class Rehearsal(Method):
    """Keeps exemplars, which join the new images of every later task.

    Attributes:
      memory: exemplars kept, over all classes.
      selection: "herding" or "random".
      mirror_means: whether mirror images of the exemplars count in the class means.
      answer: the method's own classifier, "nme" or "linear".
    """

    memory: int
    selection: str
    mirror_means: bool
    answer: str

    @property
    def headline(self):
        return self.answer

    @property
    def memory_size(self):
        return self.memory

    @property
    def selects_by_features(self):
        return self.selection == "herding"

    def end_task(self, learner, pool, key):
        """Algorithms 4 and 5: reduces the old classes' exemplars and selects the new ones'."""
        features = None
        if self.selects_by_features:
            features = embed(self.backbone, learner, pool.images[: pool.n_new_rows])
        after, rows = self.select(learner, pool, features, key)
        return self.keep(learner, after, pool.images[rows])

    def select(self, learner, pool, features, key):
        rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))
        count = min(self.memory, pool.class_room)
        if self.selects_by_features:
            picks = herding_of_classes(features[rows], count, mask)
        else:
            keys = jax.random.split(key, pool.task_room)
            pick = lambda k, m: uniform(k, pool.class_room, count, m)  # noqa: E731
            picks = jax.vmap(pick)(keys, mask)
        chosen = jnp.take_along_axis(rows, picks, axis=1)
        return memory_lib.shared_out(
            learner.memory, chosen, mask.sum(axis=1), learner.n_old, learner.n_seen
        )

    def keep(self, learner, after, new_images):
        """And the means of the exemplars under the network as it is now."""
        memory = memory_lib.filled(learner.memory, after, new_images, learner.n_old)
        learner = learner.replace(memory=memory)
        images, labels = learner.memory.images, learner.memory.labels()
        sides = views(self.backbone, learner, images, self.mirror_means)
        features, labels = jnp.concatenate(sides), jnp.tile(labels, len(sides))
        means = class_means(features, labels, learner.means.shape[0])
        return learner.replace(means=means)

    def classifiers(self):
        both = {"nme": nme, "linear": linear}
        return {self.answer: both.pop(self.answer), **both}

    def scale(self, classifier):
        return COSINE if classifier == "nme" else super().scale(classifier)


def nme(learner, features):
    """Nearest mean of exemplars, in the space of unit-length features."""
    return nearest_class_mean(features, learner.means, learner.n_seen)
