"""The cost of a whole run with more and more classes: seconds and bytes per task."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cil_jax import report
from cil_jax.benchmark.settings import Settings
from cil_jax.platform import machine
from cil_jax.report import trackers
from cil_jax.settings.config import Config
from cil_jax.settings.loading import preset
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.callbacks import Callback, CallbackList
from cil_jax.training.loop import Run

SIDE, TRAIN_IMAGES, TEST_IMAGES = 8, 10, 2  # pixels; images per class


@dataclasses.dataclass(frozen=True)
class Scale:
    """The measurements of a run of iCaRL.

    Attributes:
      n_classes, n_tasks: the numbers of classes and of tasks.
      test_images: the number of test images of all classes.
      second, last: seconds of the second and of the last task, without compilation.
      line: bytes that the last task wrote to metrics.jsonl.
      metrics, confusion, results, page: bytes of the files at the end of the run.
    """

    n_classes: int
    n_tasks: int
    test_images: int
    second: float
    last: float
    line: int
    metrics: int
    confusion: int
    results: int
    page: int


class _Laps(Callback):
    """Records the time at the end of each task, and the bytes of metrics.jsonl."""

    def __init__(self):
        self.times: list[float] = []
        self.sizes: list[int] = []

    def started(self, run: Any, learner: Any) -> None:
        self.times.append(machine.working_time())

    def task_done(self, run: Any, line: dict[str, Any]) -> None:
        self.times.append(machine.working_time())
        self.sizes.append(run.folder.metrics_file.stat().st_size)


def measure(settings: Settings, n_classes: int) -> Scale:
    """Measures a run on random pixels, which writes its page as any run does."""
    with tempfile.TemporaryDirectory() as place:
        config = _config(settings, n_classes, Path(place))
        folder, laps = RunFolder(config.folder()), _Laps()
        with trackers.opened(config, print) as others:
            Run(config, folder, CallbackList([laps, *others])).go()
        report.write_page(folder)
        seconds, lines = np.diff(laps.times), np.diff(laps.sizes, prepend=0)
        return Scale(
            n_classes=n_classes,
            n_tasks=len(seconds),
            test_images=TEST_IMAGES * n_classes,
            second=float(seconds[1]),
            last=float(seconds[-1]),
            line=int(lines[-1]),
            metrics=laps.sizes[-1],
            confusion=folder.confusion_file.stat().st_size,
            results=folder.results_file.stat().st_size,
            page=folder.report_file.stat().st_size,
        )


def _config(settings: Settings, n_classes: int, place: Path) -> Config:
    """Writes the data set, and returns the settings of a run on it."""
    rng, n = np.random.default_rng(0), n_classes * (TRAIN_IMAGES + TEST_IMAGES)
    places = np.arange(n)
    np.savez(
        place / "data.npz",
        images=rng.integers(0, 256, (n, SIDE, SIDE), np.uint8),
        labels=places % n_classes,
        split=np.where(places < n_classes * TRAIN_IMAGES, "train", "test"),
    )
    return preset(
        "icarl",
        "paper",
        dataset=f"npz:{place / 'data.npz'}",
        task_size=n_classes // settings.scale_tasks,
        backbone=settings.run_backbone,
        epochs=1,
        batch_size=settings.batch_size,
        memory=2 * n_classes,
        devices=1,
        out=str(place / "run"),
    )
