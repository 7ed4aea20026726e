"""iCaRL (Rebuffi et al. 2017, https://arxiv.org/abs/1611.07725), as the paper's code does it.

Exemplars join the new images; every output is a binary classifier; old outputs learn what the old
network said, also of exemplars; the answer is the class with the nearest mean of exemplars.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from cil_jax import heads, losses
from cil_jax import memory as memory_lib
from cil_jax.classifiers import class_means, negative_distances
from cil_jax.learner import embed
from cil_jax.methods.base import Method, linear
from cil_jax.selection import herding, uniform, unit


@dataclasses.dataclass(frozen=True)
class ICaRL(Method):
    """Rehearsal, distillation by binary cross-entropy, and a nearest-mean classifier.

    Attributes:
      memory: exemplars kept, over all classes.
      selection: "herding" or "random".
      divisor: the constant under the summed loss; 100 in the paper's code.
      mirror_means: whether mirror images of the exemplars count in the class means.
    """

    memory: int
    selection: str
    divisor: float
    mirror_means: bool

    headline: ClassVar = "nme"
    parts: ClassVar = ("new_classes", "old_classes")

    @property
    def memory_size(self):
        return self.memory

    def loss(self, params, learner, batch, key, train=True):
        """Algorithm 3 of the paper: labels for new outputs, the old network's for old ones."""
        output = self.student(params, learner, batch, train)
        column = jnp.arange(output.logits.shape[1])
        is_old = column < learner.n_old
        answers = jax.nn.sigmoid(self.teacher(learner, batch).logits)
        targets = jnp.where(is_old, answers, jax.nn.one_hot(batch.labels, len(column)))

        new = heads.restrict(output.logits, learner.n_old, learner.n_seen)
        old = heads.restrict(output.logits, 0, learner.n_old)
        parts = {
            "new_classes": losses.icarl_bce(new, jnp.where(is_old, 0.0, targets), self.divisor),
            "old_classes": losses.icarl_bce(old, jnp.where(is_old, targets, 0.0), self.divisor),
        }
        return parts["new_classes"] + parts["old_classes"], (parts, output)

    def end_task(self, learner, pool, key):
        """Algorithms 4 and 5: reduces the old classes' exemplars and selects the new ones'."""
        rows, mask = pool.rows_of(learner.n_old + jnp.arange(pool.task_room))
        count = min(self.memory, pool.class_room)
        if self.selection == "herding":
            features = embed(self.backbone, learner, pool.images[: pool.n_new_rows])
            picks = jax.vmap(lambda r, m: herding(features[r], count, m))(rows, mask)
        else:
            keys = jax.random.split(key, pool.task_room)
            pick = lambda k, m: uniform(k, pool.class_room, count, m)  # noqa: E731
            picks = jax.vmap(pick)(keys, mask)
        chosen = jnp.take_along_axis(rows, picks, axis=1)
        memory = memory_lib.update(
            learner.memory, pool, chosen, mask.sum(axis=1), learner.n_old, learner.n_seen
        )
        return self._with_means(learner.replace(memory=memory))

    def _with_means(self, learner):
        """Means of the exemplars under the network as it is now, mirror images included."""
        images, labels = learner.memory.images, learner.memory.labels()
        views = [embed(self.backbone, learner, images)]
        if self.mirror_means:
            views.append(embed(self.backbone, learner, images, mirrored=True))
        features = jnp.concatenate(views)
        means = class_means(features, jnp.tile(labels, len(views)), learner.means.shape[0])
        return learner.replace(means=means)

    def classifiers(self):
        return {"nme": nme, "linear": linear}


def nme(learner, features):
    """Nearest mean of exemplars, in the space of unit-length features."""
    scores = negative_distances(unit(features), learner.means)
    return heads.restrict(scores, 0, learner.n_seen)
