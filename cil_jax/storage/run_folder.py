"""The folder of a run: its settings, its measurements and its results.

runs/NAME/
  config.yaml     the settings, versions and machine: everything that affects the result
  metrics.jsonl   one line per epoch and one per evaluation
  results.json    the accuracy matrix and summary of each classifier
  exemplars.npz   the images kept, their classes and the names of all classes
  confusion.npz   see `cil_jax.storage.confusion_file`
  features/*.npz  features of some test images after each task, if --features asks for them
  why.json        why the run forgot, written by `cil-jax why`
  checkpoints/    see `cil_jax.storage.checkpoint`
  figures/*.png   report.html
  .lock .holder   see `cil_jax.storage.lock`
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cil_jax.confusion import Confusion
from cil_jax.errors import UserError
from cil_jax.files import npz, reading, writing
from cil_jax.settings.config import Config, is_moved
from cil_jax.storage import confusion_file, lock, schemas

LARGEST_METRICS = 2**31  # bytes of metrics.jsonl

MetricsLine = schemas.EpochLine | schemas.EvaluationLine


class RunFolder:
    """Reads and writes the files of one run.

    An object can be created for any path: nothing is written before `start` or `locked`. Methods
    that write raise a UserError if the system refuses it. Each file but metrics.jsonl, which grows
    by lines, is replaced as a whole or not at all.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.path = Path(folder)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.exemplars_file = self.path / "exemplars.npz"
        self.confusion_file = self.path / "confusion.npz"
        self.features_folder = self.path / "features"
        self.causes_file = self.path / "why.json"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.report_file = self.path / "report.html"

    @property
    def is_drawn(self) -> bool:
        """Whether all figures are there."""
        return (self.figures / "curves.png").exists()  # the last one that is drawn

    @property
    def holds_a_run(self) -> bool:
        """Whether the folder has the settings of a run.

        Raises:
          UserError: if the system refuses access to the folder.
        """
        try:
            self.config_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UserError(f"{self.path} can't be read: {error.strerror}") from error
        return True

    def settings(self) -> schemas.Settings:
        """The content of config.yaml.

        It has the settings under the names of their flags, and the entries in
        `cil_jax.settings.loading.NOT_SETTINGS`.

        Raises:
          UserError: if there is no run, or its settings can't be read.
        """
        if not self.holds_a_run:
            hint = "".join(
                f", but several runs are in it: choose one, such as {member.path}"
                for member in self.members()[:1]
            )
            raise UserError(f"{self.path} holds no run{hint}")
        try:
            values = reading.read_yaml(self.config_file)
        except UserError as error:
            problem = str(error).removeprefix(f"{self.config_file}: ")
            raise reading.damaged(self.config_file, problem) from error
        settings = reading.converted(values, schemas.Settings, self.config_file)
        if not isinstance(settings.get("versions", {}), dict):
            raise reading.damaged(self.config_file, "versions: it is not a mapping")
        return settings

    def check(self, config: Config) -> None:
        """Checks that a run with this config can start or, with `resume`, continue here.

        A changed path of the data set is accepted; the data itself is compared after loading.

        Raises:
          UserError: if there is a run already and `resume` is not set, if `resume` is set and there
            is no run or one of other settings, or if the folder has other content.
        """
        if config.resume:
            differences = self.differences(config)
            before, now = differences.get("dataset", ("", ""))
            if is_moved(str(before), now):
                del differences["dataset"]
            if differences:
                changes = "; ".join(f"{k} was {a}, is now {b}" for k, (a, b) in differences.items())
                raise UserError(f"{self.path} holds a run of other settings: {changes}")
        elif self.holds_a_run:
            raise UserError(
                f"{self.path} already holds a run: continue it with --resume, "
                "or choose another folder with --out"
            )
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --out names a folder")
        elif self.path.is_dir() and not all(
            file.name in (lock.LOCK, lock.HOLDER) or writing.is_temporary(file.name)
            for file in self.path.iterdir()
        ):  # a run that was killed while it started leaves only such files
            raise UserError(f"{self.path} is not empty and holds no run: choose another --out")

    def differences(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """The settings that affect the result and in which a config differs from the run.

        If a run is older than a setting, it counts as a run with the setting's default.

        Returns:
          For each such setting, the value of the run and that of the config.

        Raises:
          UserError: if there is no run, or its settings can't be read.
        """
        stored = {**type(config)(method=config.method).decisive(), **self.settings()}
        wanted = config.decisive()
        return {
            name: (stored[name], wanted[name]) for name in wanted if stored[name] != wanted[name]
        }

    def start(self, config: Config) -> None:
        """Creates the folder and writes config.yaml."""
        from cil_jax.platform import environment  # imports JAX

        settings = {**config.recorded(), **environment.describe()}
        with self.writing():
            writing.make_folder(self.path)
            writing.replace_text(self.config_file, yaml.safe_dump(settings, sort_keys=False))

    def follow(self, config: Config) -> None:
        """Stores the new path of the data set of a resumed run, if the data has moved.

        The settings then still reproduce the run, and the next --resume finds the data.
        """
        settings = self.settings()
        if settings.get("dataset") != config.dataset:
            with self.writing():
                text = yaml.safe_dump({**settings, "dataset": config.dataset}, sort_keys=False)
                writing.replace_text(self.config_file, text)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which nothing else, in this process or another, writes to the folder.

        Raises:
          UserError: if the folder is in use or can't be written.
        """
        with contextlib.ExitStack() as stack:
            with self.writing():
                writing.make_folder(self.path)
                stack.enter_context(lock.locked(self.path))
                writing.sweep(self.figures)
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A context that turns an OSError into a UserError which says how to continue the run."""
        try:
            yield
        except OSError as error:
            advice = ": fix this and continue the run with --resume; saved work is not lost"
            raise UserError(
                f"can't write to {self.path}: {error.strerror}{advice if self.holds_a_run else ''}"
            ) from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        with self.writing():
            writing.append_line(self.metrics_file, json.dumps(line, separators=(",", ":")))

    @property
    def n_lines(self) -> int:
        """The number of lines in metrics.jsonl."""
        return self.metrics_file.read_bytes().count(b"\n") if self.metrics_file.exists() else 0

    def cut(self, n_lines: int) -> None:
        """Keeps the first lines of metrics.jsonl; a resumed run writes the others again."""
        if self.metrics_file.exists():  # also drops a half-written last line
            with self.writing(), writing.replaced(self.metrics_file) as out:
                out.writelines(self._lines()[:n_lines])

    def read_metrics(self) -> tuple[list[MetricsLine], list[str]]:
        """Reads metrics.jsonl.

        Returns:
          The lines that can be read, and an error message for each of the others.
        """
        lines: list[MetricsLine] = []
        problems: list[str] = []
        for number, text in enumerate(self._lines(), start=1):
            try:
                lines.append(self._parsed_line(text, number))
            except UserError as error:
                problems.append(str(error))
        return lines, problems

    def measurements(self) -> list[MetricsLine]:
        """The lines of metrics.jsonl that can be read."""
        return self.read_metrics()[0]

    def damaged_lines(self) -> list[str]:
        """An error message for each line of metrics.jsonl that can't be read."""
        return self.read_metrics()[1]

    def _parsed_line(self, text: bytes, number: int) -> MetricsLine:
        source = f"{self.metrics_file}, line {number},"
        line = reading.from_json(text, dict[str, Any], source)
        schema = schemas.LINES.get(str(line.get("kind")))
        if schema is None:
            raise reading.damaged(source, f"kind: it must be one of {', '.join(schemas.LINES)}")
        return reading.converted(line, schema, source)

    def epochs(
        self, results: schemas.Results, lines: Iterable[MetricsLine] | None = None
    ) -> list[schemas.EpochLine]:
        """The epoch lines of metrics.jsonl, up to the last task that the results include.

        A run in progress has lines of later tasks.

        Args:
          results: the results of this run.
          lines: the lines of metrics.jsonl, if they have been read already.

        Raises:
          UserError: if the lines of a training of the plan have different parts of the loss.
        """
        n_tasks = schemas.n_learned(results)
        epochs = [
            line
            for line in (self.measurements() if lines is None else lines)
            if line["kind"] == "epoch" and line["task"] < n_tasks
        ]
        parts = {(line.get("training"), tuple(line.get("parts", ()))) for line in epochs}
        if len(parts) > len({training for training, _ in parts}):
            raise reading.damaged(self.metrics_file, "parts: they differ between epochs")
        return epochs

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Writes results.json; its content is a `schemas.Results`."""
        with self.writing():
            writing.replace_text(self.results_file, json.dumps(results, indent=1) + "\n")

    def drop_results(self) -> None:
        """Removes results.json, if it exists."""
        self.results_file.unlink(missing_ok=True)

    def results(self) -> schemas.Results:
        """The content of results.json.

        Raises:
          UserError: if it can't be read, or a field is missing or wrong.
        """
        results = reading.read_json(self.results_file, schemas.Results)
        if problem := schemas.problem_of_results(results):
            raise reading.damaged(self.results_file, problem)
        return results

    def members(self) -> list["RunFolder"]:
        """The runs in the folder, if it is the folder of a group of runs."""
        if self.holds_a_run:
            return []
        folders = map(RunFolder, sorted(self.path.glob("*/")))
        return [folder for folder in folders if folder.holds_a_run]

    def need(self, keys: Iterable[str], consequence: str) -> None:
        """Checks that results.json has some keys that older versions did not write.

        Args:
          keys: the keys.
          consequence: the end of the error message, such as "whose page can't be made".

        Raises:
          UserError: if keys are missing; names them.
        """
        missing = sorted(set(keys) - self.results().keys())
        if missing:
            raise UserError(
                f"{self.results_file} lacks {', '.join(missing)}: it was written by an older "
                f"version, {consequence}"
            )

    def write_exemplars(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        """Writes exemplars.npz. Equal arrays give equal bytes.

        Args:
          images: uint8 [N, H, W, C]; those of a class in the order of their selection.
          labels: int [N], indices into `names`.
          names: the names of all classes, in the order of the tasks.
        """
        arrays = {"images": images, "labels": labels, "names": np.array(names, dtype=np.str_)}
        with self.writing(), writing.replaced(self.exemplars_file) as out:
            np.savez(out, **arrays)

    def exemplars(self) -> tuple[np.ndarray, np.ndarray]:
        """The exemplars of the run.

        Returns:
          Images uint8 [N, H, W, C], and their classes int [N]. N is 0 if the run keeps none.

        Raises:
          UserError: if exemplars.npz can't be read, or its arrays have the wrong shape or type.
        """
        if not self.exemplars_file.exists():
            return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int)
        images, labels = npz.read_arrays(self.exemplars_file, ("images", "labels"))
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            wanted = "uint8 [N, H, W, 1 or 3]"
            problem = f"images: {images.dtype} {list(images.shape)}; they must be {wanted}"
        elif labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            wanted = f"integers [{len(images)}]"
            problem = f"labels: {labels.dtype} {list(labels.shape)}; they must be {wanted}"
        elif images.shape[0] and 0 in images.shape:
            problem = "images: no pixels"
        else:
            return images, labels
        raise reading.damaged(self.exemplars_file, problem)

    def write_confusions(self, confusions: Mapping[str, Confusion]) -> None:
        """Writes confusion.npz.

        Args:
          confusions: the matrix of each classifier in one evaluation.
        """
        with self.writing():
            confusion_file.write(self.confusion_file, confusions)

    def drop_confusions(self) -> None:
        """Removes confusion.npz, if it exists."""
        self.confusion_file.unlink(missing_ok=True)

    def write_features(self, task: int, features: np.ndarray, labels: np.ndarray) -> None:
        """Writes the features of some test images after a task.

        Args:
          task: the task, from 0.
          features: float32 [N, D].
          labels: int [N], the classes of the images in the order in which they were learned.
        """
        with self.writing():
            writing.make_folder(self.features_folder)
            with writing.replaced(self._features_file(task)) as out:
                np.savez(out, features=features, labels=labels)

    def features(self, task: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The features and labels that `write_features` has written; None if it has not.

        Raises:
          UserError: if the file can't be read, or its arrays have the wrong shape or type.
        """
        file = self._features_file(task)
        if not file.exists():
            return None
        features, labels = npz.read_arrays(file, ("features", "labels"))
        if features.dtype != np.float32 or features.ndim != 2 or not np.isfinite(features).all():
            wanted = "finite float32 [N, D]"
            problem = f"features: {features.dtype} {list(features.shape)}; they must be {wanted}"
        elif labels.dtype.kind not in "iu" or labels.shape != features.shape[:1]:
            problem = f"labels: {labels.dtype} {list(labels.shape)}; integers [{len(features)}]"
        else:
            return features, labels
        raise reading.damaged(file, problem)

    def _features_file(self, task: int) -> Path:
        return self.features_folder / f"task{task + 1}.npz"

    def write_causes(self, causes: schemas.Causes) -> None:
        """Writes why.json."""
        with self.writing():
            writing.replace_text(self.causes_file, json.dumps(causes, indent=1) + "\n")

    def causes(self) -> schemas.Causes | None:
        """The content of why.json; None if there is none.

        Raises:
          UserError: if it can't be read, or a field is missing or wrong.
        """
        if not self.causes_file.exists():
            return None
        causes = reading.read_json(self.causes_file, schemas.Causes)
        if any(len(row) != len(causes["tasks"]) for row in causes["task_confusion"]):
            raise reading.damaged(self.causes_file, "task_confusion: a row has not one per task")
        return causes

    def confusions(self, results: schemas.Results) -> dict[str, Confusion]:
        """The confusion matrix of each classifier in the last evaluation.

        It may be of one task more than the results, which are written later. Older versions wrote
        no confusion.npz; their matrices are read from metrics.jsonl.

        Args:
          results: the results of this run.

        Raises:
          UserError: if there are no matrices, or they do not fit the results.
        """
        if self.confusion_file.exists():
            return confusion_file.read(self.confusion_file, results)
        return self._confusions_of_line(results)

    def _confusions_of_line(self, results: schemas.Results) -> dict[str, Confusion]:
        """The confusion matrices in the last evaluation line, as older versions wrote them."""
        n_tasks, classifiers = schemas.n_learned(results), list(results["classifiers"])
        lines = [
            line
            for line in self.measurements()
            if line["kind"] == "evaluation" and line["task"] == n_tasks - 1 and "confusion" in line
        ]
        if not lines:
            raise UserError(
                f"{self.confusion_file} is missing: continue the run with --resume, which writes it"
            )
        n_seen = sum(results["task_sizes"][:n_tasks])
        if problem := schemas.problem_of_evaluation(lines[-1], n_seen, classifiers):
            raise reading.damaged(self.metrics_file, problem)
        matrices = lines[-1].get("confusion", {})
        return {name: Confusion.of(matrices[name]) for name in classifiers}

    def _lines(self) -> list[bytes]:
        if not self.metrics_file.exists():
            return []
        # After the last newline there is nothing, or a half-written line.
        *lines, _ = reading.read_bytes(self.metrics_file, LARGEST_METRICS).split(b"\n")
        return [line + b"\n" for line in lines]


class Unwritten(RunFolder):
    """A run folder that is read but never written: that of every process except the first."""

    def start(self, config: Config) -> None:
        """Does nothing."""

    def follow(self, config: Config) -> None:
        """Does nothing."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Does nothing."""
        yield

    def append(self, line: Mapping[str, Any]) -> None:
        """Does nothing."""

    def cut(self, n_lines: int) -> None:
        """Does nothing."""

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Does nothing."""

    def drop_results(self) -> None:
        """Does nothing."""

    def write_exemplars(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        """Does nothing."""

    def write_confusions(self, confusions: Mapping[str, Confusion]) -> None:
        """Does nothing."""

    def drop_confusions(self) -> None:
        """Does nothing."""

    def write_features(self, task: int, features: np.ndarray, labels: np.ndarray) -> None:
        """Does nothing."""
