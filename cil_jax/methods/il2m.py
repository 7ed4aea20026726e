"""IL2M, dual memory (Belouadah and Popescu 2019, ICCV).

The network is trained as in plain replay. A second memory holds statistics of its scores: how sure
it was of each class when the class was new. Where an image seems to be of a new class, the scores
of old classes are scaled up to what they were then.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cil_jax import heads
from cil_jax.classifiers import Scale
from cil_jax.learner import Learner
from cil_jax.methods.base import Batch, Classifier
from cil_jax.methods.plan import Fold, Keep, Plan, Train
from cil_jax.methods.rehearsal import nme
from cil_jax.methods.replay import Replay
from cil_jax.settings.declaring import setting
from cil_jax.typing import Array, Key, Params

RECTIFIED = Scale(
    "rectified probability, divided by the sum over all known classes",
    lambda scores: scores.clip(min=0.0) / scores.clip(min=0.0).sum(axis=1, keepdims=True),
)


@dataclasses.dataclass(frozen=True)
class IL2M(Replay):
    """Replay, and a classifier that rectifies the scores of old classes.

    Scores are the softmax over all classes seen. If the best one is that of a new class, the score
    of each old class c is multiplied by

        mean_init[c] / mean_now[c] * confidence[newest task] / confidence[task of c]

    where mean_init[c] is the mean score of c on its own images in the task that brought it,
    mean_now[c] the same on its exemplars at the end of the newest task, and confidence[t] the mean
    of the best score on the new images of task t, at its end. Otherwise scores stay as they are.

    `own` has "mean_init" and "mean_now", float [room], and "confidence", float [n_tasks].

    Attributes:
      answer: the classifier that counts as the method's prediction, also "rectified".
    """

    answer: str = setting(
        "rectified",
        "classifier of the headline result: rectified (outputs with rectified scores), linear "
        "(argmax of the outputs) or nme (nearest mean of exemplars); results of all are reported",
        choices=("rectified", "linear", "nme"),
    )

    def own(self, learner: Learner) -> Params:
        room = learner.task_of.shape[0]
        means = {name: jnp.ones(room) for name in ("mean_init", "mean_now")}
        return {**means, "confidence": jnp.ones(self.n_tasks)}

    def plan(self, is_first: bool) -> Plan:
        statistics = Fold(self.no_sums, self.with_sums_of, self.with_statistics, source="pool")
        return (Train(), statistics, Keep())

    # Statistics of the scores.

    def no_sums(self, learner: Learner) -> Params:
        zeros = jnp.zeros(learner.task_of.shape[0])
        return {"own_score": zeros, "best_score": zeros, "count": zeros}

    def with_sums_of(self, learner: Learner, sums: Params, batch: Batch) -> Params:
        """Adds the scores of a batch by the class of the image."""
        output = self.network(learner.weights, batch.images, learner.n_seen)
        scores = jax.nn.softmax(output.logits)
        is_class = jax.nn.one_hot(batch.labels, scores.shape[1])  # zero for a row without an image
        added = {
            "own_score": (is_class * scores).sum(axis=0),
            "best_score": scores.max(axis=1) @ is_class,
            "count": is_class.sum(axis=0),
        }
        return jax.tree.map(jnp.add, sums, added)

    def with_statistics(self, learner: Learner, sums: Params, key: Key) -> Learner:
        del key
        own, column = learner.own, jnp.arange(learner.task_of.shape[0])
        is_old, is_seen = column < learner.n_old, column < learner.n_seen
        means = sums["own_score"] / jnp.maximum(sums["count"], 1.0)
        n_new = jnp.where(is_old, 0.0, sums["count"]).sum()
        confidence = jnp.where(is_old, 0.0, sums["best_score"]).sum() / jnp.maximum(n_new, 1.0)
        has_images = is_seen & (sums["count"] > 0)
        statistics = {
            "mean_init": jnp.where(has_images & ~is_old, means, own["mean_init"]),
            "mean_now": jnp.where(has_images, means, own["mean_now"]),
            "confidence": own["confidence"].at[learner.task].set(confidence),
        }
        return learner.replace(own=statistics)

    # Predictions.

    def rectified(self, learner: Learner, features: Array) -> Array:
        """Scores features by their rectified probabilities."""
        scores = jax.nn.softmax(self.linear(learner, features))
        # Not `learner.task`, which is that of the next task once this one has ended.
        is_known = (learner.task_of >= 0) & (jnp.arange(scores.shape[1]) < learner.n_seen)
        newest = jnp.where(is_known, learner.task_of, 0).max()
        scores = rectify(scores, learner.own, learner.task_of, newest)
        return heads.restrict(scores, 0, learner.n_seen)

    def classifiers(self) -> Mapping[str, Classifier]:
        """Returns "rectified", "linear" and "nme", the method's prediction first."""
        return self.answer_first({"rectified": self.rectified, "linear": self.linear, "nme": nme})

    def scale(self, classifier: str) -> Scale:
        return RECTIFIED if classifier == "rectified" else super().scale(classifier)


def rectify(scores: Array, statistics: Params, task_of: Array, newest: int | Array) -> Array:
    """Rectifies the scores of old classes where a new class has the best one.

    Belouadah and Popescu 2019, eq. 1.

    Args:
      scores: float [B, C], not negative.
      statistics: "mean_init" [C], "mean_now" [C] and "confidence" [n_tasks]; see `IL2M`.
      task_of: int [C], the task of each class; negative for a class that no task has brought.
      newest: int [], the newest task, whose classes are new.

    Returns:
      float [B, C].
    """
    confidence = statistics["confidence"]
    factor = statistics["mean_init"] / jnp.maximum(statistics["mean_now"], 1e-12)
    factor *= confidence[newest] / confidence[task_of.clip(min=0)]
    is_old = (task_of >= 0) & (task_of < newest)
    is_new_best = ~is_old[scores.argmax(axis=1)]
    return jnp.where(is_new_best[:, None] & is_old, factor * scores, scores)
