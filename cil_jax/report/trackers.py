"""Trackers: callbacks that write the report of a run, TensorBoard files and wandb logs.

They work in a background thread. A failure there prints one line and never stops the run.
"""

import abc
import contextlib
import math
import os
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from cil_jax import report
from cil_jax.errors import needs_extra
from cil_jax.files import writing
from cil_jax.learner import Learner
from cil_jax.platform import devices
from cil_jax.report.background_thread import Background
from cil_jax.settings.config import Config
from cil_jax.settings.loading import command
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback, RunView

PAGE_SHARE = 1 / 20  # of the time of a run that writing its report may take


@contextlib.contextmanager
def opened(
    config: Config, say: Callable[[str], None], page: bool = True
) -> Iterator["list[Pager | Log]"]:
    """A context that yields the trackers of a run; when it ends, all their work is done.

    Args:
      config: the settings of the run; `log` names the logs to write.
      say: shows a line to the user if something fails.
      page: whether to also write the report while the run trains.
    """
    if not devices.is_first_process():
        yield []
        return
    with Background(say) as background:
        names = filter(None, config.log.split(","))
        found: list[Pager | Log] = [Pager(background)] if page else []
        found += [LOGS[name](background) for name in names]
        try:
            yield found
        finally:
            for tracker in found:
                tracker.end()


class Pager(Callback):
    """Writes report.html after a task, unless that would take more than a share of the run's time.

    A report that was skipped is written at the end, unless the run is complete: then the caller
    writes it together with the figures.
    """

    def __init__(self, background: Background):
        self._background = background
        self._outdated: RunFolder | None = None  # whose report is out of date
        self._next_time = 0.0  # when the next report may be started

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        folder, is_done = RunFolder(run.folder.path), line["n_seen"] == run.scenario.bounds[-1]
        self._outdated = None if is_done else folder
        if self._outdated and time.perf_counter() >= self._next_time:
            self._write(self._outdated)

    def end(self) -> None:
        """Writes a report that was skipped. Call this after all other calls."""
        if self._outdated:
            self._write(self._outdated)

    def _write(self, folder: RunFolder) -> None:
        self._outdated, self._next_time = None, math.inf

        def work() -> None:
            start = time.perf_counter()
            try:
                report.write_page(folder)
            finally:
                end = time.perf_counter()
                self._next_time = end + (end - start) / PAGE_SHARE

        self._background.submit("report.html", work)


