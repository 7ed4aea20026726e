"""Loads the learner of a run, to predict, to learn more classes, and to save it on its own.

learner = cil_jax.load("runs/icarl")
learner.predict(images).names
learner.learn(new_images, labels, ["owl", "bat"])

The data set of the run is not needed: the folder of the run holds everything.
"""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading, writing
from cil_jax.learner import Learner, Normalizer, widened, with_whole_tasks
from cil_jax.platform.versions import versions
from cil_jax.settings import code, loading
from cil_jax.settings.config import Config
from cil_jax.storage import schemas
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained import forgetting, teaching
from cil_jax.training.budget import within_budget
from cil_jax.training.build import Room, engine_of, room_of
from cil_jax.training.callbacks import Position
from cil_jax.training.engine import Engine

LEARNER = "learner.json"  # in the folder of a learner that was saved on its own
BATCHES = (16, 256)  # images per batch; with two sizes, at most two programs are compiled


@dataclasses.dataclass(frozen=True, repr=False)
class Answers:
    """The predictions of a learner.

    Attributes:
      labels: int [N], the class with the highest score of each image; indices into `class_names`.
      scores: float32 [N, classes].
      class_names: the names of all classes that the learner knows.
      classifier: the classifier, such as "nme" or "linear".
      meaning: a description of the scores.
    """

    labels: np.ndarray
    scores: np.ndarray
    class_names: tuple[str, ...]
    classifier: str
    meaning: str

    def __repr__(self) -> str:
        n_images, n_classes = self.scores.shape
        return f"Answers({n_images} images, {n_classes} classes, by {self.classifier})"

    @property
    def names(self) -> list[str]:
        """The name of the predicted class of each image."""
        return [self.class_names[label] for label in self.labels]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """The names and scores of the k best classes of each image, the best first."""
        is_other = np.arange(len(self.class_names)) != self.labels[:, None]
        # Among equal scores, the predicted class comes first.
        order = np.lexsort((is_other, -self.scores))[:, :k]
        return [
            [(self.class_names[label], float(scores[label])) for label in labels]
            for labels, scores in zip(order, self.scores, strict=True)
        ]


