"""PyTorch's side of each part of the benchmark, if it can be measured on this machine.

PyTorch works in a process of its own, see `pytorch_process`; it is never imported here.
"""

import functools
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cil_jax import models
from cil_jax.benchmark.pytorch_process import Failed, Process
from cil_jax.benchmark.settings import Settings
from cil_jax.benchmark.workbench import Place
from cil_jax.data import Dataset
from cil_jax.training import build
from cil_jax.training.loop import Run
from cil_jax.typing import Array

EAGER, COMPILED, SHIPPED = "eager", "compiled", "with a loader"
Calls = dict[str, Callable[[], Any]]  # by variant; empty if PyTorch is not measured


class PyTorch:
    """PyTorch's side of the benchmark.

    Args:
      settings: the sizes of the work.
      notes: a list that remarks about the measurements are added to.
      tell: a callback for lines that report progress.

    Attributes:
      device: the PyTorch device that does the work, None if PyTorch is not measured.
    """

    def __init__(self, settings: Settings, notes: list[str], tell: Callable[[str], None]):
        self._settings, self._notes, self._tell = settings, notes, tell
        self._names: list[str] | None = None  # of the variants of the task, once there are any
        self.device = self._find() if settings.torch else None

    @functools.cached_property
    def _process(self) -> Process:
        return Process()

    def close(self) -> None:
        """Ends the process of PyTorch, if it has begun."""
        if "_process" in vars(self):
            self._process.close()

    def _find(self) -> str | None:
        """The PyTorch device to compare with; None, with a note, if there is none."""
        backbone, platform = self._settings.backbone, jax.default_backend()
        if importlib.util.find_spec("torch") is None:
            self._notes.append(
                "PyTorch was not measured. To install it: pip install 'cil_jax[bench]'."
            )
            return None
        if models.BACKBONES[backbone]["block"] is not models.BasicBlock:
            self._notes.append(f"PyTorch was not measured: its side has no {backbone}.")
            return None
        device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
        if device is None or (device == "cuda" and not self._process.do("has_cuda")):
            self._notes.append(
                f"PyTorch was not measured: it can't compute on the {platform} here."
            )
            return None
        return device

    @property
    def version(self) -> str:
        """The version of PyTorch, "-" if it is not measured."""
        return "-" if self.device is None else importlib.metadata.version("torch")

    def train(self, place: Place, n_steps: int) -> Calls:
        """Calls that make updates at a point of a run, eagerly and compiled."""
        names = self._tasks_at(place)
        return {name: functools.partial(self._process.do, "train", name, n_steps) for name in names}

    def answer(self, place: Place) -> Calls:
        """Calls that classify the test images at a point of a run by the learner's means."""
        names, means = self._tasks_at(place), np.asarray(place.learner.means)
        return {name: functools.partial(self._process.do, "answer", name, means) for name in names}

    def herding(self, features: Array) -> Calls:
        """A call that herds features [K, n, D]."""
        if self.device is None:
            return {}
        rows = np.asarray(features)

        def herd() -> Any:
            return self._process.do("herd", self._settings.herded)

        self._process.do("put_features", rows, self.device)
        return {EAGER: herd}

    def whole_run(self, run: Run, accuracy: dict[str, float]) -> Calls:
        """A call that does the work of a run, and writes its last NME accuracy to `accuracy`."""
        if self.device is None:
            return {}
        config, scenario = run.config, run.scenario
        schedule, n_classes = build.schedule_of(config, 0), sum(scenario.task_sizes)
        mean_and_std = scenario.dataset.pixel_statistics(config.normalization)
        model = self._model(config, scenario.dataset, n_classes, mean_and_std)
        self._process.do(
            "put_run",
            EAGER,
            model,
            {
                "tasks": _tasks_of(run),
                "test": scenario.test_set()[:2],
                "rates": [schedule.rate_at(epoch) for epoch in range(schedule.epochs)],
                "batch_size": config.batch_size,
                "memory": run.engine.method.memory_size or 0,
                "n_classes": n_classes,
            },
        )

        def call() -> None:
            accuracy[EAGER] = self._process.do("whole_run", EAGER)

        return {EAGER: call}

    def shipped_run(self, run: Run, curves: dict[str, list[float]]) -> Calls:
        """A call that does the work of a run as PyTorch is usually written.

        Args:
          run: a run of iCaRL, preset pycil.
          curves: where the call writes its NME accuracy after each task.
        """
        if self.device is None:
            return {}
        config, dataset = run.config, run.scenario.dataset
        n_tasks = len(run.scenario.task_sizes)
        schedules = [build.schedule_of(config, t) for t in range(n_tasks)]
        mean, std = dataset.pixel_statistics(config.normalization)
        augmentation = run.engine.augmentation
        self._process.do(
            "put_run",
            SHIPPED,
            {"network": self._network(config, dataset)},
            {
                "tasks": _tasks_of(run),
                "test": run.scenario.test_set()[:2],
                "mean": np.asarray(mean),
                "std": np.asarray(std),
                "augmentation": (augmentation.pad, augmentation.mirror, augmentation.brightness),
                "schedules": [
                    ([s.rate_at(epoch) for epoch in range(s.epochs)], s.weight_decay)
                    for s in schedules
                ],
                "momentum": config.momentum,
                "batch_size": config.batch_size,
                "memory": run.engine.method.memory_size or 0,
                "device": self.device,
            },
        )

        def call() -> None:
            curves[SHIPPED] = self._process.do("shipped_run", SHIPPED)

        return {SHIPPED: call}

    def _tasks_at(self, place: Place) -> list[str]:
        """The names of the variants that are measured at a point of a run."""
        if self.device is None:
            return []
        if self._names is None:
            self._put_task(place, EAGER)
            self._names = [EAGER, *self._compiled(place)]
        return self._names

    def _compiled(self, place: Place) -> list[str]:
        if not self._settings.torch_compile:
            self._notes.append("torch.compile was not measured.")
            return []
        self._tell("torch.compile starts; it may take minutes")
        start = time.perf_counter()
        try:
            self._put_task(place, COMPILED)
            self._process.do("train", COMPILED, 1)
        except Failed as error:
            self._notes.append(f"torch.compile failed: {error}")
            return []
        seconds = time.perf_counter() - start
        self._notes.append(f"torch.compile: {seconds:.0f} s until the first update was done.")
        return [COMPILED]

    def _put_task(self, place: Place, name: str) -> None:
        """Gives PyTorch the data at a point of our run."""
        bench, learner, pool = place
        mean_and_std = (np.asarray(learner.normalizer.mean), np.asarray(learner.normalizer.std))
        model = self._model(
            bench.config, bench.scenario.dataset, len(learner.task_of), mean_and_std
        )
        exists = np.asarray(pool.labels) >= 0
        task = {
            "images": np.asarray(pool.images)[exists],
            "labels": np.asarray(pool.labels)[exists],
            "test_images": np.asarray(bench.test_images),
            "batch_size": bench.config.batch_size,
            "rate": bench.config.rate,
        }
        compiled = {"compiled": name == COMPILED}
        self._process.do("put_task", name, {**model, **compiled}, int(learner.n_old), task)

    def _model(
        self,
        config: Any,  # of iCaRL
        dataset: Dataset,
        n_classes: int,
        mean_and_std: tuple[np.ndarray, np.ndarray],
    ) -> dict[str, Any]:
        """The arguments of `cil_jax.benchmark.pytorch_work.model_of` for the settings of a run."""
        augmentation = build.augmentation_of(config, dataset)
        return {
            "network": {**self._network(config, dataset), "n_classes": n_classes},
            "mean": np.asarray(mean_and_std[0]),
            "std": np.asarray(mean_and_std[1]),
            "pad": augmentation.pad,
            "mirror": augmentation.mirror,
            "momentum": config.momentum,
            "weight_decay": config.weight_decay,
            "divisor": config.divisor,
            "device": self.device or "cpu",
            "precision": config.precision,
        }

    def _network(self, config: Any, dataset: Dataset) -> dict[str, Any]:
        """The arguments of `cil_jax.benchmark.pytorch_model.Network`, without n_classes."""
        backbone = models.BACKBONES[config.backbone]
        return {
            "stage_sizes": backbone["stage_sizes"],
            "widths": backbone["widths"],
            "last_relu": config.last_relu,
            "n_channels": dataset.image_shape[2],
        }


def _tasks_of(run: Run) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images and labels of each task of a run."""
    tasks = [run.scenario.task(t) for t in range(len(run.scenario.task_sizes))]
    return [(task.images, task.labels) for task in tasks]
