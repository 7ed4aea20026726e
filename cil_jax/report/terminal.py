"""What a person at a terminal sees of a run: how it stands while it trains, a row after each task.

Where the output is no terminal, one line an epoch takes the place of the bar.
"""

import datetime
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cil_jax.learner import Learner
from cil_jax.platform import machine
from cil_jax.report.tables import classifier_name, percent, run_name, seeds, size_of
from cil_jax.report.time_left import TimeLeft
from cil_jax.training.build import data_seed, schedule_of
from cil_jax.training.callbacks import Callback, Position, RunView
from cil_jax.training.outcome import changed

NARROWEST_BAR = 8
NARROWEST_COLUMN = 9
FACT_LINES = 2


class Standing:
    """How a run stands, in up to three lines that fit whatever width there is.

    Args:
      place: where it is; always shown.
      left: how long it will take, from the longest way to say it to the shortest; the first that
        fits is shown after the bar.
      facts: texts, the least important last; those that do not fit are left out.
      share: how much of the run is done, 0..1.
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
            for number, shown in enumerate(lines):
                longer = f"{shown}  {fact}" if shown else fact
                if len(longer) <= width:
                    lines[number] = longer
                    break
        yield Text("\n".join(filter(None, lines)), style="dim", no_wrap=True)


class _Column(ProgressColumn):
    """The only column: it has the whole width."""

    def __init__(self):
        super().__init__()
        self._table_column = None

    def render(self, task: Task) -> Any:
        return task.fields["standing"]


def progress(console: Console) -> Progress:
    """The live display, of one run or of several beside each other."""
    return Progress(
        _Column(),
        console=console,
        transient=True,
        expand=True,
        refresh_per_second=4,
        disable=not console.is_terminal,
    )


class Terminal(Callback):
    """Shows a run on a console. Use as a context, so that the bar is taken down.

    Args:
      console: where to.
      name: what each line begins with, where several runs share the console.
      live: the display that they share, taken down by whoever made it (default: one of its own).
    """

    def __init__(self, console: Console, name: str = "", live: Progress | None = None):
        self._console, self._name = console, f"{name}  " if name else ""
        self._live, self._is_own = live or progress(console), live is None
        self._started = time.perf_counter()
        self._bar, self._last = None, ""

    def __enter__(self):
        if self._is_own:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._is_own:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(
            self._name + text, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def started(self, run: RunView, learner: Learner) -> None:
        config, scenario = run.config, run.scenario
        sizes = scenario.task_sizes
        device = jax.devices()[0].device_kind
        n_devices = f"{run.mesh.size} x " if run.mesh else ""
        order = f"seeded {config.order_seed}" if config.order == "seeded" else config.order
        seed = seeds({"seeds": {"init": config.seed, "data": data_seed(config)}})
        name = {"method": config.method, "preset": config.preset, "changed": changed(config)}
        self.say(
            f"{run_name(name)} on {config.dataset}: {sum(sizes)} classes in {len(sizes)} "
            f"task{'s'[: len(sizes) - 1]} ({', '.join(map(str, sizes))}), order {order}{seed}"
        )
        epochs = [schedule_of(config, t).epochs for t in range(len(sizes))]
        later = f", then {epochs[1]}" if len(sizes) > 1 and epochs[1] != epochs[0] else ""
        plural = "s" if max(epochs) > 1 else ""
        self.say(
            f"{config.backbone}, {epochs[0]} epoch{plural} a task{later}, on {n_devices}{device}"
        )
        self.say(f"run folder: {run.folder.path}")
        task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
        if len(sizes) == 1:
            self.say("one task only, so nothing to forget: --task-size makes more")
        if task == len(sizes):
            self.say("this run is complete")
            return
        if task or epoch or step:
            within = f", step {step} of the next" if step else ""
            self.say(f"continuing in task {task + 1} after epoch {epoch}{within}")
        n_updates = [run.n_updates(t) for t in range(len(sizes))]
        self._epochs, self._n_tasks = epochs, len(sizes)
        n_seen = np.cumsum(sizes).tolist()
        self._time_left = TimeLeft(n_updates, epochs, n_seen, machine.working_time)
        self._time_left.begin(task, epoch, step)
        scores = run.history["scores"][run.engine.method.headline]
        self._note_last(run, scores[-1]["seen_accuracy"] if scores else None)
        trains = epoch < epochs[task]
        self._show(self._place(task, epoch) if trains else self._evaluating(task), ["compiling"])
        # Of all classes seen by each classifier, then of new and of old ones by the method's own.
        own = run.engine.method.headline
        names = [*map(classifier_name, run.evaluation.classifiers), f"{own}: new", f"{own}: old"]
        self._widths = [max(NARROWEST_COLUMN, len(name) + 2) for name in names]
        self.say(f" task  seen{self._row(names)}     time")

    def warned(self, run: RunView, text: str) -> None:
        self.say(f"warning: {text}")

    def trained(self, run: RunView, position: Position) -> None:
        self._time_left.trained(position.task, position.epoch, position.step, position.n_steps)
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
        self._show(self._place(position.task, position.epoch), facts)

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        task, epoch = line["task"], line["epoch"]
        self._time_left.epoch_done(task, epoch)
        if self._console.is_terminal:
            if epoch + 1 == self._epochs[task]:
                self._show(self._evaluating(task), [self._last])
            return
        of_task, of_run = map(_time, self._time_left.estimate())
        train, test = percent(line["train_accuracy"]), percent(line["test_accuracy"])
        self.say(
            f"{self._place(task, epoch)}  loss {line['train_loss']:.4f}{_parts(line['parts'])}  "
            f"rate {line['rate']:.3g}  new classes by linear: train {train}, test {test}  "
            f"{line['images_per_second']:,.0f} images/s  "
            f"{size_of(machine.memory_in_use())}  {self._elapsed()}, "
            f"left: task {of_task}, run {of_run}"
        )

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        self._time_left.task_done(line["task"])
        name = run.engine.method.headline
        self._note_last(run, line["seen_accuracy"][name])
        *of_old, own = line["task_accuracy"][name]
        n_images = np.diff(run.evaluation.bounds)[: len(of_old)]
        old = float(np.average(of_old, weights=n_images)) if of_old else None
        row = self._row(map(percent, [*line["seen_accuracy"].values(), own, old]))
        self.say(f"{line['task'] + 1:5} {line['n_seen']:5}{row}{self._elapsed():>9}")

    def _row(self, cells: Iterable[str]) -> str:
        return "".join(f"{c:>{width}}" for c, width in zip(cells, self._widths, strict=True))

    def _place(self, task: int, epoch: int) -> str:
        return f"task {task + 1}/{self._n_tasks}  epoch {epoch + 1}/{self._epochs[task]}"

    def _evaluating(self, task: int) -> str:
        return f"task {task + 1}/{self._n_tasks}  evaluation"

    def _note_last(self, run: RunView, accuracy: float | None) -> None:
        """What is shown of the last evaluation: the own classifier on all classes then seen."""
        name = run.engine.method.headline
        self._last = "" if accuracy is None else f"last {name} {percent(accuracy)}"

    def _show(self, place: str, facts: list[str]) -> None:
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
    """The parts of a loss; nothing where it has one only."""
    said = ", ".join(f"{name} {value:.4f}" for name, value in parts.items())
    return f" ({said})" if len(parts) > 1 else ""


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