class SavedLearner:
    """A trained learner outside its run.

    Attributes:
      config: the settings of training.
      engine: the compiled programs.
      state: the state of the learner, a tree of arrays; do not modify it.
      class_names: the names of the classes that it knows, in the order in which it learned them.
      room: what its arrays have room for.
    """

    def __init__(
        self, config: Config, state: Learner, class_names: Sequence[str], room: Room
    ) -> None:
        self.config, self.state, self.class_names = config, state, tuple(class_names)
        self.room = room
        self.engine = engine_of(config, None, room)

    def __repr__(self) -> str:
        return f"SavedLearner({len(self.class_names)} classes, {self.config!r})"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape (H, W, C) of the images that the learner takes."""
        return self.state.image_shape

    @property
    def classifiers(self) -> list[str]:
        """The names of the classifiers, that of the method first."""
        names = list(self.engine.method.classifiers())
        return sorted(names, key=lambda name: name != self.engine.method.headline)

    def predict(self, images: np.ndarray, classifier: str | None = None) -> Answers:
        """Classifies images.

        Args:
          images: uint8 [N, H, W, C], or [N, H, W] if they are grey.
          classifier: one of `classifiers` (default: that of the method).

        Returns:
          The predicted class of each image, and the scores of all known classes. The scores of
          "linear" are probabilities: of a softmax over all classes or, after training with a
          sigmoid loss, of each class separately. The scores of "nme" are cosine similarities to the
          mean of the exemplars of each class, at most 1.

        Raises:
          UserError: if the images have the wrong type or shape, or there is no such classifier.
        """
        name = self.checked_classifier(classifier)
        images = self._checked(images)
        size = next((s for s in BATCHES if len(images) <= s), BATCHES[-1])
        n_classes = len(self.class_names)
        labels, scores = [np.zeros(0, int)], [np.zeros((0, n_classes), np.float32)]
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded = np.zeros((size, *self.image_shape), np.uint8)
            padded[: len(batch)] = batch
            batch_labels, batch_scores = self.engine.answers(self.state, padded)[name]
            labels.append(np.asarray(batch_labels)[: len(batch)])
            scores.append(np.asarray(batch_scores)[: len(batch), :n_classes])
        meaning = self.engine.method.scale(name).meaning
        return Answers(
            np.concatenate(labels), np.concatenate(scores), self.class_names, name, meaning
        )

    def learn(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        epochs: int | None = None,
        seed: int | None = None,
        progress: Callable[[Position], None] | None = None,
    ) -> "SavedLearner":
        """Learns new classes as one more task, from the given images and the learner's exemplars.

        If this raises, the learner is unchanged.

        Args:
          images: uint8 [N, H, W, C], or [N, H, W] if they are grey.
          labels: int [N], indices into `class_names`.
          class_names: the names of the new classes.
          epochs: passes over the images (default: as in later tasks of the run).
          seed: seed of new weights, order, augmentation and random exemplars (default: continue
            the run's random keys).
          progress: called after each epoch with the position of training.

        Returns:
          The learner itself.

        Raises:
          UserError: if the images, labels, names or options are wrong, if the method can't learn
            new classes, or if the loss becomes infinite or NaN.
        """
        lesson = teaching.checked(
            self.engine.method, self.class_names, self._checked(images), labels, class_names
        )
        room = teaching.room_for(self.room, self.state, len(lesson.class_names))
        engine, state = self.engine, self.state
        if room != self.room:
            engine = engine_of(self.config, None, room)
            wider = engine.create(
                *(self.image_shape, room.n_classes, state.normalizer),
                *(state.init_key, state.data_key),
            )
            state = widened(state, wider)
        state = teaching.taught(
            engine, self.config, state, lesson, epochs=epochs, seed=seed, progress=progress
        )
        self.engine, self.state, self.room = engine, state, room
        self.class_names += lesson.class_names
        return self

    def forget(self, class_name: str, images: np.ndarray | None = None) -> "SavedLearner":
        """Forgets a class exactly, as if the learner had never learned it.

        Methods whose network is frozen after the first task can forget classes of later tasks. If
        this raises, the learner is unchanged.

        Args:
          class_name: the name of the class.
          images: uint8 [N, H, W, C], all images that the class was learned from. Methods that sum
            over the images of all classes need them.

        Returns:
          The learner itself.

        Raises:
          UserError: if there is no such class, the method can't forget it, or needs its images.
        """
        if class_name not in self.class_names:
            raise UserError(
                f"unknown class {class_name!r}{nearest_name(class_name, self.class_names)}"
            )
        label = self.class_names.index(class_name)
        images = None if images is None else self._checked(images)
        self.state = forgetting.forgotten(self.engine, self.state, label, images)
        self.class_names = (*self.class_names[:label], *self.class_names[label + 1 :])
        return self

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the learner to a new or empty folder, from which `load` reads it.

        The folder is not that of a run: it has no results. If writing fails, the folder stays empty
        or is not created.

        Raises:
          UserError: if the folder is not empty or can't be written.
        """
        path = Path(folder)
        about = {
            "settings": self.config.recorded(),
            "class_names": self.class_names,
            "image_shape": self.image_shape,
            "room": self.room.n_classes,
            "n_tasks": self.room.n_tasks,
            "task_room": self.room.task_room,
            "versions": versions(),
        }
        with writing.writing(path):
            is_new = not path.exists()
            writing.make_folder(path)
            try:
                self._save(path, json.dumps(about, indent=1) + "\n")
            except BaseException:
                with contextlib.suppress(OSError):
                    if is_new:
                        path.rmdir()
                raise

    def _save(self, path: Path, about: str) -> None:
        writing.sweep(path)
        if any(path.iterdir()):
            raise UserError(f"{path} is not empty: choose another folder")
        with writing.scratch_folder(path) as scratch:
            with Checkpoints(scratch / "checkpoints") as checkpoints:
                checkpoints.save(self.state, {})
            writing.replace_text(scratch / LEARNER, about)
            for name in ("checkpoints", LEARNER):  # LEARNER last, since `load` looks for it
                writing.move(scratch / name, path / name)

    def checked_classifier(self, name: str | None) -> str:
        """Checks the name of a classifier; None stands for that of the method.

        Raises:
          UserError: if there is no such classifier.
        """
        if name is None:
            return self.engine.method.headline
        if name not in self.classifiers:
            raise UserError(f"unknown classifier {name!r}{nearest_name(name, self.classifiers)}")
        return name

    def _checked(self, images: np.ndarray) -> np.ndarray:
        return teaching.checked_images(images, self.image_shape)


class _Facts(NamedTuple):
    """What must be known of a learner before its arrays can be read.

    Attributes:
      settings: fields of Config.
      code: the entry `code` of its config.yaml; None if all of its code is the package's.
      class_names: the names of its classes; those that it has not learned yet come last.
      image_shape: (H, W, C) of its images.
      room: what its arrays have room for.
    """

    settings: dict[str, Any]
    code: Any
    class_names: list[str]
    image_shape: tuple[int, int, int]
    room: Room


def load(
    folder: str | os.PathLike,
    warn: Callable[[str], None] = warnings.warn,
    *,
    method: str | type | None = None,
    backbone: str | type | None = None,
) -> SavedLearner:
    """Loads the learner of a run, as it was after its last complete task, or a saved learner.

    Args:
      folder: the folder of a run, finished or not, or one written by `SavedLearner.save`.
      warn: called with a message about each damaged checkpoint that is skipped, and about code
        that has changed.
      method, backbone: the class, or "path.py:Class", that the learner was trained with, if it is
        from outside the package; the code that a folder names is not run unasked.

    Raises:
      UserError: if there is no learner or it can't be read, or if the run has not learned a task
        yet.
    """
    path = Path(folder)
    code.name(method, backbone)
    is_saved_alone = not RunFolder(path).holds_a_run and (path / LEARNER).exists()
    facts = _facts_of_learner(path) if is_saved_alone else _facts_of_run(path)
    for change in code.changes(facts.code):
        warn(f"{path} was trained with other code: {change}")
    config = loading.config_of({str(path): facts.settings})
    config = within_budget(config, None, facts.image_shape, facts.room)
    engine = engine_of(config, None, facts.room)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"{path} has no checkpoints")
    with Checkpoints(path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(_blank(path, engine, config, facts), warn)
    if restored is None:
        raise UserError(f"{path} has no checkpoints")
    learner = with_whole_tasks(restored[0])
    n_seen = int(learner.n_seen)
    if not n_seen:
        raise _unlearned(path)
    if not 0 < n_seen <= len(facts.class_names):
        problem = f"class_names: too few for the {n_seen} classes that the learner knows"
        raise reading.damaged(path, problem)
    return SavedLearner(config, learner, facts.class_names[:n_seen], facts.room)


def _facts_of_learner(path: Path) -> _Facts:
    """The facts about a learner that was saved on its own."""
    about = reading.read_json(path / LEARNER, schemas.LearnerAbout)
    recorded = {**about["settings"], "versions": about.get("versions", {})}
    settings = loading.recorded(recorded, str(path / LEARNER))
    height, width, channels = about["image_shape"]
    shape = (height, width, channels)
    # Learners of older formats do not say more; their checkpoints are refused by name.
    room = Room(about["room"], about.get("n_tasks", 1), about.get("task_room", 1))
    return _Facts(settings, recorded.get("code"), about["class_names"], shape, room)


def _facts_of_run(path: Path) -> _Facts:
    """The facts about the learner of a run."""
    run = RunFolder(path)
    if not run.holds_a_run:
        if run.members():
            run.settings()  # raises an error that names one of the members
        raise UserError(f"{path} holds neither a run nor a saved learner")
    recorded = run.settings()
    settings = loading.recorded(recorded, str(run.config_file))
    if not run.results_file.exists():
        raise _unlearned(path)
    results = run.results()
    run.need(("class_names", "image_shape", "augmentation"), "whose learner can't be loaded")
    names = results.get("class_names", [])
    height, width, channels = results.get("image_shape", [])
    # Settings that the run took from its data set.
    if augmentation := results.get("augmentation"):
        mirror = "yes" if augmentation["mirror"] else "no"
        settings |= {"pad": augmentation["pad"], "mirror": mirror}
    shape, room = (height, width, channels), room_of(results["task_sizes"])
    return _Facts(settings, recorded.get("code"), names, shape, room)


def _unlearned(path: Path) -> UserError:
    return UserError(f"{path} has not learned its first task yet: continue it with --resume")


def _blank(path: Path, engine: Engine, config: Config, facts: _Facts) -> Learner:
    """The shapes and types of the saved learner.

    Raises:
      UserError: if no learner can have these settings and images.
    """
    per_pixel = config.normalization == "per-pixel"
    shape = facts.image_shape if per_pixel else (1, 1, facts.image_shape[2])
    pixels: Any = jax.ShapeDtypeStruct(shape, np.float32)  # in place of arrays: nothing is computed
    try:
        return engine.blank(facts.image_shape, facts.room.n_classes, Normalizer(pixels, pixels))
    except (ValueError, TypeError, ArithmeticError) as error:  # sizes that no array can have
        raise reading.damaged(path, f"no network can have its settings: {error}") from error
