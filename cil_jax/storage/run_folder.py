"""The folder of a run: its settings, its measurements and its results.

runs/NAME/
  config.yaml     everything that decides the result, versions and machine included
  metrics.jsonl   one line an epoch and one an evaluation
  results.json    the accuracy matrix and summary of each classifier
  exemplars.npz   images kept, their classes and the classes' names
  confusion.npz   the cells of each classifier's confusion matrix, of the last evaluation
  checkpoints/    see `cil_jax.storage.checkpoint`
  figures/*.png   report.html
  .lock           held by the process that writes, which .holder names
"""

import contextlib
import json
import os
import platform
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import yaml

from cil_jax.confusion import Confusion
from cil_jax.errors import UserError
from cil_jax.files import reading, writing
from cil_jax.settings.config import Config, is_moved
from cil_jax.storage import schemas

UNBORN = {".lock", ".holder"}  # what a run leaves that was killed while it was made
LARGEST_METRICS = 2**31  # bytes of metrics.jsonl
CELLS = "cells of "  # in confusion.npz, before a classifier's name
LARGEST_CELLS = 2**28  # bytes of the cells of a confusion matrix: 20 million of them


class RunFolder:
    """Files of one run. Nothing is made until `start`."""

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.results_file = self.path / "results.json"
        self.exemplars_file = self.path / "exemplars.npz"
        self.confusion_file = self.path / "confusion.npz"
        self.checkpoints = self.path / "checkpoints"
        self.figures = self.path / "figures"
        self.report_file = self.path / "report.html"
        self.lock_file = self.path / ".lock"  # filelock's own: nothing else may be written to it
        self.holder_file = self.path / ".holder"

    @property
    def holds_a_run(self) -> bool:
        """Whether there are settings of a run.

        Raises:
          UserError: if the system does not let us see that.
        """
        try:
            self.config_file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise UserError(f"{self.path} can't be read: {error.strerror}") from error
        return True

    def settings(self) -> schemas.Settings:
        """The settings under their flags' names, and beside them `recipes.NOT_SETTINGS`.

        Raises:
          UserError: if there is no run, or its settings can't be read.
        """
        if not self.holds_a_run:
            several = "".join(
                f" itself, but several in it: name one, such as {run.path}"
                for run in self.members()[:1]
            )
            raise UserError(f"{self.path} holds no run{several}")
        try:
            found = reading.read_yaml(self.config_file)
        except UserError as error:
            said = str(error).removeprefix(f"{self.config_file}: ")
            raise reading.damaged(self.config_file, said) from error
        settings = reading.converted(found, schemas.Settings, self.config_file)
        if not isinstance(settings.get("versions", {}), dict):
            raise reading.damaged(self.config_file, "versions: they are no mapping")
        return settings

    def check(self, config: Config) -> None:
        """Refuses to overwrite a run, to resume none, or to resume one of other settings.

        The data may have moved: what it holds is compared when it has been loaded.

        Raises:
          UserError: which of these, and where the settings differ.
        """
        if config.resume:
            differences = self.differences(config)
            before, now = differences.get("dataset", ("", ""))
            if is_moved(str(before), now):
                del differences["dataset"]
            if differences:
                said = "; ".join(f"{k} was {a}, is now {b}" for k, (a, b) in differences.items())
                raise UserError(f"{self.path} holds a run of other settings: {said}")
        elif self.holds_a_run:
            raise UserError(
                f"{self.path} already holds a run: continue it with --resume, "
                "or choose another folder with --out"
            )
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --out names a folder")
        elif self.path.is_dir() and not all(
            f.name in UNBORN or writing.is_temporary(f.name) for f in self.path.iterdir()
        ):
            raise UserError(f"{self.path} is not empty and holds no run: choose another --out")

    def differences(self, config: Config) -> dict[str, tuple[Any, Any]]:
        """Settings that decide the result and are not the run's: its value and the config's.

        A run that is older than a setting did what the setting's default does.

        Raises:
          UserError: if there is no run, or its settings can't be read.
        """
        there = {**Config().decisive(), **self.settings()}
        here = config.decisive()
        return {name: (there[name], here[name]) for name in here if there[name] != here[name]}

    def start(self, config: Config) -> None:
        """Makes the folder and writes the settings, and what else a result depends on.

        Raises:
          UserError: if it can't be written, as with all that writes here.
        """
        from cil_jax.platform import environment  # which needs JAX

        settings = {**config.decisive(), **environment.describe()}
        with self.writing():
            writing.make_folder(self.path)
            writing.replace_text(self.config_file, yaml.safe_dump(settings, sort_keys=False))

    def follow(self, config: Config) -> None:
        """Writes where the data of a resumed run is now, if it has moved.

        So the settings repeat the run, and the next --resume finds the data.
        """
        settings = self.settings()
        if settings.get("dataset") != config.dataset:
            with self.writing():
                text = yaml.safe_dump({**settings, "dataset": config.dataset}, sort_keys=False)
                writing.replace_text(self.config_file, text)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process, nor another run in this one, writes here.

        The system gives the lock back when a process ends, however it does.

        Raises:
          UserError: if the folder is in use, by whom.
        """
        lock = filelock.FileLock(self.lock_file)
        with self.writing():
            writing.make_folder(self.path)
            try:
                with warnings.catch_warnings():  # that it makes do without flock
                    warnings.simplefilter("ignore")
                    lock.acquire(timeout=0)
            except filelock.Timeout:
                raise self._in_use() from None
        try:
            with self.writing():
                holder = f"process {os.getpid()} on {platform.node()}"
                writing.replace_text(self.holder_file, holder)
                writing.sweep(self.figures)
            yield
        finally:
            with contextlib.suppress(OSError):
                self.holder_file.unlink(missing_ok=True)
            lock.release()

    def _in_use(self) -> UserError:
        try:
            holder = self.holder_file.read_text(errors="replace")
        except OSError:  # it has only just begun
            holder = "which has just started"
        return UserError(
            f"{self.path} is in use by another process ({holder}): wait until it ends, or stop it; "
            f"if it ended on another machine, remove {self.lock_file}"
        )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which what the system refuses is said in the user's words."""
        try:
            yield
        except OSError as error:
            then = ": put that right and continue the run with --resume, nothing saved is lost"
            raise UserError(
                f"can't write to {self.path}: {error.strerror}{then if self.holds_a_run else ''}"
            ) from error

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line to metrics.jsonl."""
        with self.writing():
            writing.append_line(self.metrics_file, json.dumps(line, separators=(",", ":")))

    @property
    def n_lines(self) -> int:
        """Lines in metrics.jsonl."""
        return self.metrics_file.read_bytes().count(b"\n") if self.metrics_file.exists() else 0

    def cut(self, n_lines: int) -> None:
        """Drops the lines that a resumed run will write again, without reading them."""
        if self.metrics_file.exists():  # the last line may be half written: it goes as well
            with self.writing(), writing.replaced(self.metrics_file) as out:
                out.writelines(self._lines()[:n_lines])

    def measurements(self) -> list[schemas.EpochLine | schemas.EvaluationLine]:
        """The lines of metrics.jsonl, except the `damaged_lines`."""
        return [line for line in self._parsed() if not isinstance(line, str)]

    def damaged_lines(self) -> list[str]:
        """What is wrong with each line of metrics.jsonl that can't be read, and which it is."""
        return [line for line in self._parsed() if isinstance(line, str)]

    def _measurement(self, text: bytes, number: int) -> Any:
        source = f"{self.metrics_file}, line {number},"
        line = reading.from_json(text, dict[str, Any], source)
        schema = schemas.LINES.get(str(line.get("kind")))
        if schema is None:
            raise reading.damaged(source, f"kind: it must be one of {', '.join(schemas.LINES)}")
        return reading.converted(line, schema, source)

    def epochs(self, results: schemas.Results) -> list[schemas.EpochLine]:
        """The lines of metrics.jsonl after each epoch of the tasks that results tell of.

        A run that goes on writes more lines than that.

        Args:
          results: of this run.

        Raises:
          UserError: if they do not fit each other.
        """
        n_tasks = len(results["classifiers"][results["headline"]]["seen_accuracy"])
        epochs = [
            line
            for line in self.measurements()
            if line["kind"] == "epoch" and line["task"] < n_tasks
        ]
        if len({tuple(line.get("parts", ())) for line in epochs}) > 1:
            raise reading.damaged(self.metrics_file, "parts: they differ between epochs")
        return epochs

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json, whole or not at all."""
        with self.writing():
            writing.replace_text(self.results_file, json.dumps(results, indent=1) + "\n")

    def drop_results(self) -> None:
        """Removes results.json, if it is there."""
        self.results_file.unlink(missing_ok=True)

    def results(self) -> schemas.Results:
        """What results.json holds.

        Raises:
          UserError: if it can't be read, or a field is missing or wrong.
        """
        results = reading.read_json(self.results_file, schemas.Results)
        if problem := schemas.problem_of_results(results):
            raise reading.damaged(self.results_file, problem)
        return results

    def members(self) -> list["RunFolder"]:
        """The runs in it, where it is the folder of several members."""
        if self.holds_a_run:
            return []
        inside = map(RunFolder, sorted(self.path.glob("*/")))
        return [run for run in inside if run.holds_a_run]

    def need(self, keys: Iterable[str], so: str) -> None:
        """Refuses results that lack keys, as an older version wrote them.

        Args:
          keys: of results.json.
          so: what can't be done without them.

        Raises:
          UserError: which are missing.
        """
        missing = sorted(set(keys) - self.results().keys())
        if missing:
            raise UserError(
                f"{self.results_file} does not say {', '.join(missing)}: it was written by an "
                f"older version, {so}"
            )

    def write_exemplars(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        """Writes exemplars.npz, whole or not at all; the same arrays give the same bytes.

        Args:
          images: uint8 [N, H, W, C], of each class in the order of selection.
          labels: int [N], classes in the order in which they came.
          names: of all classes, in that order.
        """
        arrays = {"images": images, "labels": labels, "names": np.array(names, dtype=np.str_)}
        with self.writing(), writing.replaced(self.exemplars_file) as out:
            np.savez(out, **arrays)

    def exemplars(self) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, H, W, C] that were kept, and their classes [N]; none if N is 0.

        Raises:
          UserError: if the file can't be read, or its arrays are of another form.
        """
        if not self.exemplars_file.exists():
            return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int)
        images, labels = reading.read_arrays(self.exemplars_file, ("images", "labels"))
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            problem = f"images: {images.dtype} {list(images.shape)}, not uint8 [N, H, W, 1 or 3]"
        elif labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            problem = f"labels: {labels.dtype} {list(labels.shape)}, not integers [{len(images)}]"
        elif images.shape[0] and 0 in images.shape:
            problem = "images: they have no pixels"
        else:
            return images, labels
        raise reading.damaged(self.exemplars_file, problem)

    def write_confusions(self, confusions: Mapping[str, Confusion]) -> None:
        """Writes confusion.npz, whole or not at all.

        Args:
          confusions: of one evaluation, by classifier; all of the same classes.
        """
        arrays = {f"{CELLS}{name}": found.cells for name, found in confusions.items()}
        n_seen = next(iter(confusions.values())).n_classes
        with self.writing(), writing.replaced(self.confusion_file) as out:
            np.savez_compressed(out, n_seen=n_seen, **arrays)

    def drop_confusions(self) -> None:
        """Removes confusion.npz, if it is there."""
        self.confusion_file.unlink(missing_ok=True)

    def confusions(self, results: schemas.Results) -> dict[str, Confusion]:
        """The confusion matrices of the last evaluation, by classifier.

        They may have a task more than the results, which are written after them. Versions before
        confusion.npz had them in each evaluation's line.

        Args:
          results: of this run.

        Raises:
          UserError: if there are none, or they do not fit the results.
        """
        n_tasks = len(results["classifiers"][results["headline"]]["seen_accuracy"])
        n_seen, n_classes = sum(results["task_sizes"][:n_tasks]), sum(results["task_sizes"])
        classifiers = list(results["classifiers"])
        if not self.confusion_file.exists():
            return self._confusions_of_line(n_tasks - 1, n_seen, classifiers)
        names = ("n_seen", *(f"{CELLS}{name}" for name in classifiers))
        n_measured, *cells_of_each = reading.read_arrays(self.confusion_file, names, LARGEST_CELLS)
        if n_measured.shape or n_measured.dtype.kind not in "iu":
            raise reading.damaged(self.confusion_file, "n_seen: it is no whole number")
        if not n_seen <= n_measured <= n_classes:
            problem = f"n_seen: {n_measured}, where {n_seen} classes were seen"
            raise reading.damaged(self.confusion_file, problem)
        for name, cells in zip(classifiers, cells_of_each, strict=True):
            problem = ""
            if cells.dtype != np.int32 or cells.ndim != 2 or len(cells) != 3:
                problem = f"{cells.dtype} {list(cells.shape)}, not int32 [3, cells]"
            elif cells.size and (cells.min() < 0 or cells[:2].max() >= n_measured):
                problem = f"classes beyond the {n_measured} seen"
            if problem:
                raise reading.damaged(self.confusion_file, f"{CELLS}{name}: {problem}")
        return {
            name: Confusion(int(n_measured), cells)
            for name, cells in zip(classifiers, cells_of_each, strict=True)
        }

    def _confusions_of_line(
        self, task: int, n_seen: int, classifiers: list[str]
    ) -> dict[str, Confusion]:
        """The confusion matrices in the line of a task's evaluation."""
        lines = [
            line
            for line in self.measurements()
            if line["kind"] == "evaluation" and line["task"] == task and "confusion" in line
        ]
        if not lines:
            raise UserError(
                f"{self.confusion_file} is missing: continue the run with --resume, which writes it"
            )
        problem = schemas.problem_of_evaluation(lines[-1], n_seen, classifiers)
        if problem:
            raise reading.damaged(self.metrics_file, problem)
        return {name: Confusion.of(lines[-1]["confusion"][name]) for name in classifiers}

    def _lines(self) -> list[bytes]:
        if not self.metrics_file.exists():
            return []
        *lines, _ = reading.read_bytes(self.metrics_file, LARGEST_METRICS).split(b"\n")
        return [line + b"\n" for line in lines]  # the last may be half written

    def _parsed(self) -> Iterator[schemas.EpochLine | schemas.EvaluationLine | str]:
        """Each line of metrics.jsonl, or what is wrong with it."""
        for number, line in enumerate(self._lines(), start=1):
            try:
                yield self._measurement(line, number)
            except UserError as error:
                yield str(error)


class Unwritten(RunFolder):
    """The folder as all processes see it but the first, which writes for all."""

    def start(self, config: Config) -> None:
        """Nothing."""

    def follow(self, config: Config) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing."""
        yield

    def append(self, line: dict[str, Any]) -> None:
        """Nothing."""

    def cut(self, n_lines: int) -> None:
        """Nothing."""

    def write_results(self, results: dict[str, Any]) -> None:
        """Nothing."""

    def drop_results(self) -> None:
        """Nothing."""

    def write_exemplars(self, images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
        """Nothing."""

    def write_confusions(self, confusions: Mapping[str, Confusion]) -> None:
        """Nothing."""

    def drop_confusions(self) -> None:
        """Nothing."""
