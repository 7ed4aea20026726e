"""The folder of a run: its settings, its measurements and its results.

runs/NAME/
  config.yaml     everything that decides the result, versions included
  metrics.jsonl   one line an epoch and one an evaluation
  results.json    the accuracy matrix and summary of each classifier
  exemplars.npz   images kept, their classes and the classes' names
  confusion.npz   the cells of each classifier's confusion matrix, of the last evaluation
  checkpoints/    see `cil_jax.checkpoint`
  figures/*.png   report.html
  .lock           held by the process that writes
"""

import contextlib
import json
import os
import platform
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import yaml

import cil_jax
from cil_jax.config import Config, UserError
from cil_jax.confusion import Confusion

UNBORN = {"config.yaml.tmp", ".lock"}  # all that a run leaves which was killed while it was made
CELLS = "cells of "  # in confusion.npz, before a classifier's name
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of Python and the packages that a result may depend on."""
    found = {"python": platform.python_version(), "cil_jax": cil_jax.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


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
        self.lock_file = self.path / ".lock"

    @property
    def holds_a_run(self) -> bool:
        return self.config_file.exists()

    def settings(self) -> dict[str, Any]:
        """The settings under their flags' names, and `versions`.

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
            settings = yaml.safe_load(self.config_file.read_text())
        except yaml.YAMLError as error:
            raise UserError(f"{self.config_file} is damaged: {_line(error)}") from error
        if not isinstance(settings, dict):
            raise UserError(f"{self.config_file} is damaged: it holds no settings")
        return settings

    def check(self, config: Config) -> None:
        """Refuses to overwrite a run, to resume none, or to resume one of other settings.

        Raises:
          UserError: which of these, and where the settings differ.
        """
        if config.resume:
            differences = self.differences(config)
            if differences:
                said = "; ".join(f"{k} was {a}, is now {b}" for k, (a, b) in differences.items())
                raise UserError(f"{self.path} holds a run of other settings: {said}")
        elif self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --out names a folder")
        elif self.holds_a_run:
            raise UserError(
                f"{self.path} already holds a run: continue it with --resume, "
                "or choose another folder with --out"
            )
        elif self.path.is_dir() and not {f.name for f in self.path.iterdir()} <= UNBORN:
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
        """Makes the folder and writes the settings.

        Raises:
          UserError: if it can't be written, as with all that writes here.
        """
        settings = {**config.decisive(), "versions": versions()}
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            replace_text(self.config_file, yaml.safe_dump(settings, sort_keys=False))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process, nor another run in this one, writes here.

        The system gives the lock back when a process ends, however it does.

        Raises:
          UserError: if the folder is in use, by whom.
        """
        lock = filelock.FileLock(self.lock_file)
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise UserError(
                    f"{self.path} is in use by another process ({self.lock_file.read_text()}): "
                    "wait until it ends, or stop it"
                ) from None
        try:
            with self.writing():
                self.lock_file.write_text(f"process {os.getpid()} on {platform.node()}")
            yield
        finally:
            lock.release()

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
        with self.writing(), self.metrics_file.open("a") as out:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
            out.flush()
            os.fsync(out.fileno())

    @property
    def n_lines(self) -> int:
        """Lines in metrics.jsonl."""
        return self.metrics_file.read_bytes().count(b"\n") if self.metrics_file.exists() else 0

    def cut(self, n_lines: int) -> None:
        """Drops the lines that a resumed run will write again."""
        if self.metrics_file.exists():  # the last line may be half written: it goes as well
            with self.writing():
                replace_text(self.metrics_file, "".join(self._lines()[:n_lines]))

    def measurements(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return [from_json(line, self.metrics_file) for line in self._lines()]

    def write_results(self, results: dict[str, Any]) -> None:
        """Writes results.json, whole or not at all."""
        with self.writing():
            replace_text(self.results_file, json.dumps(results, indent=1) + "\n")

    def drop_results(self) -> None:
        """Removes results.json, if it is there."""
        self.results_file.unlink(missing_ok=True)

    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return from_json(self.results_file.read_text(), self.results_file)

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
        """Writes exemplars.npz, whole or not at all.

        Args:
          images: uint8 [N, H, W, C], of each class in the order of selection.
          labels: int [N], classes in the order in which they came.
          names: of all classes, in that order.
        """
        arrays = {"images": images, "labels": labels, "names": np.array(names, dtype=np.str_)}
        file = self.exemplars_file
        with self.writing(), replaced(file) as temporary, temporary.open("wb") as out:
            np.savez(out, **arrays)

    def exemplars(self) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, H, W, C] that were kept, and their classes [N]; none if N is 0."""
        if not self.exemplars_file.exists():
            return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, int)
        with np.load(self.exemplars_file) as arrays:
            return arrays["images"], arrays["labels"]

    def write_confusions(self, confusions: Mapping[str, Confusion]) -> None:
        """Writes confusion.npz, whole or not at all.

        Args:
          confusions: of one evaluation, by classifier; all of the same classes.
        """
        arrays = {f"{CELLS}{name}": one.cells for name, one in confusions.items()}
        n_seen = next(iter(confusions.values())).n_classes
        file = self.confusion_file
        with self.writing(), replaced(file) as temporary, temporary.open("wb") as out:
            np.savez_compressed(out, n_seen=n_seen, **arrays)

    def drop_confusions(self) -> None:
        """Removes confusion.npz, if it is there."""
        self.confusion_file.unlink(missing_ok=True)

    def confusions(self) -> dict[str, Confusion]:
        """The confusion matrices of the last evaluation, by classifier.

        Versions before confusion.npz had them in each evaluation's line.

        Raises:
          UserError: if there are none, or they can't be read.
        """
        if self.confusion_file.exists():
            return self._read_confusions()
        lines = [line for line in self.measurements() if "confusion" in line]
        if not lines:
            raise UserError(
                f"{self.confusion_file} is missing: continue the run with --resume, which writes it"
            )
        return {name: Confusion.of(matrix) for name, matrix in lines[-1]["confusion"].items()}

    def _read_confusions(self) -> dict[str, Confusion]:
        try:
            # Opened here: numpy leaves a file open that is no archive.
            with self.confusion_file.open("rb") as file, np.load(file) as arrays:
                n_seen = int(arrays["n_seen"])
                names = [name for name in arrays.files if name.startswith(CELLS)]
                found = {name.removeprefix(CELLS): arrays[name] for name in names}
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.confusion_file} is damaged: {_line(error)}") from error
        if not found:
            raise UserError(f"{self.confusion_file} is damaged: it has no classifier")
        for name, cells in found.items():
            if cells.dtype != np.int32 or cells.ndim != 2 or len(cells) != 3:
                raise UserError(f"{self.confusion_file} is damaged: {name} has no cells")
            if cells.size and not (cells.min() >= 0 and cells[:2].max() < n_seen):
                raise UserError(f"{self.confusion_file} is damaged: {name} has other classes")
        return {name: Confusion(n_seen, cells) for name, cells in found.items()}

    def _lines(self) -> list[str]:
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_text().splitlines(keepends=True)
        return [line for line in lines if line.endswith("\n")]  # the last may be half written


class Unwritten(RunFolder):
    """The folder as all processes see it but the first, which writes for all."""

    def start(self, config: Config) -> None:
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


def from_json(text: str, file: Path) -> dict[str, Any]:
    """What a file's text says.

    Raises:
      UserError: if it is no JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} is damaged: {_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object")
    return value


def replace_text(file: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one."""
    with replaced(file) as temporary, temporary.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


@contextlib.contextmanager
def replaced(file: Path) -> Iterator[Path]:
    """A context in which to write a temporary file, which then takes the file's place at once."""
    temporary = file.with_name(file.name + ".tmp")
    try:
        yield temporary
    except OSError:  # of a disk that is full: half a file is no use
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(file)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
