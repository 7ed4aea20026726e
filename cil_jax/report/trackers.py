"""What a run leaves for others to show while it goes: its page, TensorBoard's files, wandb.

All is written beside the run, in one thread, and nothing that fails there stops it.
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
from cil_jax.files import writing
from cil_jax.learner import Learner
from cil_jax.platform import devices
from cil_jax.report.background import Background
from cil_jax.settings.config import Config
from cil_jax.settings.loading import command
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.build import schedule_of
from cil_jax.training.callbacks import Callback, RunView

PAGE_SHARE = 1 / 20  # of a run's time that writing its page may take


@contextlib.contextmanager
def opened(
    config: Config, say: Callable[[str], None], page: bool = True
) -> Iterator[list[Callback]]:
    """What writes beside a run, to be told of it; at the end, all that it was told is written.

    Args:
      config: the settings of the run.
      say: shows the user a line, where something fails.
      page: whether to write the run's page while it goes, beside the logs that are asked for.
    """
    if not devices.is_first_process():
        yield []
        return
    with Background(say) as background:
        names = filter(None, config.log.split(","))
        told = [*([Pager(background)] if page else []), *(LOGS[name](background) for name in names)]
        try:
            yield told
        finally:
            for one in told:
                one.end()


class Pager(Callback):
    """Writes report.html after a task, where that takes no more than a share of the run's time.

    What was held back is written at the end, unless the run is done: its page is made with its
    figures.
    """

    def __init__(self, background: Background):
        self._background = background
        self._late: RunFolder | None = None  # whose page is behind
        self._next = 0.0  # when another page may be begun

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        folder, is_done = RunFolder(run.folder.path), line["n_seen"] == run.scenario.bounds[-1]
        self._late = None if is_done else folder
        if self._late and time.perf_counter() >= self._next:
            self._write(self._late)

    def end(self) -> None:
        """After the last that it is told."""
        if self._late:
            self._write(self._late)

    def _write(self, folder: RunFolder) -> None:
        self._late, self._next = None, math.inf

        def work() -> None:
            start = time.perf_counter()
            try:
                report.write_page(folder)
            finally:
                end = time.perf_counter()
                self._next = end + (end - start) / PAGE_SHARE

        self._background.ask("report.html", work)


class Log(Callback, abc.ABC):
    """Numbers and figures for a program that shows them.

    Epochs are counted over all tasks, from 1. Evaluations are placed by the classes seen.
    """

    name: str

    def __init__(self, background: Background):
        self._background, self._failed = background, False

    def started(self, run: RunView, learner: Learner) -> None:
        folder, task, epoch = RunFolder(run.folder.path), int(learner.task), int(learner.epoch)
        n_tasks = len(run.scenario.task_sizes)
        self._epochs = [schedule_of(run.config, t).epochs for t in range(n_tasks)]
        seen = run.scenario.bounds[task]
        done = sum(self._epochs[:task]) + epoch
        self._later(lambda: self.open(folder, run.config, done, seen, done + task))

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        epoch = sum(self._epochs[: line["task"]]) + line["epoch"] + 1
        scalars = {
            "loss/train": line["train_loss"],
            "loss/test": line["test_loss"],
            **{f"loss_parts/{name}": value for name, value in line["parts"].items()},
            "accuracy/train/linear": line["train_accuracy"],
            "accuracy/test/linear": line["test_accuracy"],
            "rate": line["rate"],
            "images_per_second": line["images_per_second"],
        }
        self._later(lambda: self.epoch(epoch, line["task"], scalars))

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        folder = RunFolder(run.folder.path)
        results = folder.results()
        confusions = folder.confusions(results)
        scalars = {}
        for name, one in results["classifiers"].items():
            for key in ("seen", "old", "new", "task_aware"):
                if one[f"{key}_accuracy"][-1] is not None:
                    scalars[f"{key}_accuracy/{name}"] = one[f"{key}_accuracy"][-1]
            for key in ("average_incremental_accuracy", "forgetting"):
                if one[key] is not None:
                    scalars[f"{key}/{name}"] = one[key]
        epoch = sum(self._epochs[: line["task"] + 1])
        self._later(
            lambda: self.evaluation(
                line["n_seen"], epoch, line["task"], scalars, report.pictures(results, confusions)
            )
        )

    @abc.abstractmethod
    def open(self, folder: RunFolder, config: Config, epochs: int, seen: int, n_lines: int) -> None:
        """Begins, or goes on after so many epochs, classes seen, and both kinds of lines."""

    @abc.abstractmethod
    def epoch(self, epoch: int, task: int, scalars: dict[str, float]) -> None:
        """Writes the numbers of an epoch."""

    @abc.abstractmethod
    def evaluation(
        self, seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        """Writes the numbers and figures, uint8 [H, W, 3], of an evaluation."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends."""

    def end(self) -> None:
        """After the last that it is told."""
        self._later(self.close)

    def _later(self, work: Callable[[], None]) -> None:
        def unless_failed():
            if self._failed:
                return
            self._failed = True
            work()
            self._failed = False

        self._background.ask(f"--log {self.name}", unless_failed)


