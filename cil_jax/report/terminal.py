"""Shows a run on the terminal: its progress while it trains, and a table row after each task.

If the output is not a terminal, one line per epoch replaces the progress display.
"""

import datetime
import shlex
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cil_jax.learner import Learner
from cil_jax.platform import machine
from cil_jax.report.tables import classifier_name, percent, run_name, seeds, size_of
from cil_jax.report.time_left import TimeLeft
from cil_jax.settings import loading, orders
from cil_jax.settings.config import Config
from cil_jax.training.build import data_seed
from cil_jax.training.callbacks import Callback, Position, RunView
from cil_jax.training.results import changed

NARROWEST_BAR = 8  # characters
NARROWEST_COLUMN = 9  # characters
FACT_LINES = 2
LONG = 600.0  # seconds of a run that should be tried smaller first


class Standing:
    """The progress of a run, in up to three lines that fit the width of the terminal.

    Args:
      place: the position of the run; always shown.
      left: versions of the text on the time left, from the longest to the shortest; the first that
        fits is shown after the progress bar.
      facts: texts, the most important first; those that do not fit are left out.
      share: the fraction of the run that is done, 0..1.
    """

    def __init__(self, place: str, left: list[str], facts: list[str], share: float):
        self.place, self.left, self.facts, self.share = place, left, facts, share

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        room = width - len(self.place) - 2
        left = [text for text in self.left if len(text) + 2 + NARROWEST_BAR <= room][:1]
        bar = ProgressBar(1.0, self.share, width=max(room - sum(len(text) + 2 for text in left), 1))
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(self.place, bar, *left)
        yield line
        lines = [""] * FACT_LINES
        for fact in self.facts:
            for index, text in enumerate(lines):
                longer = f"{text}  {fact}" if text else fact
                if len(longer) <= width:
                    lines[index] = longer
                    break
        yield Text("\n".join(filter(None, lines)), style="dim", no_wrap=True)


class _Column(ProgressColumn):
    """The only column of the display, which takes the whole width."""

    def __init__(self) -> None:
        super().__init__()
        self._table_column = None

    def render(self, task: Task) -> Standing:
        return task.fields["standing"]


def progress(console: Console) -> Progress:
    """Returns the live display of one run, or of several runs below each other."""
    return Progress(
        _Column(),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,
        disable=not console.is_terminal,
    )


