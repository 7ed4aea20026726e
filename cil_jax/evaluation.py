"""What a run measures: all classifiers, on the test images of the classes seen so far."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cil_jax import metrics
from cil_jax.classifiers import Counts
from cil_jax.confusion import Confusion
from cil_jax.data.scenario import Scenario
from cil_jax.engine import Engine
from cil_jax.learner import Learner
from cil_jax.selection import unit
from cil_jax.stream import Streamed
from cil_jax.typing import Array


class Measured(NamedTuple):
    """Of one classifier: `cil_jax.metrics.scores`, and its confusions among the classes seen."""

    scores: dict[str, Any]
    confusion: Confusion


class Evaluation:
    """The test set, and who answers it.

    Attributes:
      classifiers: names; the method's in its own order, then "ncm" where it is asked for.
      images, labels: of the test set, in the order in which classes come.
      bounds: where the images of each task begin, and the end.
    """

    def __init__(
        self, engine: Engine, scenario: Scenario, *, ncm: bool, streamed: Streamed | None = None
    ):
        """Puts the test set on the device, or leaves it on the host if images are streamed.

        Args:
          engine: the compiled programs.
          scenario: the tasks.
          ncm: whether to measure the nearest class mean of all training data; see `Config.ncm`.
          streamed: what looks at images in the engine's place.
        """
        self._scenario, self._programs = scenario, streamed or engine
        self._mirrored = engine.augmentation.mirror
        # A compiled program does not keep their order.
        self.classifiers = (*engine.method.classifiers(), *(["ncm"] if ncm else []))
        images, labels, self.bounds = scenario.test_set()
        if not streamed:
            images, labels = jnp.asarray(images), jnp.asarray(labels)
        self.images, self.labels = images, labels

    def of_task(self, learner: Learner, task: int) -> tuple[float, float]:
        """The outputs' accuracy and the method's loss on one task's classes."""
        counts, loss = self._counts(learner, *self.bounds[task : task + 2])
        return metrics.accuracy(counts["linear"].confusion), loss

    def of_seen(self, learner: Learner) -> dict[str, Measured]:
        """Each classifier on all classes of the tasks learned so far."""
        n_tasks, n_seen = int(learner.task), int(learner.n_seen)
        means = self._all_data_means(learner) if "ncm" in self.classifiers else None
        counts, _ = self._counts(learner, 0, self.bounds[n_tasks], means)
        sizes = self._scenario.task_sizes[:n_tasks]
        return {
            name: Measured(
                metrics.scores(one, sizes), Confusion.of(one.confusion[:n_seen, :n_seen])
            )
            for name, one in counts.items()
        }

    def _counts(
        self, learner: Learner, start: int, stop: int, all_data_means: Array | None = None
    ) -> tuple[dict[str, Counts], float]:
        """Counts on test images start .. stop - 1 by classifier, and the loss."""
        means = jnp.zeros_like(learner.means) if all_data_means is None else all_data_means
        counts, loss = self._programs.evaluate(
            learner, self.images, self.labels, jnp.int32(start), jnp.int32(stop), means
        )
        return {name: jax.device_get(counts[name]) for name in self.classifiers}, float(loss)

    def _all_data_means(self, learner: Learner) -> Array:
        """Class means of all training data of the classes seen.

        Mirror images count where training mirrors, as in iCaRL's code.
        """
        sums = jnp.zeros_like(learner.means)
        for index in range(int(learner.task)):
            images, labels = self._scenario.task(index).padded(self._scenario.largest_task)
            sums += self._programs.feature_sums(learner, images, labels, mirrored=self._mirrored)
        return unit(sums)