class TensorBoard(Log):
    """Two event files in the run folder: `epochs`, and `tasks` over the classes seen.

    They are two, for a step at which to go on is one of a file.
    """

    name = "tensorboard"

    def __init__(self, background: Background):
        super().__init__(background)
        self._writers = {}

    def open(self, folder: RunFolder, config: Config, epochs: int, seen: int, n_lines: int) -> None:
        from tensorboardX import SummaryWriter

        for name, done in (("epochs", epochs), ("tasks", seen)):
            # What was written after the last save is hidden, for it is written again. TensorBoard
            # takes the first file that says where it begins for a start, so that all must say it.
            self._writers[name] = SummaryWriter(
                str(folder.path / "tensorboard" / name),
                purge_step=done + 1,
                filename_suffix=f".{n_lines}",
            )
        text = f"{command(config) or ''}\n\n{yaml.safe_dump(config.decisive(), sort_keys=False)}"
        self._writers["epochs"].add_text("settings", textwrap.indent(text, "    "), epochs)

    def epoch(self, epoch: int, task: int, scalars: dict[str, float]) -> None:
        self._write("epochs", {**scalars, "task": task + 1}, epoch)

    def evaluation(
        self, seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        for name, pixels in figures.items():
            self._writers["tasks"].add_image(name, pixels, seen, dataformats="HWC")
        self._write("tasks", scalars, seen)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, name: str, scalars: dict[str, float], step: int) -> None:
        for tag, value in scalars.items():
            self._writers[name].add_scalar(tag, value, step)
        self._writers[name].flush()


class Wandb(Log):
    """A run of wandb, the same one when a run is resumed: wandb.txt in the run folder names it.

    Its steps are lines of metrics.jsonl; wandb passes over steps that it has already, so that what
    is trained again after an interruption is not shown twice.
    """

    name = "wandb"

    def __init__(self, background: Background):
        super().__init__(background)
        self._run = None

    def open(self, folder: RunFolder, config: Config, epochs: int, seen: int, n_lines: int) -> None:
        # The terminal is the run's: wandb may neither write there nor ask for a key, and says
        # instead that it has none.
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

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
            reinit="create_new",  # members that are trained together have a run each
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
        self, seen: int, epoch: int, task: int, scalars: dict[str, float], figures: dict[str, Any]
    ) -> None:
        images = {name: self._image(pixels) for name, pixels in figures.items()}
        self._log("seen", {"classes_seen": seen}, {**scalars, **images}, epoch + task)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _log(self, group: str, place: dict[str, int], values: dict[str, Any], step: int) -> None:
        self._run.log({**place, **{f"{group}/{k}": v for k, v in values.items()}}, step=step)


LOGS = {one.name: one for one in (TensorBoard, Wandb)}