class Terminal(Callback):
    """Shows a run on a console. Use as a context, which removes the progress display at its end.

    Args:
      console: where to show it.
      name: of the run, to start each line with if several runs share the console.
      live: the display that the runs share; its creator starts and removes it (default: a display
        of its own).
    """

    def __init__(self, console: Console, name: str = "", live: Progress | None = None):
        self._console, self._name = console, f"{name}  " if name else ""
        self._live, self._is_own = live or progress(console), live is None
        self._started = time.perf_counter()
        self._bar: TaskID | None = None
        self._says_how_long = True  # until it has said it
        self._last = ""  # the result of the last evaluation, as a text

    def __enter__(self) -> "Terminal":
        if self._is_own:
            self._live.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_own:
            self._live.stop()

    def say(self, text: str) -> None:
        """Prints a line above the progress display."""
        self._console.print(
            self._name + text, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def started(self, run: RunView, learner: Learner) -> None:
        sizes = run.scenario.task_sizes
        self._describe(run)
        task, step = int(learner.task), int(learner.step)
        if len(sizes) == 1:
            self.say("there is only one task, so nothing to forget: --task-size makes more")
        if task == len(sizes):
            self.say("this run is complete")
            return
        epochs = list(map(run.course.n_epochs, range(len(sizes))))
        epoch = run.course.epochs_done(learner)
        if task or epoch or step:
            within = f" and step {step}" if step else ""
            self.say(f"continuing in task {task + 1} after epoch {epoch}{within}")
        self._epochs, self._n_tasks = epochs, len(sizes)
        n_updates = [run.course.n_updates(t) for t in range(len(sizes))]
        n_seen = np.cumsum(sizes).tolist()
        self._time_left = TimeLeft(n_updates, epochs, n_seen, machine.working_time)
        self._time_left.begin(task, epoch, step)
        self._in_training = run.engine.method.classifier_in_training
        headline = run.engine.method.headline
        scores = run.history["scores"][headline]
        self._note_last(headline, scores[-1]["seen_accuracy"] if scores else None)
        trains = epoch < epochs[task]
        self._show(self._place(task, epoch) if trains else self._evaluating(task), ["compiling"])
        self._print_header(run)

    def _describe(self, run: RunView) -> None:
        """Prints the method, the scenario, the training and the folder of a run."""
        config, sizes = run.config, run.scenario.task_sizes
        epochs = list(map(run.course.n_epochs, range(len(sizes))))
        order = orders.describe(config.order, config.order_seed)
        seed = seeds({"seeds": {"init": config.seed, "data": data_seed(config)}})
        name = {"method": config.method, "preset": config.preset, "changed": changed(config)}
        self.say(
            f"{run_name(name)} on {config.dataset}: {sum(sizes)} classes in {len(sizes)} "
            f"task{'s'[: len(sizes) - 1]} ({', '.join(map(str, sizes))}), order {order}{seed}"
        )
        if note := loading.order_note(config):
            self.say(note)
        later = f", then {epochs[1]}" if len(sizes) > 1 and epochs[1] != epochs[0] else ""
        plural = "s" if max(epochs) > 1 else ""
        n_devices = f"{run.mesh.size} x " if run.mesh else ""
        self.say(
            f"{config.backbone}, {epochs[0]} epoch{plural} a task{later}, on {n_devices}"
            f"{jax.devices()[0].device_kind}"
        )
        self.say(f"run folder: {run.folder.path}")

    def _print_header(self, run: RunView) -> None:
        """Prints the header of the table, and notes the widths of its columns.

        The columns are the accuracy of each classifier on all classes seen, and that of the
        method's own classifier on new and on old classes.
        """
        headline = run.engine.method.headline
        classifiers = map(classifier_name, run.evaluation.classifiers)
        names = [*classifiers, f"{headline}: new", f"{headline}: old"]
        self._widths = [max(NARROWEST_COLUMN, len(name) + 2) for name in names]
        if not self._console.is_terminal:  # where each epoch has a line
            self.say(
                f"train and test: accuracy on the task's own classes ({self._in_training}); "
                "metrics.jsonl has the parts of the loss"
            )
        self.say(f" task  seen{self._row(names)}     time")

    def warned(self, run: RunView, text: str) -> None:
        self.say(f"warning: {text}")

    def trained(self, run: RunView, position: Position) -> None:
        self._time_left.trained(position.step)
        if self._says_how_long:
            self._say_how_long(run.config)
        if not self._console.is_terminal:
            return
        facts = [
            f"loss {position.loss:.4f}",
            f"{position.images_per_second:,.0f} images/s",
            f"rate {position.rate:.3g}",
            self._last,
            _parts(position.parts).strip(" ()"),
            size_of(machine.memory_in_use()),
        ]
        self._show(self._place(position.task, position.epoch, position.training), facts)

    def _say_how_long(self, config: Config) -> None:
        """Says how long the run will take, once updates are measured, unless that is soon."""
        _, seconds = self._time_left.estimate()
        if seconds is None:
            return
        self._says_how_long = False
        if seconds < LONG / 10:
            return
        self.say(f"this run will take about {_roughly(seconds)} on this machine")
        is_small = config.dataset == "digits" and config.epochs <= 5  # like the run suggested below
        if seconds >= LONG and not is_small:
            program = shlex.join(loading.program_of(config) or ["cil-jax", "train"])
            memory = " --memory 100" if getattr(config, "memory", None) else ""
            self.say(
                f"to try it in a minute: {program} --dataset digits --task-size 2 --backbone "
                f"resnet8 --epochs 5 --batch-size 32{memory}"
            )

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        task, epoch = line["task"], line["epoch"]
        self._time_left.epoch_done(task, epoch)
        if self._console.is_terminal:
            if epoch + 1 == self._epochs[task]:
                self._show(self._evaluating(task), [self._last])
            return
        _, of_run = self._time_left.estimate()
        train, test = percent(line["train_accuracy"]), percent(line["test_accuracy"])
        self.say(
            f"{self._place(task, epoch, line.get('training', 'main'))}  "
            f"loss {line['train_loss']:.4f}  rate {line['rate']:.3g}  train {train}  test {test}  "
            f"{line['images_per_second']:,.0f} images/s  {self._elapsed()}, left {_time(of_run)}"
        )

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        self._time_left.task_done(line["task"])
        headline = run.engine.method.headline
        self._note_last(headline, line["seen_accuracy"][headline])
        *of_old_tasks, new = line["task_accuracy"][headline]
        n_images = np.diff(run.evaluation.bounds)[: len(of_old_tasks)]
        old = float(np.average(of_old_tasks, weights=n_images)) if of_old_tasks else None
        row = self._row(map(percent, [*line["seen_accuracy"].values(), new, old]))
        self.say(f"{line['task'] + 1:5} {line['n_seen']:5}{row}{self._elapsed():>9}")
        following = line["task"] + 1
        if following < self._n_tasks and not self._epochs[following]:  # no training will show it
            self._show(self._evaluating(following), [self._last])

    def _row(self, cells: Iterable[str]) -> str:
        """Returns cells aligned to the columns of the table."""
        return "".join(f"{c:>{width}}" for c, width in zip(cells, self._widths, strict=True))

    def _place(self, task: int, epoch: int, training: str = "main") -> str:
        name = "" if training == "main" else f" ({training})"
        return f"task {task + 1}/{self._n_tasks}  epoch {epoch + 1}/{self._epochs[task]}{name}"

    def _evaluating(self, task: int) -> str:
        return f"task {task + 1}/{self._n_tasks}  evaluation"

    def _note_last(self, classifier: str, accuracy: float | None) -> None:
        """Notes the last accuracy on all classes seen, which the progress display shows."""
        self._last = "" if accuracy is None else f"last {classifier} {percent(accuracy)}"

    def _show(self, place: str, facts: list[str]) -> None:
        """Updates the progress display; for the arguments see Standing."""
        of_task, of_run = map(_time, self._time_left.estimate())
        share = self._time_left.done / max(self._time_left.total, 1)
        left = [
            f"{share:.0%}  left: task {of_task}, run {of_run}",
            f"{share:.0%}  left: {of_run}",
            f"{share:.0%}",
        ]
        standing = Standing(self._name + place, left, [f for f in facts if f], share)
        if self._bar is None:
            self._bar = self._live.add_task("", standing=standing)
        else:
            self._live.update(self._bar, standing=standing)

    def _elapsed(self) -> str:
        return _time(time.perf_counter() - self._started)


def _parts(parts: Mapping[str, float]) -> str:
    """Returns the parts of a loss as a text; "" if it has only one part."""
    text = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
    return f" ({text})" if len(parts) > 1 else ""


def _roughly(seconds: float) -> str:
    """A duration in words, to two digits or so."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} seconds"
    if minutes < 90:
        return f"{minutes} minute{'s'[: minutes - 1]}"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
