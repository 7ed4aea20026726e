"""A learner taken from the folder of a run: to ask, to teach further, and to save again.

learner = cil_jax.load("runs/icarl")
learner.predict(images).names
learner.learn(new_images, labels, ["owl", "bat"])

The data set of the run is not needed: all is in its folder.
"""

import contextlib
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cil_jax.errors import UserError, nearest_name
from cil_jax.files import reading, writing
from cil_jax.learner import Learner, Normalizer, with_whole_tasks
from cil_jax.platform.versions import versions
from cil_jax.settings import loading
from cil_jax.settings.config import Config
from cil_jax.storage import schemas
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder
from cil_jax.trained import teaching
from cil_jax.training.build import engine_of
from cil_jax.training.callbacks import Position
from cil_jax.training.engine import Engine

LEARNER = "learner.json"  # of a saved learner that is no run
BATCHES = (16, 256)  # images at once: so that any number of them compiles two programs at most


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a learner says of images.

    Attributes:
      labels: int [N], the best class of each image, a place in class_names.
      scores: float32 [N, classes].
      class_names: of all classes it knows.
      classifier: who answered, such as "nme" or "linear".
      meaning: what the scores are.
    """

    labels: np.ndarray
    scores: np.ndarray
    class_names: tuple[str, ...]
    classifier: str
    meaning: str

    @property
    def names(self) -> list[str]:
        """The name of the best class of each image."""
        return [self.class_names[label] for label in self.labels]

    def top(self, k: int) -> list[list[tuple[str, float]]]:
        """For each image the k best classes with their scores, the best first."""
        is_other = np.arange(len(self.class_names)) != self.labels[:, None]
        order = np.lexsort((is_other, -self.scores))[:, :k]  # of equal scores the answer's first
        return [
            [(self.class_names[label], float(scores[label])) for label in labels]
            for labels, scores in zip(order, self.scores, strict=True)
        ]


class SavedLearner:
    """A learner outside the run that made it.

    Attributes:
      config: the settings it is trained with.
      engine: the compiled programs.
      state: all that it has learned, as one tree of arrays; not to be changed.
      class_names: of the classes it knows, in the order in which it learned them.
    """

    def __init__(self, config: Config, state: Learner, class_names: Sequence[str]):
        self.config, self.state, self.class_names = config, state, tuple(class_names)
        self.engine = engine_of(config, None)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images it takes."""
        return self.state.image_shape

    @property
    def classifiers(self) -> list[str]:
        """The names of those who can answer, the method's own first."""
        names = list(self.engine.method.classifiers())
        return sorted(names, key=lambda name: name != self.engine.method.headline)

    def predict(self, images: np.ndarray, classifier: str | None = None) -> Answers:
        """What the learner says of images.

        Args:
          images: uint8 [N, H, W, C], or [N, H, W] where they are grey.
          classifier: one of `classifiers` (default: the method's own).

        Returns:
          The best class of each image, and the scores of all classes it knows. "linear" gives
          probabilities: over all classes, or, after training with a sigmoid loss, of each class by
          itself. "nme" gives the cosine to the mean of each class' exemplars, at most 1.

        Raises:
          UserError: if the images are of another form, or there is no such classifier.
        """
        name = self.checked_classifier(classifier)
        images = self._checked(images)
        size = next((s for s in BATCHES if len(images) <= s), BATCHES[-1])
        n_classes = len(self.class_names)
        labels, scores = [np.zeros(0, int)], [np.zeros((0, n_classes), np.float32)]
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            filled = np.zeros((size, *self.image_shape), np.uint8)
            filled[: len(batch)] = batch
            best, of_all = self.engine.answers(self.state, filled)[name]
            labels.append(np.asarray(best)[: len(batch)])
            scores.append(np.asarray(of_all)[: len(batch), :n_classes])
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
        """Teaches new classes, as a further task of the run: from these arrays and its exemplars.

        The learner knows them afterwards. Until then, or if it fails, it is what it was.

        Args:
          images: uint8 [N, H, W, C], or [N, H, W] where they are grey.
          labels: int [N], places in class_names.
          class_names: of the new classes.
          epochs: passes over the images (default: as the run's later tasks).
          seed: of new weights and of order, augmentation and random exemplars (default: the run's).
          progress: is told after each epoch where training stands.

        Returns:
          The learner itself.

        Raises:
          UserError: if the images, labels or names do not allow it, or the method does not.
        """
        lesson = teaching.checked(
            self.engine.method, self.class_names, self._checked(images), labels, class_names
        )
        self.state = teaching.taught(
            self.engine,
            self.config,
            self.state,
            lesson,
            epochs=epochs,
            seed=seed,
            progress=progress,
        )
        self.class_names += lesson.class_names
        return self

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the learner to a new folder, for `load`. The folder is no run: it has no results.

        If that fails, the folder stays empty, or is not made.

        Raises:
          UserError: if there is something in the folder, or it can't be written.
        """
        path = Path(folder)
        about = {
            "settings": self.config.decisive(),
            "class_names": self.class_names,
            "image_shape": self.image_shape,
            "room": self.state.means.shape[0],
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
            for name in ("checkpoints", LEARNER):  # the last is what `load` looks for
                writing.move(scratch / name, path / name)

    def checked_classifier(self, name: str | None) -> str:
        """The name of a classifier, the method's own where none is given.

        Raises:
          UserError: if there is none of that name.
        """
        if name is None:
            return self.engine.method.headline
        if name not in self.classifiers:
            raise UserError(f"unknown classifier {name!r}{nearest_name(name, self.classifiers)}")
        return name

    def _checked(self, images: np.ndarray) -> np.ndarray:
        return teaching.checked_images(images, self.image_shape)


def load(folder: str | os.PathLike, warn: Callable[[str], None] = warnings.warn) -> SavedLearner:
    """The learner of a run, as it was after its last whole task; or one that was saved.

    Args:
      folder: of a run, finished or not, or what `SavedLearner.save` wrote.
      warn: is told of a damaged checkpoint that was passed over.

    Raises:
      UserError: if there is no such learner, or the run has not learned a task yet.
    """
    path = Path(folder)
    if not RunFolder(path).holds_a_run and (path / LEARNER).exists():
        about = reading.read_json(path / LEARNER, schemas.LearnerAbout)
        settings = loading.from_plain(about["settings"], str(path / LEARNER))
    else:
        about, settings = _run(path)
    config = Config(**settings)
    engine = engine_of(config, None)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"{path} has no checkpoints")
    with Checkpoints(path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(_blank(path, engine, config, about), warn)
    if restored is None:
        raise UserError(f"{path} has no checkpoints")
    learner = with_whole_tasks(restored[0])
    n_seen = int(learner.n_seen)
    if not n_seen:
        raise _unlearned(path)
    if not 0 < n_seen <= len(about["class_names"]):
        raise reading.damaged(path, f"class_names: too few for the {n_seen} classes it has learned")
    return SavedLearner(config, learner, about["class_names"][:n_seen])


def _run(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is to be known of a run's learner, and its settings as fields of Config."""
    run = RunFolder(path)
    if not run.holds_a_run:
        if run.members():
            run.settings()  # says which runs are in it
        raise UserError(f"{path} holds neither a run nor a saved learner")
    settings = loading.read(run.config_file)
    if not run.results_file.exists():
        raise _unlearned(path)
    results = run.results()
    run.need(("class_names", "image_shape", "augmentation"), "whose runs can't be taken up")
    # What the settings left to the data set.
    varied = results["augmentation"]
    settings |= {"pad": varied["pad"], "mirror": "yes" if varied["mirror"] else "no"}
    return {**results, "room": len(results["class_names"])}, settings


def _unlearned(path: Path) -> UserError:
    return UserError(f"{path} has not learned its first task yet: go on with --resume")


def _blank(path: Path, engine: Engine, config: Config, about: Mapping[str, Any]) -> Learner:
    """The shapes and types of the learner that was saved.

    Raises:
      UserError: if no learner has such settings and images.
    """
    image_shape = tuple(about["image_shape"])
    per_pixel = config.normalization == "per-pixel"
    shape = image_shape if per_pixel else (1, 1, image_shape[2])
    pixels = jax.ShapeDtypeStruct(shape, np.float32)
    try:
        return engine.blank(image_shape, about["room"], Normalizer(pixels, pixels))
    except (ValueError, TypeError, ArithmeticError) as error:  # numbers beyond what arrays can have
        raise reading.damaged(path, f"its settings make no network: {error}") from error
