"""A run: for each task, begin it, train, select exemplars, evaluate and record.

Run(config, RunFolder(config.folder()), Callback()).go()
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
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
from cil_jax.methods.plan import Do, Keep, Step, Train
from cil_jax.platform import devices, environment, machine
from cil_jax.settings import code
from cil_jax.settings.config import Config
from cil_jax.storage.checkpoint import Checkpoints
from cil_jax.storage.run_folder import RunFolder, Unwritten
from cil_jax.storage.schemas import Results, RunRecord, problem_of_record
from cil_jax.training.budget import within_budget
from cil_jax.training.build import (
    data_seed,
    dataset_of,
    engine_of,
    room_of,
    scenario_of,
)
from cil_jax.training.callbacks import Callback
from cil_jax.training.course import Course
from cil_jax.training.engine import Sums, TrainRequest
from cil_jax.training.epoch import Epoch
from cil_jax.training.evaluation import Evaluation
from cil_jax.training.results import results_of
from cil_jax.training.saving import Saver, place
from cil_jax.training.signals import Stopped
from cil_jax.training.streaming import HostPool, Streamed

SECONDS_A_CALL = 1.0  # of training between two reports of progress


class Trained(NamedTuple):
    """The response to a TrainRequest: the result of `Engine.train`, and the time it took."""

    learner: Learner
    sums: Sums
    seconds: float


# A run as a generator: it yields requests for updates, receives their results, and returns the
# contents of results.json.
Steps = Generator[TrainRequest, Trained, Results]
# A part of a run, which returns the learner.
LearnerSteps = Generator[TrainRequest, Trained, Learner]


class Run:
    """A run in progress.

    Attributes:
      config: the settings.
      scenario: the tasks.
      mesh: the devices, or None for a single one.
      engine: the compiled programs.
      course: the plan of each task, its epochs and updates.
      evaluation: the test set and the classifiers to evaluate.
      folder: where the run is recorded.
      history: accuracies, times and the last confusions so far, saved with every checkpoint.
      stop_asked: returns the number of the signal that asks the run to stop, or 0. It is called
        after each call of `Engine.train`. If it returns a signal, the run saves and raises Stopped
        from `go` or `steps`.
    """

    def __init__(self, config: Config, folder: RunFolder, callback: Callback):
        """Loads the data and builds the engine; writes nothing.

        Args:
          config: the settings.
          folder: where the run is recorded; with several processes, only the first one writes.
          callback: is called while the run trains.

        Raises:
          UserError: if the settings, the data or the machine do not allow the run.
        """
        self.config, self.callback = config, callback
        self.folder = folder if devices.is_first_process() else Unwritten(folder.path)
        environment.check_options()  # before data is read, which may take a while
        dataset = dataset_of(config)
        self.scenario = scenario_of(config, dataset)
        self.mesh = devices.mesh(config.devices, config.batch_size)
        room = room_of(self.scenario.task_sizes)
        sized = within_budget(config, dataset, dataset.image_shape, room)
        self.engine = engine_of(sized, dataset, room)
        self.course = Course(config, self.scenario, self.engine)
        if self.scenario.stream.returns:
            self._check_old_classes()
        # Several processes each read their own share of a batch.
        streams = config.stream or jax.process_count() > 1
        self._streamed = Streamed(self.engine, self.mesh) if streams else None
        # The programs that take images. Both kinds have the same methods, each for its own pool.
        self._programs: Any = self._streamed or self.engine
        memory_size, n_classes = self.engine.method.memory_size, sum(self.scenario.task_sizes)
        if memory_size is not None and memory_size < n_classes:
            raise UserError(
                f"--memory {memory_size} is smaller than the number of classes, {n_classes}"
            )
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
        self._stride = 1  # number of updates per call of Engine.train
        self._epoch_so_far: dict[str, Any] = {}  # of the epoch within which the run is resumed

    def _check_old_classes(self) -> None:
        """Checks that the method can learn from new images of old classes.

        Raises:
          UserError: if it can't.
        """
        method, config = self.engine.method, self.config
        if not method.takes_old_classes:
            raise UserError(
                f"{config.method} can't learn from new images of old classes, which --scenario "
                f"{self.scenario.stream} brings: take a scenario without blurry and repeat"
            )
        is_softmax = getattr(config, "objective", "softmax") == "softmax"
        if is_softmax and getattr(config, "softmax_over", "open") == "new":
            raise UserError(
                f"--softmax-over new has no outputs for old classes, which --scenario "
                f"{self.scenario.stream} brings: add --softmax-over open"
            )

    def go(self) -> Results:
        """Trains from the current position to the end; returns the contents of results.json."""
        with contextlib.closing(self.steps()) as steps, devices.using(self.mesh):
            trained: Any = None  # which starts a generator, though its type does not allow it
            while True:
                try:
                    request = steps.send(trained)
                except StopIteration as end:
                    return end.value
                start = time.perf_counter()
                learner, sums = jax.block_until_ready(self.engine.train(*request))
                trained = Trained(learner, sums, time.perf_counter() - start)

    def steps(self) -> Steps:
        """Returns the run as a generator that leaves the updates to its caller.

        Call this before the mesh of the run is in use, and iterate while it is.

        Raises:
          Stopped: from the generator, after it has saved, if `stop_asked` returns a signal.
        """
        return self._steps_from(self.new_learner())

    def _steps_from(self, learner: Learner) -> Steps:
        with (
            self.folder.locked(),
            Checkpoints(self.folder.checkpoints) as checkpoints,
        ):
            self._saver = Saver(checkpoints, self.folder)
            learner = self._start_or_resume(devices.copy_to_all(learner))
            checkpoints.sweep()
            self.callback.started(self, learner)
            for index in range(int(learner.task), len(self.scenario.task_sizes)):
                learner = yield from self._learn(learner, self.course.task(index))
        return self._results(learner)

    def new_learner(self) -> Learner:
        """Returns a learner that has seen no class."""
        dataset, config = self.scenario.dataset, self.config
        mean, std = dataset.pixel_statistics(config.normalization)
        return self.engine.create(
            dataset.image_shape,
            sum(self.scenario.task_sizes),
            Normalizer(jnp.asarray(mean), jnp.asarray(std)),
            *root_keys(config.seed, data_seed(config)),
        )

    def saved_learner(self) -> Learner:
        """Returns the learner of the newest checkpoint, for inspection.

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

    # Resuming.

    def _start_or_resume(self, learner: Learner) -> Learner:
        """Prepares the run folder. Returns the learner to continue with."""
        if not self.config.resume:
            self.folder.start(self.config)
            return learner
        learner = self._restored(learner)
        self.folder.follow(self.config)
        return learner

    def _restored(self, learner: Learner) -> Learner:
        """Returns the learner as last saved, or the given one if none was saved."""
        restored = self._saver.restore(learner, self._warn)
        if restored is None:
            if self.folder.results_file.exists():  # results are written after a checkpoint
                raise UserError(
                    f"{self.folder.path} has results but no checkpoint to continue from: restore "
                    f"{self.folder.checkpoints}, or start a new run in another --out"
                )
            self.folder.cut(0)
            self.folder.start(self.config)  # a kill may have left it incomplete
            return learner
        learner, record = restored
        self._check_restored(learner, record)
        self._take_over(record)
        self._warn_after_restoring(learner)
        self._rewrite_files(learner)
        return learner

    def _check_restored(self, learner: Learner, record: RunRecord) -> None:
        """Checks that a checkpoint, though its files are intact, can be from this run.

        Raises:
          UserError: what does not match.
        """
        task, epoch, step = int(learner.task), int(learner.epoch), int(learner.step)
        bounds, plan, at = self.scenario.bounds, self.course.plan(task), int(learner.place)
        is_possible = 0 <= task < len(bounds) and min(epoch, step) >= 0 and 0 <= at < len(plan)
        is_within_epoch = is_possible and step > 0
        if not is_possible or (is_within_epoch and not isinstance(plan[at], Train)):
            problem = f"its position is impossible: task {task + 1}, epoch {epoch + 1}, step {step}"
        else:
            sums = tuple(self.engine.no_sums(self.engine.kind(plan[at]))) if step else ()
            problem = problem_of_record(record, self.evaluation.classifiers, task, sums)
        if problem:
            raise reading.damaged(f"the checkpoint in {self.folder.checkpoints}", problem)

    def _take_over(self, record: Mapping[str, Any]) -> None:
        """Continues the history of a checkpoint, and drops lines that were written after it.

        Args:
          record: a RunRecord that has all its entries, as `_check_restored` makes sure.

        Raises:
          UserError: if the checkpoint was made with other data.
        """
        history = {**self.history, **record["history"]}
        if history["data_sha256"] != self.history["data_sha256"]:
            raise UserError(
                f"can't resume {self.folder.path}: {self.config.dataset} now holds other images, "
                "labels or names than when the run began"
            )
        self.history, self._epoch_so_far = history, {**(record["epoch_so_far"] or {})}
        self.folder.cut(record["n_lines"])

    def _warn_after_restoring(self, learner: Learner) -> None:
        """Warns of damaged lines, and of a changed environment if there is more to train."""
        for line in self.folder.damaged_lines():
            self._warn(f"{line}: the line is kept, but figures leave it out")
        recorded = self.folder.settings()
        changes = [*environment.changes(recorded), *code.changes(recorded.get("code"))]
        if changes and int(learner.task) < len(self.scenario.task_sizes):
            self._warn(
                "results may differ from those of an uninterrupted run, because the environment "
                f"has changed: {'; '.join(changes)}"
            )

    def _rewrite_files(self, learner: Learner) -> None:
        """Makes results, exemplars and confusions match the tasks that the learner has learned.

        They lag behind if the run was killed between a checkpoint and its results, and are ahead if
        a damaged checkpoint was skipped. A power failure may cause either.
        """
        if self.history["confusion"]:
            self._write_confusions()
        else:  # checkpoints of older versions have none
            self.folder.drop_confusions()
        if int(learner.task):
            self._write_exemplars(learner)
            self.folder.write_results(self._results(with_whole_tasks(learner)))
        else:
            self.folder.drop_results()

    def _warn(self, text: str) -> None:
        self.callback.warned(self, text)

    # Saving and stopping.

    def _save_or_stop(
        self,
        learner: Learner,
        epoch_so_far: dict[str, Any] | None = None,
        is_saved: bool = False,
    ) -> None:
        """Saves if a save is due or the run is asked to stop.

        Args:
          learner: between two updates, or two tasks.
          epoch_so_far: see `_save`.
          is_saved: whether this learner was saved already.

        Raises:
          Stopped: if the run is asked to stop.
        """
        is_due = int(self._saver.is_due())
        signal_number, is_due = devices.max_over_processes(self.stop_asked(), is_due)
        if (signal_number or is_due) and not is_saved:
            self._save(learner, epoch_so_far)
        if signal_number:
            raise Stopped(signal_number, f"saved {place(learner)}")

    def _save(self, learner: Learner, epoch_so_far: dict[str, Any] | None = None) -> None:
        """Saves the learner and the record of the run in a checkpoint.

        Args:
          learner: between two updates, or two tasks.
          epoch_so_far: within an epoch, its sums and seconds so far.

        Raises:
          UserError: if the checkpoint can't be written, or the network is not finite.
        """
        n_lines = self.folder.n_lines
        record = {"history": self.history, "epoch_so_far": epoch_so_far, "n_lines": n_lines}
        self._saver.save(learner, record)

    # A task.

    def _learn(self, learner: Learner, task: Task) -> LearnerSteps:
        """Learns a task, or the rest of it."""
        if int(learner.place) == int(learner.epoch) == int(learner.step) == 0:
            learner = self.engine.begin_task(learner, jnp.int32(task.n_classes))
        pool, plan = self.pool(learner, task), self.course.plan(task.index)
        for number in range(int(learner.place), len(plan)):
            if number > int(learner.place):
                is_training = isinstance(plan[number], Train)
                learner = self.engine.advance(learner, starts_training=is_training)
                self._save_or_stop(learner)
            learner = yield from self._take_step(learner, pool, task.index, plan[number])
        learner = self.engine.end_task(learner)
        self._record_task(learner, self._evaluate(learner, task.index))
        return learner

    def _take_step(
        self, learner: Learner, pool: Pool | HostPool, task: int, step: Step
    ) -> LearnerSteps:
        """Takes a step of the plan of a task, or the rest of it."""
        kind = self.engine.kind(step)
        if isinstance(step, Train):
            return (yield from self._train(learner, pool, task, step))
        with self._clock("end_task"):
            if isinstance(step, Keep):
                learner = self._programs.keep(learner, pool)
            elif isinstance(step, Do):
                learner = self.engine.do(learner, kind=kind)
            else:
                pool = self._programs.restrict(learner, pool, kind=kind)
                learner = self._programs.fold(learner, pool, kind=kind)
            return jax.block_until_ready(learner)

    def _train(
        self, learner: Learner, pool: Pool | HostPool, task: int, training: Train
    ) -> LearnerSteps:
        """Takes a training step of a plan, or the rest of it."""
        pool = self._programs.restrict(learner, pool, kind=self.engine.kind(training))
        n_steps = self.engine.n_steps(int(pool.count()))
        for number in range(int(learner.epoch), self.course.schedule(task, training).epochs):
            learner = yield from self._learn_epoch(learner, pool, task, training, number, n_steps)
        return learner

    def pool(self, learner: Learner, task: Task) -> Pool | HostPool:
        """Returns the images to train on: those of the task, padded to one size, and exemplars."""
        keeps_all = self.engine.method.keeps_all_data
        n_rows = self.scenario.n_all_images if keeps_all else self.scenario.largest_task
        return self._programs.pool(
            learner,
            *task.padded(n_rows),
            task_room=max(self.scenario.task_sizes),
            class_room=self.scenario.largest_class,
        )

    def _record_task(self, learner: Learner, line: dict[str, Any]) -> None:
        """Writes the files of a task and a checkpoint, and reports the end of the task.

        Args:
          learner: after the task.
          line: the task's evaluation, as a line of metrics.jsonl.
        """
        peaks = (machine.peak_memory(), self.history["peak_bytes"])
        self.history["peak_bytes"] = max((peak for peak in peaks if peak), default=None)
        self.folder.append(line)
        self._write_confusions()
        self._write_exemplars(learner)
        if self.config.features:
            saved = self.evaluation.features(learner, self.config.features)
            self.folder.write_features(int(learner.task) - 1, *saved)
        self._save(learner)
        # After the checkpoint, so that results never include a task that would be learned again.
        self.folder.write_results(self._results(learner))
        self.callback.task_done(self, line)
        self._save_or_stop(learner, is_saved=True)

    # An epoch.

    def _learn_epoch(
        self,
        learner: Learner,
        pool: Pool | HostPool,
        task: int,
        training: Train,
        number: int,
        n_steps: int,
    ) -> LearnerSteps:
        """Trains an epoch or the rest of it, evaluates the learner, and records both."""
        epoch = self._begin_epoch(learner, task, training, number, n_steps)
        learner = yield from self._train_epoch(learner, pool, epoch)
        self.history["seconds"]["train"] += epoch.seconds
        with self._clock("evaluate"):
            test_accuracy, test_loss = self.evaluation.of_task(learner, epoch.task)
        line = epoch.line(self.engine.parts(epoch.kind), test_accuracy, test_loss)
        self.folder.append(line)
        self.callback.epoch_done(self, line)
        self._save_or_stop(learner)
        return learner

    def _begin_epoch(
        self, learner: Learner, task: int, training: Train, number: int, n_steps: int
    ) -> Epoch:
        """Returns an epoch at its start or, in a resumed run, at the step of the checkpoint."""
        schedule = self.course.schedule(task, training)
        at, step = int(learner.place), int(learner.step)
        epoch = Epoch(
            task=task,
            number=number,
            number_in_task=self.course.epochs_before(task, at) + number,
            training=training,
            kind=self.engine.kind(training),
            n_steps=n_steps,
            batch_size=self.config.batch_size,
            rate=schedule.rate_at(number),
            weight_decay=schedule.weight_decay,
        )
        if step:
            epoch.step = step
            epoch.totals = self._epoch_so_far["sums"]
            epoch.seconds = self._epoch_so_far["seconds"]
        return epoch

    def _train_epoch(self, learner: Learner, pool: Pool | HostPool, epoch: Epoch) -> LearnerSteps:
        """Makes the updates of an epoch that are left, and keeps `epoch` up to date."""
        sums = self.engine.no_sums(epoch.kind)
        if epoch.step:
            sums = {name: jnp.full((), epoch.totals[name], x.dtype) for name, x in sums.items()}
        weight_decay = jnp.float32(epoch.weight_decay)
        start = time.perf_counter()
        for images, stop in self._pieces(learner, pool, epoch):
            seconds = time.perf_counter() - start  # to read the images
            learner, sums, training_seconds = yield TrainRequest(
                *(learner, images, sums, jnp.float32(epoch.rate), weight_decay, jnp.int32(stop)),
                epoch.kind,
            )
            epoch.totals = {name: float(total) for name, total in jax.device_get(sums).items()}
            seconds += training_seconds
            epoch.seconds += seconds
            self._stride = max(1, round((stop - epoch.step) * SECONDS_A_CALL / seconds))
            epoch.step = stop
            if problem := epoch.problem():
                raise self._saver.diverged(problem)
            self.callback.trained(self, epoch.position(self.engine.parts(epoch.kind)))
            self._save_or_stop(learner, epoch.so_far())
            start = time.perf_counter()
        return learner.replace(epoch=jnp.int32(epoch.number + 1), step=jnp.int32(0))

    def _pieces(
        self, learner: Learner, pool: Pool | HostPool, epoch: Epoch
    ) -> Iterator[tuple[Pool | Chunk, int]]:
        """Yields the images of each call of `Engine.train`, and the step before which it stops."""
        if isinstance(pool, HostPool):
            assert self._streamed  # which has made the pool
            yield from self._streamed.chunks(learner, pool, epoch.n_steps, epoch.kind)
            return
        stop = int(learner.step)
        while stop < epoch.n_steps:
            stop = min(stop + self._stride, epoch.n_steps)
            yield pool, stop

    # Evaluation and files.

    def _evaluate(self, learner: Learner, task: int) -> dict[str, Any]:
        """Evaluates all classifiers on all classes seen.

        Adds the results to the history, and returns them as a line of metrics.jsonl.
        """
        with self._clock("evaluate"):
            measured, loss = self.evaluation.of_seen(learner)
        for name, result in measured.items():
            self.history["scores"][name].append(result.scores)
        n_seen = int(learner.n_seen)
        cells = {name: result.confusion.cells.tolist() for name, result in measured.items()}
        self.history["confusion"] = {"n_seen": n_seen, "cells": cells}
        return {
            "kind": "evaluation",
            "task": task,
            "n_seen": n_seen,
            "loss": loss,
            **{
                key: {name: result.scores[key] for name, result in measured.items()}
                for key in ("task_accuracy", "seen_accuracy", "task_aware", "top5")
            },
        }

    def _write_exemplars(self, learner: Learner) -> None:
        if self.engine.method.memory_size:
            self.folder.write_exemplars(*exemplars(learner.memory), self.scenario.class_names)

    def _write_confusions(self) -> None:
        n_seen, cells = self.history["confusion"]["n_seen"], self.history["confusion"]["cells"]
        self.folder.write_confusions(
            {name: Confusion(n_seen, np.array(c, np.int32)) for name, c in cells.items()}
        )

    def _results(self, learner: Learner) -> Results:
        return results_of(self.config, self.scenario, self.engine, learner, self.history)

    @contextlib.contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        """Adds the time that the context takes to an entry of `history["seconds"]`."""
        start = time.perf_counter()
        yield
        self.history["seconds"][name] += time.perf_counter() - start
