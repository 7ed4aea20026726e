"""What methods share whose network is trained in the first task only, and then frozen.

Later tasks are learned from sums over the features of their images: in one pass, without a
gradient, and without a change to what was learned before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.classifiers import Scale
from cil_jax.errors import UserError
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, Classifier
from cil_jax.methods.classification import Classification
from cil_jax.methods.plan import Fold, Plan, Train
from cil_jax.regression import Pair, is_pair
from cil_jax.typing import Array, Key


@dataclasses.dataclass(frozen=True)
class Frozen(Classification):
    """Trains the outputs in the first task, then classifies by sums over frozen features.

    `Learner.own` has three parts: "classes", arrays with a row for each class; "total", sums over
    the images of all classes, which may be {}; and whatever else a method keeps.
    """

    takes_old_classes: ClassVar[bool] = False

    def plan(self, is_first: bool) -> Plan:
        return (Train(), *self.passes()) if is_first else self.passes()

    def passes(self) -> tuple[Fold, ...]:
        """Returns the passes over the images of a task, after the training if there is one."""
        return (Fold(self.before, self.add, self.after),)

    def before(self, learner: Learner) -> dict[str, Any]:
        """Returns the sums before the first image of a task: those of all earlier tasks."""
        return {part: learner.own[part] for part in ("classes", "total")}

    def add(self, learner: Learner, sums: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Adds a batch to the sums; rows with the label -1 do not count."""
        features = self.network(learner.weights, batch.images, learner.n_seen).features
        return self.added(learner, sums, features, batch.labels)

    def after(self, learner: Learner, sums: dict[str, Any], key: Key) -> Learner:
        """Returns the learner after the last image of a task."""
        return self.solved(learner.replace(own={**learner.own, **sums}))

    def added(
        self,
        learner: Learner,
        sums: dict[str, Any],
        features: Array,
        labels: Array,
        sign: int = 1,
    ) -> dict[str, Any]:
        """Adds images to the sums "classes" and "total".

        Args:
          learner: at this step of the plan.
          sums: the sums so far.
          features: float [B, D].
          labels: int [B]; rows with the label -1 do not count.
          sign: 1, or -1 to take the images out again.
        """
        raise NotImplementedError

    def solved(self, learner: Learner) -> Learner:
        """Computes what `scores` needs from the sums, after these have changed."""
        return learner

    # Predictions.

    def scores(self, learner: Learner, features: Array) -> Array:
        """Scores features [B, D] by the sums; columns of classes not seen are CLOSED."""
        raise NotImplementedError

    def answer(self, learner: Learner, features: Array) -> Array:
        """Scores features by the outputs while these are trained, and by the sums afterwards."""
        is_training = (learner.task == 0) & (learner.place == 0)
        linear = self.linear(learner, features)
        return jnp.where(is_training, linear, self.scores(learner, features))

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns the headline only, since the outputs of later classes are not trained."""
        return {self.headline: self.answer}

    def scale(self, classifier: str) -> Scale:
        return SCORE

    # Forgetting.

    def why_not_forget(self, learner: Learner, label: int) -> str:
        """Says why a class can't be forgotten exactly; "" if it can."""
        if learner.task_of[label] == 0:
            return "the network was trained on this class: only classes of later tasks can go"
        return ""

    def forgotten(self, learner: Learner, label: int, features: Array | None) -> Learner:
        if problem := self.why_not_forget(learner, label):
            raise UserError(problem)
        own = dict(learner.own)
        if own["total"]:
            if features is None:
                raise UserError("this method can forget a class only with its training images")
            own |= self._without(learner, label, features)

        def drop(rows: Array) -> Array:
            """Moves the rows of later classes up; the last row is empty then."""
            return jnp.concatenate([rows[:label], rows[label + 1 :], jnp.zeros_like(rows[:1])])

        own["classes"] = jax.tree.map(drop, own["classes"])
        return self.solved(learner.replace(own=own))

    def _without(self, learner: Learner, label: int, features: Array) -> dict[str, Any]:
        """Takes the images of a class out of the sums.

        Raises:
          UserError: if they are not the images that the class was learned from.
        """
        before = self.before(learner)
        sums = self.added(learner, before, features, jnp.full(len(features), label), sign=-1)
        for rest, all_images in zip(_rows(sums, label), _rows(before, label), strict=True):
            if rest > 1e-3 * all_images:
                raise UserError("these are not the images that the class was learned from")
        return sums


SCORE = Scale("score, the higher the likelier", lambda scores: scores)


def _rows(sums: dict[str, Any], label: int) -> list[float]:
    """Returns the largest entry of the row of a class in each array."""
    arrays = jax.tree.leaves(sums["classes"], is_leaf=is_pair)
    rows = [x.high[label] if isinstance(x, Pair) else x[label] for x in arrays]
    return [float(np.abs(row).max()) for row in rows]
