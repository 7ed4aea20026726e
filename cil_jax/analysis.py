"""Questions that a finished run can answer, with all training data at hand.

Nothing here is open to a learner while it learns.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.classifiers import class_means, nearest_mean
from cil_jax.config import UserError
from cil_jax.protocol import Run
from cil_jax.selection import herding, uniform


@dataclasses.dataclass(frozen=True)
class Selected:
    """Accuracy with so many exemplars a class, all seen classes, nearest mean of exemplars.

    Attributes:
      count: exemplars a class.
      herded: accuracy 0..1 with the first of the herded ones.
      random: accuracies 0..1 with random ones, one for each draw.
    """

    count: int
    herded: float
    random: tuple[float, ...]


def selection_by_count(run: Run, counts: list[int], n_draws: int) -> list[Selected]:
    """Herded against random exemplars under one and the same network: the run's last one.

    Args:
      run: a run whose newest checkpoint is taken.
      counts: exemplars a class.
      n_draws: random selections for each count.

    Raises:
      UserError: if nothing was saved, or a class has fewer images than asked for.
    """
    learner = run.saved_learner()
    n_tasks = int(learner.task)
    n_seen = run.scenario.bounds[n_tasks]
    if n_tasks == 0 or int(learner.epoch) > 0 or int(learner.step) > 0:
        raise UserError(f"{run.folder.path} is in the middle of a task: continue it with --resume")
    if n_draws < 1:
        raise UserError(f"{n_draws} draws asked for; at least 1 is needed")
    tasks = [run.scenario.task(t) for t in range(n_tasks)]
    images = np.concatenate([task.images for task in tasks])
    labels = np.concatenate([task.labels for task in tasks])
    smallest = int(np.bincount(labels, minlength=n_seen).min())
    if not 1 <= min(counts) <= max(counts) <= smallest:
        raise UserError(f"counts must lie in 1..{smallest}, the images of the smallest class")

    # Mirror images count in the means as in the run's own; where it has none, as in its training.
    mirrored = getattr(run.engine.method, "mirror_means", run.engine.augmentation.mirror)
    sides = (False, True) if mirrored else (False,)
    views = [run.engine.embed(learner, images, mirrored=side) for side in sides]
    test = run.evaluation
    stop = test.bounds[n_tasks]
    test_features = run.engine.embed(learner, test.images[:stop], mirrored=False)
    rows = [jnp.asarray(np.flatnonzero(labels == c)) for c in range(n_seen)]
    herded = [r[herding(views[0][r], max(counts))] for r in rows]

    def accuracy(chosen):
        features = jnp.concatenate([view[c] for view in views for c in chosen])
        owners = jnp.concatenate([jnp.full(len(c), i) for _ in views for i, c in enumerate(chosen)])
        answers = nearest_mean(test_features, class_means(features, owners, n_seen))
        return float((answers == test.labels[:stop]).mean())

    def draw(seed, count):
        keys = jax.random.split(jax.random.key(seed), n_seen)
        return [r[uniform(k, len(r), count)] for k, r in zip(keys, rows, strict=True)]

    return [
        Selected(
            count,
            accuracy([h[:count] for h in herded]),
            tuple(accuracy(draw(seed, count)) for seed in range(n_draws)),
        )
        for count in counts
    ]
