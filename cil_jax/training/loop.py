"""One run: for each task begin, fit, finish, evaluate, record, save.

Run(config, RunFolder(config.folder()), Callback()).go()
"""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax.confusion import Confusion
from cil_jax.data.scenario import Task
from cil_jax.errors import UserError
from cil_jax.files import reading
from cil_jax.learner import Learner, Normalizer, root_keys, with_whole_tasks
from cil_jax.memory import Chunk, Pool, exemplars
from cil_jax.platform import devices, environment, machine
from cil_jax.settings.config import Config
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder, Unwritten
from cil_jax.storage.schemas import RunRecord, problem_of_record
from cil_jax.training.build import data_seed, dataset_of, engine_of, scenario_of, schedule_of
from cil_jax.training.callbacks import Callback, Position
from cil_jax.training.engine import Sums, TrainRequest
from cil_jax.training.evaluation import Evaluation
from cil_jax.training.outcome import results_of
from cil_jax.training.signals import Stopped
from cil_jax.training.streaming import HostPool, Streamed

SECONDS_A_CALL = 1.0  # of training between two signs of life
# Of work that a kill may cost. A ResNet-32 and 2000 exemplars take half a second to save on two
# busy cores, and a minute an epoch; on an accelerator an epoch may take no longer than saving. So
# saving goes by time, not by epochs, and takes no more than a twentieth of it.
SECONDS_UNSAVED = 30.0
SAVING_SHARE = 1 / 20


class Trained(NamedTuple):
    """What updates lead to: what `Engine.train` gives, and how long that took."""

    learner: Learner
    sums: Sums
    seconds: float


# A run as a generator: it yields requests for updates and is sent their results.
Steps = Generator[TrainRequest, Trained, Any]


