"""One run: for each task begin, fit, finish, evaluate, record, save.

results = cil_jax.run(cil_jax.recipes.preset("icarl", "paper", dataset="digits", task_size=2))
"""

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cil_jax import devices, machine, metrics
from cil_jax.assemble import data_seed, dataset_of, engine_of, recipe_of, scenario_of
from cil_jax.checkpoint import Checkpoints
from cil_jax.classifiers import Counts
from cil_jax.config import Config, UserError
from cil_jax.data.scenario import Task
from cil_jax.engine import Sums, Updates
from cil_jax.learner import Learner, Normalizer, n_bytes, root_keys
from cil_jax.memory import Chunk, Pool
from cil_jax.observer import Observer, Position
from cil_jax.record import RunFolder, Unwritten
from cil_jax.selection import unit
from cil_jax.stream import HostPool, Streamed
from cil_jax.typing import Array

SECONDS_A_CALL = 1.0  # of training between two signs of life


def run(config: Config, observer: Observer | None = None) -> dict[str, Any]:
    """Runs a method through a scenario, or the rest of a run that was interrupted.

    Args:
      config: the settings; see `cil_jax.recipes.preset`.
      observer: is told how it goes.

    Returns:
      What results.json holds.

    Raises:
      UserError: if the settings, the data or the run folder do not allow it.
    """
    folder = RunFolder(config.folder())
    if devices.is_first_process():
        folder.check(config)
    return Run(config, folder, observer or Observer()).go()


class Trained(NamedTuple):
    """What updates lead to: what `Engine.train` gives, and how long that took."""

    learner: Learner
    sums: Sums
    seconds: float


# What a run is between two calls of `Engine.train`: it gives Updates and takes what they lead to.
Steps = Generator[Updates, Trained, Any]


