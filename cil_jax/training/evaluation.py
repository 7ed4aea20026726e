"""Evaluation of all classifiers on the test images of the classes seen so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax import metrics
from cil_jax.classifiers import Counts
from cil_jax.confusion import Confusion
from cil_jax.data.scenario import Scenario
from cil_jax.learner import Learner
from cil_jax.selection import unit
from cil_jax.training.engine import Engine
from cil_jax.training.streaming import Streamed
from cil_jax.typing import Array


class Measured(NamedTuple):
    """Result of one classifier: `cil_jax.metrics.scores` and confusions among the classes seen."""

    scores: dict[str, Any]
    confusion: Confusion


class Evaluation:
    """Evaluates a learner on the test set.

    Attributes:
      classifiers: the names of the method's classifiers, followed by "ncm" if it is requested.
      images, labels: the test set, sorted by the order in which the classes arrive.
      bounds: the first row of each task's images, followed by the number of rows.
    """

    def __init__(
        self, engine: Engine, scenario: Scenario, *, ncm: bool, streamed: Streamed | None = None
    ):
        """Copies the test set to the device, or leaves it on the host if images are streamed.

        Args:
          engine: the compiled programs.
          scenario: the tasks.
          ncm: whether to evaluate the nearest class mean of all training data; see `Config.ncm`.
          streamed: the streaming engine; None to use `engine`.
        """
        self._scenario, self._engine, self._programs = scenario, engine, streamed or engine
        self._mirrored = engine.augmentation.mirror
        self._in_training = engine.method.classifier_in_training
        # Recorded here, as a compiled program returns dictionaries sorted by name.
        self.classifiers = (*engine.method.classifiers(), *(["ncm"] if ncm else []))
        images, labels, self.bounds = scenario.test_set()
        self.images: Array | np.ndarray = images if streamed else jnp.asarray(images)
        self.labels: Array | np.ndarray = labels if streamed else jnp.asarray(labels)

    def of_task(self, learner: Learner, task: int) -> tuple[float, float]:
        """Returns an accuracy and the method's loss on one task's test images.

        The accuracy is that of `Method.classifier_in_training`.
        """
        start, stop = self.bounds[task : task + 2]
        counts, loss = self._counts(learner, start, stop)
        return metrics.accuracy(np.asarray(counts[self._in_training].confusion)), loss

    def of_seen(self, learner: Learner) -> tuple[dict[str, Measured], float]:
        """Evaluates each classifier, and the method's loss, on all tasks learned so far."""
        n_tasks, n_seen = int(learner.task), int(learner.n_seen)
        means = self._all_data_means(learner) if "ncm" in self.classifiers else None
        counts, loss = self._counts(learner, 0, self.bounds[n_tasks], means)
        sizes = self._scenario.task_sizes[:n_tasks]
        measured = {
            name: Measured(
                metrics.scores(c, sizes), Confusion.of(np.asarray(c.confusion)[:n_seen, :n_seen])
            )
            for name, c in counts.items()
        }
        return measured, loss

    def features(self, learner: Learner, n_images: int) -> tuple[np.ndarray, np.ndarray]:
        """Computes the features of the first test images of each class seen.

        Args:
          learner: after a task.
          n_images: about how many images there are to be once all classes are seen; each class has
            equally many, and at least one.

        Returns:
          Features float32 [N, D] and labels int [N], sorted by label.
        """
        labels = np.asarray(self.labels)
        each = max(1, n_images // sum(self._scenario.task_sizes))
        first_of_class = np.searchsorted(labels, labels)
        rows = np.flatnonzero(np.arange(len(labels)) - first_of_class < each)
        # Those of unseen classes too, so that all tasks have one compiled program.
        embedded = self._engine.embed(learner, np.asarray(self.images[rows]), mirrored=False)
        is_seen = labels[rows] < int(learner.n_seen)
        return np.asarray(embedded)[is_seen], labels[rows][is_seen]

    def _counts(
        self, learner: Learner, start: int, stop: int, all_data_means: Array | None = None
    ) -> tuple[dict[str, Counts], float]:
        """Returns the counts on test images start .. stop - 1 by classifier, and the loss."""
        means = jnp.zeros_like(learner.means) if all_data_means is None else all_data_means
        counts, loss = self._programs.evaluate(
            learner, self.images, self.labels, jnp.int32(start), jnp.int32(stop), means
        )
        return {name: jax.device_get(counts[name]) for name in self.classifiers}, float(loss)

    def _all_data_means(self, learner: Learner) -> Array:
        """Computes the class means of all training data of the classes seen.

        They include mirror images if training does, as in iCaRL's code.
        """
        sums = jnp.zeros_like(learner.means)
        for index in range(int(learner.task)):
            images, labels = self._scenario.first_seen(index).padded(self._scenario.largest_task)
            sums += self._programs.feature_sums(learner, images, labels, mirrored=self._mirrored)
        return unit(sums)