class Run:
    """A run in progress.

    Attributes:
      config: the settings.
      scenario: the tasks.
      mesh: the devices, or None for one.
      engine: the compiled programs.
      evaluation: the test set, and who answers it.
      folder: where the run is recorded.
      history: accuracies, times and the last confusions so far, saved with every checkpoint.
      stop_asked: the number of the signal that asks the run to stop, or 0; it is called after all
        updates. The run then saves and raises Stopped, out of `steps` as well.
    """

    def __init__(self, config: Config, folder: RunFolder, callback: Callback):
        self.config, self.callback = config, callback
        self.folder = folder if devices.is_first_process() else Unwritten(folder.path)
        environment.check_options()  # before data is read, which may take a while
        dataset = dataset_of(config)
        self.scenario = scenario_of(config, dataset)
        self.mesh = devices.mesh(config.devices, config.batch_size)
        self.engine = engine_of(config, dataset)
        # Several processes each feed their share of a batch.
        streams = config.stream or jax.process_count() > 1
        self._streamed = Streamed(self.engine, self.mesh) if streams else None
        self._programs = self._streamed or self.engine  # for all that looks at images
        size, n_classes = self.engine.method.memory_size, sum(self.scenario.task_sizes)
        if size is not None and size < n_classes:
            raise UserError(f"--memory {size} is smaller than the number of classes, {n_classes}")
        with devices.using(self.mesh):
            self.evaluation = Evaluation(
                self.engine, self.scenario, ncm=config.ncm, streamed=self._streamed
            )
        self.history: dict[str, Any] = {
            "data_sha256": dataset.sha256(),
            "scores": {name: [] for name in self.evaluation.classifiers},
            "seconds": {"train": 0.0, "end_task": 0.0, "evaluate": 0.0},
            "peak_bytes": None,
            "confusion": None,  # of the last evaluation: classes seen, and cells by classifier
        }
        self.stop_asked: Callable[[], int] = lambda: 0
        self._stride = 1  # updates in one call
        self._epoch_so_far: dict[str, Any] | None = None  # of an epoch that is resumed
        self._saved_at, self._saving = time.perf_counter(), 0.0  # when, and how long that took
        self._kept = "there is no checkpoint yet"

    def go(self) -> dict[str, Any]:
        """From where it stands to the end. Returns what results.json holds."""
        with contextlib.closing(self.steps()) as steps, devices.using(self.mesh):
            trained = None
            while True:
                try:
                    updates = steps.send(trained)
                except StopIteration as end:
                    return end.value
                start = time.perf_counter()
                learner, sums = jax.block_until_ready(self.engine.train(*updates))
                trained = Trained(learner, sums, time.perf_counter() - start)

    def steps(self) -> Steps:
        """The run, which leaves its updates to whoever goes through it and returns its results.

        To be called before the run's mesh is in use, and gone through while it is.

        Raises:
          Stopped: once it has saved, if `stop_asked`.
        """
        return self._steps_from(self.new_learner())

    def _steps_from(self, learner: Learner) -> Steps:
        with (
            self.folder.locked(),
            Checkpoints(self.folder.checkpoints) as self._checkpoints,
        ):
            if not self.config.resume:
                self.folder.start(self.config)
            learner = devices.copy_to_all(learner)
            if self.config.resume:
                learner = self._restored(learner)
                self.folder.follow(self.config)
            self._checkpoints.sweep()
            self._saved_at = time.perf_counter()
            self.callback.started(self, learner)
            for index in range(int(learner.task), len(self.scenario.task_sizes)):
                learner = yield from self._learn(learner, self.task(index))
        return self._results(learner)

    def task(self, index: int) -> Task:
        """The images that task `index` brings: its own or, for a bound, all so far."""
        if self.engine.method.keeps_all_data:
            return self.scenario.up_to(index)
        return self.scenario.task(index)

    def n_updates(self, task: int) -> int:
        """Returns the number of updates of a task; an estimate until its memory is known."""
        kept = self.engine.method.memory_size or 0
        first = 0 if self.engine.method.keeps_all_data else task
        n_images = sum(self.scenario.n_images(t) for t in range(first, task + 1))
        n_images += kept if task else 0
        return schedule_of(self.config, task).epochs * self.engine.n_steps(n_images)

    def new_learner(self) -> Learner:
        """A learner that knows nothing yet."""
        dataset, config = self.scenario.dataset, self.config
        mean, std = dataset.pixel_statistics(config.normalization)
        return self.engine.create(
            dataset.image_shape,
            sum(self.scenario.task_sizes),
            Normalizer(jnp.asarray(mean), jnp.asarray(std)),
            *root_keys(config.seed, data_seed(config)),
        )

    def saved_learner(self) -> Learner:
        """The learner of the newest checkpoint, to look at.

        Raises:
          UserError: if nothing was saved.
        """
        restored = None
        if self.folder.checkpoints.is_dir():
            with Checkpoints(self.folder.checkpoints) as checkpoints:
                restored = checkpoints.restore(self.new_learner(), self._warn)
        if restored is None:
            raise UserError(f"{self.folder.path} has no checkpoint")
        return restored[0]

    def _restored(self, learner: Learner) -> Learner:
        """The learner as it was saved last, or the given one if that never happened."""
        restored = self._checkpoints.restore(learner, self._warn)
        if restored is None:
            if self.folder.results_file.exists():  # which are written after a checkpoint
                raise UserError(
                    f"{self.folder.path} has results and no checkpoint to continue from: bring "
                    f"{self.folder.checkpoints} back, or start anew in another --out"
                )
            self.folder.cut(0)
            self.folder.start(self.config)  # all of it is made here
            return learner
        learner, record = restored
        self._check_restored(learner, record)
        stored = {**self.history, **record["history"]}
        if stored["data_sha256"] != self.history["data_sha256"]:
            raise UserError(
                f"can't resume {self.folder.path}: {self.config.dataset} holds other images, "
                "labels or names than when the run began"
            )
        self.history, self._epoch_so_far = stored, record["epoch_so_far"]
        self._kept = f"the checkpoint {place(learner)} is kept"
        self.folder.cut(record["n_lines"])
        for line in self.folder.damaged_lines():
            self._warn(f"{line}: it stays as it is, and figures leave it out")
        changes = environment.changes(self.folder.settings())
        if changes and int(learner.task) < len(self.scenario.task_sizes):
            self._warn(
                f"not as when the run began: {'; '.join(changes)}: its results may differ from "
                "those of one that was not interrupted"
            )
        self._retell(learner)
        return learner

    def _check_restored(self, learner: Learner, record: RunRecord) -> None:
        """Refuses what can't be from this run, though its files are as they were written.

        Raises:
          UserError: with what does not fit.
        """
        task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
        bounds = self.scenario.bounds
        if not (0 <= task < len(bounds) and min(epoch, step) >= 0):
            problem = f"it stands in task {task + 1}, epoch {epoch + 1}, step {step}"
        else:
            sums = tuple(self.engine.no_sums()) if step else ()
            problem = problem_of_record(record, self.evaluation.classifiers, task, sums)
        if problem:
            raise reading.damaged(f"the checkpoint in {self.folder.checkpoints}", problem)

    def _retell(self, learner: Learner) -> None:
        """Makes results, exemplars and confusions tell of as many tasks as the learner has learned.

        Results tell of fewer where a kill came between a checkpoint and its results, and all tell
        of more where a damaged checkpoint was passed over. A power failure may lose either.
        """
        if self.history["confusion"]:
            self._write_confusions()
        else:  # an older version's checkpoint has none
            self.folder.drop_confusions()
        if int(learner.task):
            self._write_exemplars(learner)
            self.folder.write_results(self._results(with_whole_tasks(learner)))
        else:
            self.folder.drop_results()

    def _warn(self, text: str) -> None:
        self.callback.warned(self, text)

    def _pause(
        self,
        learner: Learner,
        epoch_so_far: dict[str, Any] | None = None,
        is_saved: bool = False,
    ) -> None:
        """Saves if it is time to, or if the run is asked to stop, which it then does."""
        wait = max(SECONDS_UNSAVED, self._saving / SAVING_SHARE)
        is_due = time.perf_counter() - self._saved_at >= wait
        asked, is_due = devices.max_over_processes(self.stop_asked(), int(is_due))
        if (asked or is_due) and not is_saved:
            self._save(learner, epoch_so_far)
        if asked:
            raise Stopped(asked, f"saved {place(learner)}")

    def _save(self, learner: Learner, epoch_so_far: dict[str, Any] | None = None) -> None:
        """Saves the learner with what the run knows beside it.

        Args:
          learner: between two updates, or two tasks.
          epoch_so_far: what an epoch that is not done knows: its sums and its seconds.

        Raises:
          UserError: if it can't be written, or should not be.
        """
        start = time.perf_counter()
        weights = jax.tree.leaves(jax.device_get(learner.weights))
        if not all(np.isfinite(leaf).all() for leaf in weights):
            raise self._diverged(f"the network is no longer finite {place(learner)}")
        n_lines = self.folder.n_lines
        record = {"history": self.history, "epoch_so_far": epoch_so_far, "n_lines": n_lines}
        with self.folder.writing():
            self._checkpoints.save(learner, record)
        self._saved_at = time.perf_counter()
        self._saving = self._saved_at - start
        self._kept = f"the checkpoint {place(learner)} is kept"

    def _diverged(self, what: str) -> UserError:
        return UserError(f"{what}; {self._kept}: start anew with a lower --rate, in another --out")

    def _learn(self, learner: Learner, task: Task) -> Steps:
        """One task, or what is left of it."""
        if int(learner.epoch) == int(learner.step) == 0:
            learner = self.engine.begin_task(learner, jnp.int32(task.n_classes))
        pool = self.pool(learner, task)
        n_images = int(pool.count())
        for epoch in range(int(learner.epoch), schedule_of(self.config, task.index).epochs):
            learner, line = yield from self._epoch(learner, pool, n_images, task.index, epoch)
            self.folder.append(line)
            self.callback.epoch_done(self, line)
            self._pause(learner)
        with self._clock("end_task"):
            learner = jax.block_until_ready(self._programs.end_task(learner, pool))
        line = self._evaluate(learner, task.index)
        peaks = (machine.peak_memory(), self.history["peak_bytes"])
        self.history["peak_bytes"] = max((peak for peak in peaks if peak), default=None)
        self.folder.append(line)
        self._write_confusions()
        self._write_exemplars(learner)
        self._save(learner)
        # After the checkpoint: results are never ahead of what a run can be continued from.
        self.folder.write_results(self._results(learner))
        self.callback.task_done(self, line)
        self._pause(learner, is_saved=True)
        return learner

    def _write_exemplars(self, learner: Learner) -> None:
        if self.engine.method.memory_size:
            self.folder.write_exemplars(*exemplars(learner.memory), self.scenario.class_names)

    def pool(self, learner: Learner, task: Task) -> Pool | HostPool:
        """The task's images, padded to the largest task's, and the exemplars."""
        keeps_all = self.engine.method.keeps_all_data
        n_rows = self.scenario.n_all_images if keeps_all else self.scenario.largest_task
        return self._programs.pool(
            learner,
            *task.padded(n_rows),
            task_room=max(self.scenario.task_sizes),
            class_room=self.scenario.largest_class,
        )

    def _epoch(
        self, learner: Learner, pool: Pool | HostPool, n_images: int, task: int, epoch: int
    ) -> Steps:
        """One pass over the pool, and its line of metrics.jsonl."""
        schedule = schedule_of(self.config, task)
        rate, weight_decay = schedule.rate_at(epoch), jnp.float32(schedule.weight_decay)
        steps, step = self.engine.n_steps(n_images), int(learner.step)
        sums, seconds = self.engine.no_sums(), 0.0
        if step:
            so_far, seconds = self._epoch_so_far["sums"], self._epoch_so_far["seconds"]
            sums = {name: jnp.full((), so_far[name], total.dtype) for name, total in sums.items()}
        start = time.perf_counter()
        for piece, stop in self._pieces(learner, pool, steps):
            took = time.perf_counter() - start  # to read the piece
            learner, sums, trained = yield TrainRequest(
                learner, piece, sums, jnp.float32(rate), weight_decay, jnp.int32(stop)
            )
            so_far = {name: float(total) for name, total in jax.device_get(sums).items()}
            took += trained
            seconds += took
            self._stride = max(1, round((stop - step) * SECONDS_A_CALL / took))
            step = stop
            if not math.isfinite(so_far["loss"]):
                raise self._diverged(
                    f"the loss is no longer finite in task {task + 1}, epoch {epoch + 1}, step "
                    f"{int(so_far['steps']) + 1}, at learning rate {rate:g} and a largest gradient "
                    f"of {so_far['largest_gradient']:g}"
                )
            speed, loss = step * self.config.batch_size / seconds, so_far["loss"] / step
            parts = {name: so_far[name] / step for name in self.engine.method.parts}
            self.callback.trained(
                self, Position(task, epoch, step, steps, loss, speed, rate, parts)
            )
            self._pause(learner, {"sums": so_far, "seconds": seconds})
            start = time.perf_counter()
        means = {name: total / steps for name, total in so_far.items()}
        learner = learner.replace(epoch=jnp.int32(epoch + 1), step=jnp.int32(0))
        self.history["seconds"]["train"] += seconds

        with self._clock("evaluate"):
            test_accuracy, test_loss = self.evaluation.of_task(learner, task)
        line = {
            "kind": "epoch",
            "task": task,
            "epoch": epoch,
            "rate": rate,
            "train_loss": means["loss"],
            "train_accuracy": means["n_new_right"] / max(means["n_new"], 1e-9),
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "parts": {name: means[name] for name in self.engine.method.parts},
            "images_per_second": round(steps * self.config.batch_size / seconds, 1),
        }
        return learner, line

    def _pieces(
        self, learner: Learner, pool: Pool | HostPool, steps: int
    ) -> Iterator[tuple[Pool | Chunk, int]]:
        """What each call of an epoch learns from, and the step before which it stops."""
        if self._streamed:
            yield from self._streamed.chunks(learner, pool, steps)
            return
        stop = int(learner.step)
        while stop < steps:
            stop = min(stop + self._stride, steps)
            yield pool, stop

    def _evaluate(self, learner: Learner, task: int) -> dict[str, Any]:
        """All classifiers on all classes seen: the line of metrics.jsonl."""
        with self._clock("evaluate"):
            measured = self.evaluation.of_seen(learner)
        for name, (scores, _) in measured.items():
            self.history["scores"][name].append(scores)
        n_seen = int(learner.n_seen)
        cells = {name: one.confusion.cells.tolist() for name, one in measured.items()}
        self.history["confusion"] = {"n_seen": n_seen, "cells": cells}
        said = ("task_accuracy", "seen_accuracy", "task_aware", "top5")
        return {
            "kind": "evaluation",
            "task": task,
            "n_seen": n_seen,
            **{key: {name: one.scores[key] for name, one in measured.items()} for key in said},
        }

    def _write_confusions(self) -> None:
        said = self.history["confusion"]
        cells = {name: np.array(one, np.int32) for name, one in said["cells"].items()}
        self.folder.write_confusions(
            {name: Confusion(said["n_seen"], one) for name, one in cells.items()}
        )

    def _results(self, learner: Learner) -> dict[str, Any]:
        return results_of(self.config, self.scenario, self.engine, learner, self.history)

    @contextlib.contextmanager
    def _clock(self, name: str):
        start = time.perf_counter()
        yield
        self.history["seconds"][name] += time.perf_counter() - start


def place(learner: Learner) -> str:
    """Where a run stands: such as 'after task 2' or 'in task 3, after epoch 4 and step 5'."""
    task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
    if epoch == step == 0:
        return f"after task {task}"
    return f"in task {task + 1}, after epoch {epoch}" + (f" and step {step}" if step else "")