class Log(Callback, abc.ABC):
    """Base class of logs, which send numbers and figures to a program that displays them.

    The step of an epoch is its number over all tasks, from 1; the step of an evaluation is the
    number of classes seen. After a failure, a log does nothing.

    Attributes:
      name: its name in --log.
    """

    name: str

    def __init__(self, background: Background):
        self._background, self._failed = background, False

    def started(self, run: RunView, learner: Learner) -> None:
        folder, task = RunFolder(run.folder.path), int(learner.task)
        self._epochs = list(map(run.course.n_epochs, range(len(run.scenario.task_sizes))))
        self._in_training = run.engine.method.classifier_in_training
        n_seen = run.scenario.bounds[task]
        n_epochs = sum(self._epochs[:task]) + run.course.epochs_done(learner)
        self._later(lambda: self.open(folder, run.config, n_epochs, n_seen, n_epochs + task))

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        epoch = sum(self._epochs[: line["task"]]) + line["epoch"] + 1
        scalars = {
            "loss/train": line["train_loss"],
            "loss/test": line["test_loss"],
            **{f"loss_parts/{name}": value for name, value in line["parts"].items()},
            "accuracy/train/linear": line["train_accuracy"],
            f"accuracy/test/{self._in_training}": line["test_accuracy"],
            "rate": line["rate"],
            "images_per_second": line["images_per_second"],
        }
        self._later(lambda: self.epoch(epoch, line["task"], scalars))

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        folder = RunFolder(run.folder.path)
        results: Any = folder.results()
        confusions = folder.confusions(results)
        scalars: dict[str, float] = {"seen_loss": line["loss"]}
        for name, summary in results["classifiers"].items():
            for key in ("seen_accuracy", "old_accuracy", "new_accuracy", "task_aware_accuracy"):
                if summary[key][-1] is not None:
                    scalars[f"{key}/{name}"] = summary[key][-1]
            for task, accuracy in enumerate(summary["accuracy_matrix"][-1], start=1):
                scalars[f"task_accuracy/{name}/task {task}"] = accuracy
            for key in ("average_incremental_accuracy", "forgetting"):
                if summary[key] is not None:
                    scalars[f"{key}/{name}"] = summary[key]
        epoch = sum(self._epochs[: line["task"] + 1])
        self._later(
            lambda: self.evaluation(
                line["n_seen"],
                epoch,
                line["task"],
                scalars,
                report.figure_pixels(results, confusions),
            )
        )

    @abc.abstractmethod
    def open(
        self, folder: RunFolder, config: Config, n_epochs: int, n_seen: int, n_lines: int
    ) -> None:
        """Opens the log at the start of a run, or of the part that follows a checkpoint.

        Args:
          folder: the run folder.
          config: the settings of the run.
          n_epochs: number of epochs done, over all tasks.
          n_seen: number of classes seen.
          n_lines: number of epochs and evaluations done.
        """

    @abc.abstractmethod
    def epoch(self, epoch: int, task: int, scalars: dict[str, float]) -> None:
        """Writes the numbers of an epoch, by name."""

    @abc.abstractmethod
    def evaluation(
        self, n_seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        """Writes the numbers and figures of an evaluation, by name; figures uint8 [H, W, 3]."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the log."""

    def end(self) -> None:
        """Closes the log after its last work is done. Call this after all other calls."""
        self._later(self.close)

    def _later(self, work: Callable[[], None]) -> None:
        """Does work in the background unless earlier work has failed."""

        def unless_failed() -> None:
            if self._failed:
                return
            self._failed = True
            work()
            self._failed = False

        self._background.submit(f"--log {self.name}", unless_failed)


class TensorBoard(Log):
    """Event files in the run folder: `epochs` by epoch, and `tasks` by number of classes seen.

    These are two files, as a file has only one step from which a resumed run replaces it.
    """

    name = "tensorboard"

    def __init__(self, background: Background):
        super().__init__(background)
        self._writers: dict[str, Any] = {}

    def open(
        self, folder: RunFolder, config: Config, n_epochs: int, n_seen: int, n_lines: int
    ) -> None:
        with needs_extra("tensorboard", "logs for TensorBoard"):
            from tensorboardX import SummaryWriter

        for name, last_step in (("epochs", n_epochs), ("tasks", n_seen)):
            # A resumed run repeats what was written after its checkpoint; purge_step hides the
            # first version. TensorBoard takes the first file with a purge_step for the start of
            # the log, so every file needs one.
            self._writers[name] = SummaryWriter(
                str(folder.path / "tensorboard" / name),
                purge_step=last_step + 1,
                filename_suffix=f".{n_lines}",
            )
        text = f"{command(config) or ''}\n\n{yaml.safe_dump(config.decisive(), sort_keys=False)}"
        self._writers["epochs"].add_text("settings", textwrap.indent(text, "    "), n_epochs)

    def epoch(self, epoch: int, task: int, scalars: dict[str, float]) -> None:
        self._write("epochs", {**scalars, "task": task + 1}, epoch)

    def evaluation(
        self, n_seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        for name, pixels in figures.items():
            self._writers["tasks"].add_image(name, pixels, n_seen, dataformats="HWC")
        self._write("tasks", scalars, n_seen)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, name: str, scalars: dict[str, float], step: int) -> None:
        for tag, value in scalars.items():
            self._writers[name].add_scalar(tag, value, step)
        self._writers[name].flush()


class Wandb(Log):
    """A run in wandb. Its id is kept in wandb.txt in the run folder, so a resumed run continues it.

    Its steps count the lines of metrics.jsonl. wandb ignores steps that it already has, so epochs
    that are repeated after an interruption are shown once.
    """

    name = "wandb"

    def __init__(self, background: Background):
        super().__init__(background)
        self._run: Any = None

    def open(
        self, folder: RunFolder, config: Config, n_epochs: int, n_seen: int, n_lines: int
    ) -> None:
        # wandb must neither write to the terminal nor ask there for an API key; without a key, it
        # raises an error.
        os.environ.setdefault("WANDB_SILENT", "true")
        with needs_extra("wandb", "logs for wandb"):
            import wandb  # pyright: ignore[reportMissingImports] # an optional package

        file = folder.path / "wandb.txt"
        if not file.exists():
            writing.replace_text(file, uuid.uuid4().hex[:12] + "\n")
        self._run = wandb.init(
            project="cil_jax",
            id=file.read_text().strip(),
            name=folder.path.name,
            dir=str(folder.path),
            config=config.decisive(),
            resume="allow",
            reinit="create_new",  # as runs that are trained together share a process
            settings={"console": "off"},
        )
        self._image = wandb.Image
        self._run.define_metric("epoch")
        self._run.define_metric("classes_seen")
        self._run.define_metric("train/*", step_metric="epoch")
        self._run.define_metric("seen/*", step_metric="classes_seen")

    def epoch(self, epoch: int, task: int, scalars: dict[str, float]) -> None:
        self._log("train", {"epoch": epoch, "task": task + 1}, scalars, epoch + task - 1)

    def evaluation(
        self, n_seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        images = {name: self._image(pixels) for name, pixels in figures.items()}
        self._log("seen", {"classes_seen": n_seen}, {**scalars, **images}, epoch + task)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _log(self, group: str, place: dict[str, int], values: dict[str, Any], step: int) -> None:
        self._run.log({**place, **{f"{group}/{k}": v for k, v in values.items()}}, step=step)


LOGS: dict[str, type[Log]] = {log.name: log for log in (TensorBoard, Wandb)}
