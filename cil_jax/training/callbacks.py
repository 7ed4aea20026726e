"""Callbacks: what a run calls while it trains, to show, log or test its progress."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from jax.sharding import Mesh

from cil_jax.data.scenario import Scenario
from cil_jax.learner import Learner
from cil_jax.settings.config import Config
from cil_jax.storage.run_folder import RunFolder
from cil_jax.training.course import Course
from cil_jax.training.engine import Engine
from cil_jax.training.evaluation import Evaluation


class RunView(Protocol):
    """The part of a `cil_jax.training.loop.Run` that callbacks may use."""

    @property
    def config(self) -> Config: ...

    @property
    def scenario(self) -> Scenario: ...

    @property
    def mesh(self) -> Mesh | None: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def evaluation(self) -> Evaluation: ...

    @property
    def folder(self) -> RunFolder: ...

    @property
    def history(self) -> dict[str, Any]: ...

    @property
    def course(self) -> Course: ...

    stop_asked: Callable[[], int]


@dataclasses.dataclass(frozen=True)
class Position:
    """The current position of training, and its progress.

    Attributes:
      task: the task in training, from 0.
      epoch: the epoch in training, from 0, counted over all trainings of the task.
      step: number of updates done in this epoch.
      n_steps: number of updates per epoch.
      loss: mean over the epoch so far.
      images_per_second: over the epoch so far, without evaluation.
      rate: learning rate of the epoch, per update.
      parts: the parts of the loss; means over the epoch so far.
      training: the name of the training, if a task has several.
    """

    task: int
    epoch: int
    step: int
    n_steps: int
    loss: float
    images_per_second: float
    rate: float = 0.0
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    training: str = "main"


class Callback:
    """Base class of callbacks. Its methods do nothing; override those that you need."""

    def started(self, run: RunView, learner: Learner) -> None:
        """Called before the first update, also when a run is resumed."""

    def warned(self, run: RunView, text: str) -> None:
        """Called with a warning for the user, which does not stop the run."""

    def trained(self, run: RunView, position: Position) -> None:
        """Called after some updates, about once per second."""

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        """Called after each epoch, with its line of metrics.jsonl."""

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        """Called after each task's evaluation, with its line of metrics.jsonl.

        The files of the task have been written.
        """


class CallbackList(Callback):
    """Calls several callbacks, in the given order."""

    def __init__(self, callbacks: Iterable[Callback]):
        self._callbacks = tuple(callbacks)

    def started(self, run: RunView, learner: Learner) -> None:
        for callback in self._callbacks:
            callback.started(run, learner)

    def warned(self, run: RunView, text: str) -> None:
        for callback in self._callbacks:
            callback.warned(run, text)

    def trained(self, run: RunView, position: Position) -> None:
        for callback in self._callbacks:
            callback.trained(run, position)

    def epoch_done(self, run: RunView, line: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.epoch_done(run, line)

    def task_done(self, run: RunView, line: dict[str, Any]) -> None:
        for callback in self._callbacks:
            callback.task_done(run, line)
