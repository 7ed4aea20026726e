"""Other classifiers for the network of a run: trained already, it only computes features.

Some of them use the training data of all classes seen, which an incremental learner does not keep.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.classifiers import (
    class_means,
    fitted_correction,
    gaussians,
    mahalanobis,
    nearest_class_mean,
    ridge,
    tukey,
)
from cil_jax.errors import UserError
from cil_jax.heads import Linear, restrict
from cil_jax.learner import Learner, with_whole_tasks
from cil_jax.methods.bic import corrected
from cil_jax.methods.wa import aligned
from cil_jax.selection import EXACT, unit
from cil_jax.training.loop import Run
from cil_jax.typing import Array

OWN, HEAD, EXEMPLARS, ALL = "the run", "the head alone", "exemplars", "all training data"


@dataclasses.dataclass(frozen=True)
class Answer:
    """The accuracy of a classifier on test images, in 0..1.

    Attributes:
      name: the classifier.
      source: what it was made from: "the run", for a classifier of the method, "the head alone",
        "exemplars" or "all training data".
      seen: on the images of all classes seen.
      tasks: on the images of each task, among all classes seen.
    """

    name: str
    source: str
    seen: float
    tasks: tuple[float, ...]


def answers(run: Run, *, all_data: bool = True, strength: float = 1.0) -> list[Answer]:
    """Classifies the test images by several classifiers of the same features.

    Args:
      run: the run; the network after its last whole task is used.
      all_data: whether to include classifiers that use the training data of all classes seen, for
        whose features the network has to see all of it.
      strength: weight of the penalty of ridge regression; see `cil_jax.classifiers.ridge`.

    Returns:
      The classifiers of the method, its own first, and then the others that apply to the run.

    Raises:
      UserError: if the run has not learned a task, or strength is not above 0.
    """
    if not 0 < strength < float("inf"):
        raise UserError(f"--ridge is {strength}; it must be above 0 and finite")
    learner = with_whole_tasks(run.saved_learner())
    n_tasks = int(learner.task)
    if n_tasks == 0:
        raise UserError(f"{run.folder.path} has not learned its first task yet")
    bounds = run.evaluation.bounds[: n_tasks + 1]
    images, labels = run.evaluation.images, np.asarray(run.evaluation.labels)[: bounds[-1]]
    features = run.engine.embed(learner, images[: bounds[-1]], mirrored=False)
    found = []
    for name, source, scores in _scores(run, learner, features, all_data, strength):
        is_right = np.asarray(scores.argmax(axis=1)) == labels
        tasks = tuple(float(part.mean()) for part in np.split(is_right, bounds[1:-1]))
        found.append(Answer(name, source, float(is_right.mean()), tasks))
    return found


def _scores(
    run: Run, learner: Learner, features: Array, all_data: bool, strength: float
) -> Iterator[tuple[str, str, Array]]:
    """Yields the name, the source and the scores [N, room] of each classifier.

    Args:
      run, all_data, strength: see `answers`.
      learner: after its last whole task.
      features: float [N, D], of the test images.
    """
    method, n_old, n_seen = run.engine.method, int(learner.n_old), int(learner.n_seen)
    own = method.classifiers()
    for name in sorted(own, key=lambda name: name != method.headline):
        yield name, OWN, jax.jit(own[name])(learner, features)

    head, layer = learner.weights.params["head"], method.network.head
    if n_old and isinstance(layer, Linear):  # of a cosine head, lengths do not count
        logits = layer.logits(aligned(head, n_old, n_seen), features, n_seen)
        yield "weight aligning", HEAD, logits

    memory = learner.memory
    is_kept = np.asarray(memory.labels) >= 0
    has_exemplars = method.memory_size is not None and is_kept.any()
    if has_exemplars:
        kept_labels = memory.labels[is_kept]
        kept = run.engine.embed(learner, memory.images[is_kept], mirrored=False)
        if n_old:
            yield "bias correction", EXEMPLARS, _with_bias_corrected(
                learner, layer.logits(head, kept, n_seen), kept_labels,
                layer.logits(head, features, n_seen),
            )  # fmt: skip
        yield "ridge", EXEMPLARS, _by_ridge(kept, kept_labels, features, n_seen, strength)
    if not all_data:
        return

    task = run.scenario.up_to(int(learner.task) - 1)
    labels = jnp.asarray(task.labels)
    sides = (False, True) if run.engine.augmentation.mirror else (False,)
    views = [run.engine.embed(learner, task.images, mirrored=side) for side in sides]
    # With mirror images where training has them, as in the evaluation of a run.
    means = class_means(jnp.concatenate(views), jnp.tile(labels, len(sides)), n_seen)
    yield "ncm", ALL, nearest_class_mean(features, means, n_seen)
    yield "ridge", ALL, _by_ridge(views[0], labels, features, n_seen, strength)
    classes = gaussians(tukey(views[0]), labels, n_seen)
    yield "fecam", ALL, mahalanobis(tukey(features), classes)


def _with_bias_corrected(
    learner: Learner, kept_logits: Array, kept_labels: Array, logits: Array
) -> Array:
    """Corrects the logits of the newest task; the correction is fitted to the exemplars."""
    is_newest = (learner.task_of >= 0) & (learner.task_of == learner.task - 1)
    scale, shift = fitted_correction(kept_logits, kept_labels, is_newest)
    n_tasks = int(learner.task)
    newest = jnp.arange(n_tasks) == n_tasks - 1
    correction = {"scale": jnp.where(newest, scale, 1.0), "shift": jnp.where(newest, shift, 0.0)}
    return corrected({"correction": correction}, learner.task_of, logits)


def _by_ridge(
    features: Array, labels: Array, test_features: Array, n_seen: int, strength: float
) -> Array:
    """Scores test features by ridge regression on the labels of other features."""
    weights = ridge(features, labels, n_seen, strength)
    return restrict(jnp.matmul(unit(test_features), weights, precision=EXACT), 0, n_seen)