class Run:
    """A run in progress.

    Attributes:
      config: the settings.
      scenario: the tasks.
      mesh: the devices, or None for one.
      engine: the compiled programs.
      folder: where the run is recorded.
      history: accuracies and times so far, saved with every checkpoint.
    """

    def __init__(self, config: Config, folder: RunFolder, observer: Observer):
        self.config, self.observer = config, observer
        self.folder = folder if devices.is_first_process() else Unwritten(folder.path)
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
        images, labels, self.test_bounds = self.scenario.test_set()
        if not streams:
            with devices.used(self.mesh):
                images, labels = jnp.asarray(images), jnp.asarray(labels)
        self.test_images, self.test_labels = images, labels
        # In the method's own order, which a compiled program does not keep.
        self.classifiers = [*self.engine.method.classifiers(), *(["ncm"] if config.ncm else [])]
        self.history: dict[str, Any] = {
            "data_sha256": dataset.sha256(),
            "scores": {name: [] for name in self.classifiers},
            "seconds": {"train": 0.0, "end_task": 0.0, "evaluate": 0.0},
            "peak_bytes": None,
        }
        self._stride = 1  # updates in one call

    def go(self) -> dict[str, Any]:
        """From where it stands to the end. Returns what results.json holds."""
        with contextlib.closing(self.steps()) as steps, devices.used(self.mesh):
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
        """
        if not self.config.resume:
            self.folder.start(self.config)
        return self._steps_from(self.new_learner())

    def _steps_from(self, learner: Learner) -> Steps:
        with Checkpoints(self.folder.checkpoints) as self._checkpoints:
            learner = devices.everywhere(learner)
            if self.config.resume:
                learner = self._restored(learner)
            self.observer.started(self, learner)
            for index in range(int(learner.task), len(self.scenario.task_sizes)):
                learner = yield from self._learn(learner, self.task(index))
        return self.results(learner)

    def task(self, index: int) -> Task:
        """The images that task `index` brings: its own or, for a bound, all so far."""
        if self.engine.method.keeps_all_data:
            return self.scenario.up_to(index)
        return self.scenario.task(index)

    def updates(self, task: int) -> int:
        """Updates that a task takes; for a memory that is not yet known, an estimate."""
        kept = self.engine.method.memory_size or 0
        first = 0 if self.engine.method.keeps_all_data else task
        n_images = sum(self.scenario.n_images(t) for t in range(first, task + 1))
        n_images += kept if task else 0
        return recipe_of(self.config, task).epochs * self._steps(n_images)

    def _steps(self, n_images: int) -> int:
        """Updates an epoch: a rest smaller than a batch is left out."""
        return max(1, n_images // self.config.batch_size)

    def results(self, learner: Learner) -> dict[str, Any]:
        """What results.json holds after the tasks learned so far."""
        config, method = self.config, self.engine.method
        n_seen, own = int(learner.n_seen), n_bytes(learner)
        sizes = jax.tree.map(lambda x: x.size, learner.weights.params)
        n_features = learner.means.shape[1]
        n_images = np.diff(self.test_bounds).tolist()
        return {
            "method": config.method,
            "preset": config.preset,
            "dataset": config.dataset,
            "data_sha256": self.history["data_sha256"],
            "order": f"seeded {config.order_seed}" if config.order == "seeded" else config.order,
            "backbone": config.backbone,
            "epochs": [recipe_of(config, t).epochs for t in range(len(self.scenario.task_sizes))],
            "exemplars": method.memory_size or 0,
            "keeps_all_data": method.keeps_all_data,
            "class_order": list(self.scenario.class_order),
            "class_names": list(self.scenario.class_names),
            "image_shape": list(learner.image_shape),
            "augmentation": dataclasses.asdict(self.engine.augmentation),
            "task_sizes": list(self.scenario.task_sizes),
            "seeds": {"order": config.order_seed, "init": config.seed, "data": data_seed(config)},
            "classifiers": {
                name: metrics.summarize(
                    [one["task_accuracy"] for one in scores],
                    n_images,
                    task_aware=[one["task_aware"] for one in scores],
                    top5=[one["top5"] for one in scores],
                )
                for name, scores in self.history["scores"].items()
            },
            "headline": method.headline,
            "uses_all_data": [name for name in ("ncm",) if name in self.classifiers],
            "memory_bytes": own["exemplars"],
            "memory": {**own, "peak": self.history["peak_bytes"]},
            "parameters": sum(jax.tree.leaves(sizes["backbone"])) + n_seen * (n_features + 1),
            "seconds": {k: round(v, 3) for k, v in self.history["seconds"].items()},
        }

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
            with Checkpoints(self.folder.checkpoints, writes=False) as checkpoints:
                restored = checkpoints.restore(self.new_learner())
        if restored is None:
            raise UserError(f"{self.folder.path} has no checkpoint")
        return restored[0]

    def _restored(self, learner: Learner) -> Learner:
        """The learner as it was saved last, or the given one if that never happened."""
        restored = self._checkpoints.restore(learner)
        if restored is None:
            self.folder.cut(0)
            return learner
        learner, record = restored
        stored = {**self.history, **record["history"]}
        if stored["data_sha256"] != self.history["data_sha256"]:
            raise UserError(
                f"can't resume {self.folder.path}: {self.config.dataset} holds other images, "
                "labels or names than when the run began"
            )
        self.history = stored
        self.folder.cut(record["n_lines"])
        return learner

    def _save(self, learner: Learner) -> None:
        # A copy: it is written in the background, while the run goes on.
        record = {"history": copy.deepcopy(self.history), "n_lines": self.folder.n_lines}
        self._checkpoints.save(learner, record)

    def _learn(self, learner: Learner, task: Task) -> Steps:
        """One task, or what is left of it."""
        if int(learner.epoch) == 0:
            learner = self.engine.begin_task(learner, jnp.int32(task.n_classes))
        pool = self.pool(learner, task)
        n_images = int(pool.count())
        for epoch in range(int(learner.epoch), recipe_of(self.config, task.index).epochs):
            learner, line = yield from self._epoch(learner, pool, n_images, task.index, epoch)
            self.folder.append(line)
            self._save(learner)
            self.observer.epoch_done(self, line)
        with self._clock("end_task"):
            learner = jax.block_until_ready(self._programs.end_task(learner, pool))
        line = self._evaluation(learner, task.index)
        peaks = (machine.peak_memory(), self.history["peak_bytes"])
        self.history["peak_bytes"] = max((peak for peak in peaks if peak), default=None)
        self.folder.append(line)
        self.folder.write_results(self.results(learner))
        self._save(learner)
        self.observer.task_done(self, line)
        return learner

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
        recipe = recipe_of(self.config, task)
        rate, weight_decay = recipe.rate_at(epoch), jnp.float32(recipe.weight_decay)
        steps = self._steps(n_images)
        sums, step, seconds = self.engine.no_sums(), 0, 0.0
        start = time.perf_counter()
        for piece, stop in self._pieces(learner, pool, steps):
            took = time.perf_counter() - start  # to read the piece
            learner, sums, trained = yield Updates(
                learner, piece, sums, jnp.float32(rate), weight_decay, jnp.int32(stop)
            )
            took += trained
            seconds += took
            means = {name: float(total) / stop for name, total in sums.items()}
            self._stride = max(1, round((stop - step) * SECONDS_A_CALL / took))
            step = stop
            if not math.isfinite(means["loss"]):
                raise UserError(
                    f"the loss is no longer finite in task {task + 1}, epoch {epoch + 1}, at "
                    f"learning rate {rate:g}: try a lower --rate"
                )
            speed = step * self.config.batch_size / seconds
            self.observer.trained(self, Position(task, epoch, step, steps, means["loss"], speed))
            start = time.perf_counter()
        learner = learner.replace(epoch=jnp.int32(epoch + 1), step=jnp.int32(0))
        self.history["seconds"]["train"] += seconds

        counts, test_loss = self._answers(learner, *self.test_bounds[task : task + 2])
        line = {
            "kind": "epoch",
            "task": task,
            "epoch": epoch,
            "rate": rate,
            "train_loss": means["loss"],
            "train_accuracy": means["n_new_right"] / max(means["n_new"], 1e-9),
            "test_loss": test_loss,
            "test_accuracy": metrics.accuracy(counts["linear"].confusion),
            "parts": {name: means[name] for name in self.engine.method.parts},
            "images_per_second": round(speed, 1),
        }
        return learner, line

    def _pieces(
        self, learner: Learner, pool: Pool | HostPool, steps: int
    ) -> Iterator[tuple[Pool | Chunk, int]]:
        """What each call of an epoch learns from, and the step before which it stops."""
        if self._streamed:
            yield from self._streamed.chunks(learner, pool, steps)
            return
        stop = 0
        while stop < steps:
            stop = min(stop + self._stride, steps)
            yield pool, stop

    def _answers(
        self, learner: Learner, start: int, stop: int, all_data_means: Array | None = None
    ) -> tuple[dict[str, Counts], float]:
        """Counts on test images start .. stop - 1 by classifier, and the loss."""
        means = jnp.zeros_like(learner.means) if all_data_means is None else all_data_means
        with self._clock("evaluate"):
            counts, loss = self._programs.evaluate(
                learner,
                self.test_images,
                self.test_labels,
                jnp.int32(start),
                jnp.int32(stop),
                means,
            )
            return {name: jax.device_get(counts[name]) for name in self.classifiers}, float(loss)

    def _all_data_means(self, learner: Learner) -> Array:
        """Class means of all training data of the classes seen: an analysis, see `Config.ncm`.

        Mirror images count where training mirrors, as in iCaRL's code.
        """
        mirrored, sums = self.engine.augmentation.mirror, jnp.zeros_like(learner.means)
        with self._clock("evaluate"):
            for index in range(int(learner.task)):
                images, labels = self.scenario.task(index).padded(self.scenario.largest_task)
                sums += self._programs.feature_sums(learner, images, labels, mirrored=mirrored)
            return jax.block_until_ready(unit(sums))

    def _evaluation(self, learner: Learner, task: int) -> dict[str, Any]:
        """All classifiers on all classes seen, and the line of metrics.jsonl."""
        n_seen = int(learner.n_seen)
        means = self._all_data_means(learner) if self.config.ncm else None
        counts, _ = self._answers(learner, 0, self.test_bounds[task + 1], means)
        sizes = self.scenario.task_sizes[: task + 1]
        scores = {name: metrics.scores(one, sizes) for name, one in counts.items()}
        for name, one in scores.items():
            self.history["scores"][name].append(one)
        lines = {
            key: {name: one[key] for name, one in scores.items()}
            for key in ("task_accuracy", "seen_accuracy", "task_aware", "top5")
        }
        confusion = {n: c.confusion[:n_seen, :n_seen].tolist() for n, c in counts.items()}
        return {
            "kind": "evaluation",
            "task": task,
            "n_seen": n_seen,
            **lines,
            "confusion": confusion,
        }

    @contextlib.contextmanager
    def _clock(self, name: str):
        start = time.perf_counter()
        yield
        self.history["seconds"][name] += time.perf_counter() - start
