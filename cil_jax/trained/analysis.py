"""Analyses of a finished run that use the training data of all tasks.

An incremental learner cannot do this, since it does not keep the data of old tasks.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.classifiers import class_means, nearest_mean
from cil_jax.errors import UserError
from cil_jax.selection import herding, uniform
from cil_jax.training.loop import Run
from cil_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Selected:
    """Accuracies of the nearest mean of exemplars over all classes seen, for one memory size.

    Attributes:
      count: the number of exemplars per class.
      herded: accuracy in 0..1 with exemplars chosen by herding.
      random: accuracies in 0..1 with random exemplars, one per draw.
    """

    count: int
    herded: float
    random: tuple[float, ...]


def selection_by_count(run: Run, counts: list[int], n_draws: int) -> list[Selected]:
    """Compares exemplars chosen by herding with random ones, using the last network of a run.

    Args:
      run: the run; its newest checkpoint is used.
      counts: the numbers of exemplars per class to compare.
      n_draws: the number of random selections per count.

    Returns:
      The accuracies for each count.

    Raises:
      UserError: if the run has no checkpoint or stopped within a task, or if a class has fewer
        images than a count.
    """
    learner = run.saved_learner()
    n_tasks = int(learner.task)
    n_seen = run.scenario.bounds[n_tasks]
    if n_tasks == 0 or int(learner.epoch) > 0 or int(learner.step) > 0:
        raise UserError(f"{run.folder.path} stopped within a task: continue it with --resume")
    if n_draws < 1:
        raise UserError(f"--draws is {n_draws}; it must be at least 1")
    tasks = [run.scenario.first_seen(t) for t in range(n_tasks)]
    images = np.concatenate([task.images for task in tasks])
    labels = np.concatenate([task.labels for task in tasks])
    smallest = int(np.bincount(labels, minlength=n_seen).min())
    if not 1 <= min(counts) <= max(counts) <= smallest:
        raise UserError(
            f"--counts must lie in 1..{smallest}: the smallest class has {smallest} images"
        )

    # Class means include mirror images if those of the method do, or else if training did.
    mirrored = getattr(run.engine.method, "mirror_means", run.engine.augmentation.mirror)
    sides = (False, True) if mirrored else (False,)
    views = [run.engine.embed(learner, images, mirrored=side) for side in sides]
    test = run.evaluation
    stop = test.bounds[n_tasks]
    test_features = run.engine.embed(learner, test.images[:stop], mirrored=False)
    class_rows = [jnp.asarray(np.flatnonzero(labels == c)) for c in range(n_seen)]
    herded = [rows[herding(views[0][rows], max(counts))] for rows in class_rows]

    def accuracy(chosen: list[Array]) -> float:
        """Test accuracy with chosen exemplars, given as one array of row numbers per class."""
        features = jnp.concatenate([view[rows] for view in views for rows in chosen])
        classes = [jnp.full(len(rows), c) for _ in views for c, rows in enumerate(chosen)]
        means = class_means(features, jnp.concatenate(classes), n_seen)
        predicted = nearest_mean(test_features, means)
        return float((predicted == test.labels[:stop]).mean())

    def draw(seed: int, count: int) -> list[Array]:
        """Random row numbers of each class."""
        keys = jax.random.split(jax.random.key(seed), n_seen)
        return [
            rows[uniform(key, len(rows), count)] for key, rows in zip(keys, class_rows, strict=True)
        ]

    return [
        Selected(
            count,
            accuracy([rows[:count] for rows in herded]),
            tuple(accuracy(draw(seed, count)) for seed in range(n_draws)),
        )
        for count in counts
    ]
