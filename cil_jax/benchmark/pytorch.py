"""PyTorch's side of each part of the benchmark, if it can be measured on this machine.

PyTorch is imported only when it is measured.
"""

import functools
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cil_jax import models
from cil_jax.benchmark.settings import Settings
from cil_jax.benchmark.workbench import Place
from cil_jax.data import Dataset
from cil_jax.data.augment import Augmentation
from cil_jax.training import build
from cil_jax.training.loop import Run
from cil_jax.typing import Array

if TYPE_CHECKING:
    from cil_jax.benchmark import pytorch_model

EAGER, COMPILED = "eager", "compiled"
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
        self._tasks: dict[str, pytorch_model.Task] | None = None
        self.device = self._find() if settings.torch else None

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
        import torch  # pyright: ignore[reportMissingImports]  # optional

        device = {"cpu": "cpu", "gpu": "cuda"}.get(platform)
        if device is None or (device == "cuda" and not torch.cuda.is_available()):
            self._notes.append(
                f"PyTorch was not measured: it can't compute on the {platform} here."
            )
            return None
        return device

    @property
    def version(self) -> str:
        """The version of PyTorch, "-" if it is not measured."""
        return "-" if self.device is None else importlib.metadata.version("torch")

    def do(self, place: Place, work: Callable[["pytorch_model.Task"], Any]) -> Calls:
        """Calls that do some work at a point of a run, eagerly and compiled.

        Args:
          place: the point of our run, whose data PyTorch gets as well.
          work: does the work with PyTorch's task.
        """
        if self.device is None:
            return {}
        if self._tasks is None:
            self._tasks = {EAGER: self._task(place, compiled=False), **self._compiled(place)}
        return {name: functools.partial(work, task) for name, task in self._tasks.items()}

    def herding(self, features: Array) -> Calls:
        """A call that herds features [K, n, D]."""
        if self.device is None:
            return {}
        import torch  # pyright: ignore[reportMissingImports]  # optional

        from cil_jax.benchmark import pytorch_model

        rows = torch.tensor(np.asarray(features)).to(self.device)
        return {EAGER: lambda: pytorch_model.herding(rows, self._settings.herded).cpu()}

    def whole_run(self, run: Run, accuracy: dict[str, float]) -> Calls:
        """A call that does the work of a run, and writes its last NME accuracy to `accuracy`."""
        if self.device is None:
            return {}
        from cil_jax.benchmark import pytorch_model

        config, scenario = run.config, run.scenario
        schedule, n_classes = build.schedule_of(config, 0), sum(scenario.task_sizes)
        tasks = [scenario.task(t) for t in range(len(scenario.task_sizes))]
        mean_and_std = scenario.dataset.pixel_statistics(config.normalization)

        def call() -> None:
            augmentation = run.engine.augmentation
            model = self._model(config, scenario.dataset, augmentation, n_classes, mean_and_std)
            accuracy[EAGER] = pytorch_model.whole_run(
                model,
                [(task.images, task.labels) for task in tasks],
                scenario.test_set()[:2],
                rates=[schedule.rate_at(epoch) for epoch in range(schedule.epochs)],
                batch_size=config.batch_size,
                memory=run.engine.method.memory_size or 0,
                n_classes=n_classes,
            )[-1]

        return {EAGER: call}

    def _compiled(self, place: Place) -> dict[str, "pytorch_model.Task"]:
        if not self._settings.torch_compile:
            self._notes.append("torch.compile was not measured.")
            return {}
        self._tell("torch.compile starts; it may take minutes")
        start = time.perf_counter()
        try:
            task = self._task(place, compiled=True)
            task.train(1)
        except Exception as error:  # its compilers may raise anything
            line = " ".join(str(error).split())[:200]
            self._notes.append(f"torch.compile failed: {type(error).__name__}: {line}")
            return {}
        seconds = time.perf_counter() - start
        self._notes.append(f"torch.compile: {seconds:.0f} s until the first update was done.")
        return {COMPILED: task}

    def _task(self, place: Place, compiled: bool) -> "pytorch_model.Task":
        from cil_jax.benchmark import pytorch_model

        bench, learner, pool = place
        dataset = bench.scenario.dataset
        mean_and_std = (np.asarray(learner.normalizer.mean), np.asarray(learner.normalizer.std))
        model = self._model(
            bench.config,
            dataset,
            bench.engine.augmentation,
            len(learner.task_of),
            mean_and_std,
            compiled,
        )
        model.begin_task(int(learner.n_old))
        exists = np.asarray(pool.labels) >= 0
        return pytorch_model.Task(
            model,
            np.asarray(pool.images)[exists],
            np.asarray(pool.labels)[exists],
            np.asarray(bench.test_images),
            bench.config.batch_size,
            bench.config.rate,
        )

    def _model(
        self,
        config: Any,  # of iCaRL
        dataset: Dataset,
        augmentation: Augmentation,
        n_classes: int,
        mean_and_std: tuple[np.ndarray, np.ndarray],
        compiled: bool = False,
    ) -> "pytorch_model.ICaRL":
        """A new network with the settings of a run."""
        from cil_jax.benchmark import pytorch_model

        backbone = models.BACKBONES[config.backbone]
        network = pytorch_model.Network(
            backbone["stage_sizes"],
            backbone["widths"],
            n_classes,
            config.last_relu,
            dataset.image_shape[2],
        )
        return pytorch_model.ICaRL(
            network,
            mean=mean_and_std[0],
            std=mean_and_std[1],
            pad=augmentation.pad,
            mirror=augmentation.mirror,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            divisor=config.divisor,
            device=self.device or "cpu",
            compiled=compiled,
        )
