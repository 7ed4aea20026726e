"""Why a run forgot: where its errors are, and what has changed since a task was learned."""

import dataclasses
import itertools

import jax
import numpy as np

from cil_jax import metrics
from cil_jax.classifiers import PROBABILITY, PROBABILITY_EACH
from cil_jax.errors import UserError
from cil_jax.learner import Learner, with_whole_tasks
from cil_jax.storage.schemas import Causes, TaskCauses, n_learned
from cil_jax.training.loop import Run


def causes(run: Run) -> Causes:
    """Measures why a run forgot, after its last whole task.

    Nothing is trained. What needs the networks of earlier tasks is None unless the run has saved
    their features; see `Config.features`.

    Args:
      run: the run.

    Raises:
      UserError: if the run has not learned a task, or its files can't be read.
    """
    learner = with_whole_tasks(run.saved_learner())
    n_tasks = int(learner.task)
    if n_tasks == 0 or not run.folder.results_file.exists():
        raise UserError(f"{run.folder.path} has not learned its first task yet")
    results = run.folder.results()
    n_tasks = min(n_tasks, n_learned(results))
    bounds = np.cumsum([0, *results["task_sizes"][:n_tasks]]).tolist()
    headline = results["headline"]
    own = results["classifiers"][headline]
    confusion = run.folder.confusions(results)[headline]
    if confusion.n_classes != bounds[-1]:  # written before the results
        raise UserError(f"{run.folder.path} was stopped at the end of a task: use --resume first")
    matrix = confusion.grouped(bounds)
    n_images = matrix.sum(axis=1)
    accuracy, confidence, error = _calibration(run, learner)
    norms = _weight_norms(run, learner, bounds)
    drifts = _drifts(run, bounds)
    tasks: list[TaskCauses] = []
    for task in range(n_tasks):
        right = own["accuracy_matrix"][-1][task]
        aware = own["task_aware_matrix"]
        within = (matrix[task, task] / n_images[task]) - right
        tasks.append(
            {
                "right": right,
                "wrong_within_task": max(0.0, float(within)),
                "wrong_in_other_task": float(1 - matrix[task, task] / n_images[task]),
                "accuracy_when_learned": own["accuracy_matrix"][task][task],
                "task_aware_when_learned": aware[task][task],
                "task_aware": aware[-1][task],
                "weight_norm": norms[task] if norms else None,
                "mean_drift": drifts[task].mean_drift if drifts else None,
                "similarity": drifts[task].similarity if drifts else None,
            }
        )
    return {
        "classifier": headline,
        "task_confusion": (matrix / n_images[:, None]).tolist(),
        "tasks": tasks,
        "linear_accuracy": accuracy,
        "confidence": confidence,
        "calibration_error": error,
    }


def _weight_norms(run: Run, learner: Learner, bounds: list[int]) -> list[float] | None:
    """The mean length of the weight vectors of each task's classes; None if there are none."""
    kernel = learner.weights.params.get("head", {}).get("kernel")
    if kernel is None or "linear" not in run.engine.method.classifiers():
        return None
    lengths = np.linalg.norm(np.asarray(kernel), axis=-2)
    lengths = lengths.reshape(-1, lengths.shape[-1]).mean(axis=0)  # over the proxies, if any
    return [float(lengths[a:b].mean()) for a, b in itertools.pairwise(bounds)]


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far the features of a task have moved since the task was learned.

    Attributes:
      mean_drift: the angle between the mean features of a class then and now, in degrees: the mean
        over the classes of the task.
      similarity: linear CKA between the features then and now, over the images of all classes seen
        then.
    """

    mean_drift: float
    similarity: float


def _drifts(run: Run, bounds: list[int]) -> list[Drift] | None:
    """The drift of each task; None if the features of a task were not saved."""
    saved = [run.folder.features(task) for task in range(len(bounds) - 1)]
    if any(features is None for features in saved):
        return None
    then_and_labels = [features for features in saved if features is not None]
    last, last_labels = then_and_labels[-1]
    drifts = []
    for (then, labels), (start, stop) in zip(
        then_and_labels, itertools.pairwise(bounds), strict=True
    ):
        if not np.array_equal(labels, last_labels[: len(labels)]):
            return None  # saved with another number of images, before and after resuming
        now = last[: len(labels)]
        turned = metrics.mean_drift(then, now, labels, range(start, stop))
        drifts.append(Drift(turned, metrics.linear_cka(then, now)))
    return drifts


def _calibration(run: Run, learner: Learner) -> tuple[float | None, float | None, float | None]:
    """Accuracy, mean confidence and calibration error of the outputs, if they are probabilities."""
    method, name = run.engine.method, "linear"
    are_probabilities = name in method.classifiers() and method.scale(name) in (
        PROBABILITY,
        PROBABILITY_EACH,
    )
    if not are_probabilities:
        return None, None, None
    stop = run.evaluation.bounds[int(learner.task)]
    images, labels = run.evaluation.images[:stop], np.asarray(run.evaluation.labels)[:stop]
    features = run.engine.embed(learner, images, mirrored=False)
    scores = jax.jit(method.classifiers()[name])(learner, features)
    presented = np.asarray(method.scale(name).apply(scores))
    predicted, confidence = presented.argmax(axis=1), presented.max(axis=1)
    is_right = predicted == labels
    error = metrics.calibration_error(confidence, is_right)
    return float(is_right.mean()), float(confidence.mean()), error
