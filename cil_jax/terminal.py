"""What a person at a terminal sees of a run: a bar while it trains, a row after each task.

Where the output is no terminal, one line an epoch takes the bar's place.
"""

import datetime
import time
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cil_jax import metrics
from cil_jax.assemble import recipe_of
from cil_jax.learner import Learner
from cil_jax.observer import Observer, Position
from cil_jax.protocol import Run
from cil_jax.report.tables import percent


def progress(console: Console) -> Progress:
    """Bars, one for each run that is shown at the same time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Terminal(Observer):
    """Shows a run on a console. Use as a context, so that the bar is taken down.

    Args:
      console: where to.
      name: whose every line is, where several runs are shown; else "".
      bars: those that several runs share.
    """

    def __init__(self, console: Console, name: str = "", bars: Progress | None = None):
        self._console = console
        self._of = f"{name}  " if name else ""
        self._bar = bars or progress(console)
        self._started = time.perf_counter()

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def started(self, run: Run, learner: Learner) -> None:
        config, scenario = run.config, run.scenario
        sizes = scenario.task_sizes
        device = jax.devices()[0].device_kind
        n_devices = f"{run.mesh.size} x " if run.mesh else ""
        order = f"seeded {config.order_seed}" if config.order == "seeded" else config.order
        self._say(
            f"{config.method}{f' (preset {config.preset})' if config.preset else ''} on "
            f"{config.dataset}: {sum(sizes)} classes in {len(sizes)} task{'s'[: len(sizes) - 1]} "
            f"({', '.join(map(str, sizes))}), order {order}, seed {config.seed}"
        )
        epochs = [recipe_of(config, t).epochs for t in range(len(sizes))]
        later = f", then {epochs[1]}" if len(sizes) > 1 and epochs[1] != epochs[0] else ""
        self._say(f"{config.backbone}, {epochs[0]} epochs a task{later}, on {n_devices}{device}")
        self._say(f"run folder: {run.folder.path}")
        updates = [run.updates(t) for t in range(len(sizes))]
        task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
        done = sum(updates[:task])
        if len(sizes) == 1:
            self._say("one task only, so nothing to forget: --task-size makes more")
        if task == len(sizes):
            self._say("this run is complete")
            return
        if task or epoch or step:
            done += updates[task] * epoch // recipe_of(config, task).epochs + step
            within = f", step {step} of the next" if step else ""
            self._say(f"continuing in task {task + 1} after epoch {epoch}{within}")
        self._total = self._bar.add_task(
            f"{self._of}compiling", total=sum(updates), completed=done, loss="-", speed="-"
        )
        names = run.classifiers
        seen = "".join(f"{name:>9}" for name in names)
        self._say(f" task  seen{seen}  own task  old tasks     time")

    def warned(self, run: Run, text: str) -> None:
        self._say(f"warning: {text}")

    def trained(self, run: Run, position: Position) -> None:
        tasks = len(run.scenario.task_sizes)
        epochs = recipe_of(run.config, position.task).epochs
        before = sum(run.updates(t) for t in range(position.task))
        self._bar.update(
            self._total,
            completed=before + position.epoch * position.steps + position.step,
            description=f"{self._of}task {position.task + 1}/{tasks}  "
            f"epoch {position.epoch + 1}/{epochs}",
            loss=f"{position.loss:.4f}",
            speed=f"{position.images_per_second:,.0f}",
        )

    def epoch_done(self, run: Run, line: dict[str, Any]) -> None:
        if not self._console.is_terminal:
            epochs = recipe_of(run.config, line["task"]).epochs
            self._say(
                f"task {line['task'] + 1}/{len(run.scenario.task_sizes)}  "
                f"epoch {line['epoch'] + 1}/{epochs}  loss {line['train_loss']:.4f}  "
                f"new classes: train {percent(line['train_accuracy'])}, "
                f"test {percent(line['test_accuracy'])}  "
                f"{line['images_per_second']:,.0f} images/s  {self._elapsed()}"
            )

    def task_done(self, run: Run, line: dict[str, Any]) -> None:
        name = run.engine.method.headline
        own = line["task_accuracy"][name][-1]
        n_old = run.scenario.bounds[line["task"]]
        old = metrics.accuracy(np.array(line["confusion"][name])[:n_old]) if n_old else None
        seen = "".join(f"{percent(a):>9}" for a in line["seen_accuracy"].values())
        self._say(
            f"{line['task'] + 1:5} {line['n_seen']:5}{seen}"
            f"{percent(own):>10}{percent(old):>11}{self._elapsed():>9}"
        )

    def _elapsed(self) -> str:
        return str(datetime.timedelta(seconds=round(time.perf_counter() - self._started)))

    def _say(self, text: str) -> None:
        self._console.print(f"{self._of}{text}", highlight=False, markup=False, soft_wrap=True)
