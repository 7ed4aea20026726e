"""What a run tells while it goes, to whoever listens: a terminal, a log, a test."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from cil_jax.learner import Learner

Run = Any  # a `cil_jax.protocol.Run`, which stands above this room


@dataclasses.dataclass(frozen=True)
class Position:
    """Where training stands. Tasks and epochs count from 0, steps are those done.

    Attributes:
      loss: its mean over the epoch so far.
      images_per_second: over the epoch so far, evaluation left out.
      rate: learning rate of the epoch, per update.
      parts: of the loss, each its mean over the epoch so far.
    """

    task: int
    epoch: int
    step: int
    steps: int
    loss: float
    images_per_second: float
    rate: float = 0.0
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Observer:
    """What a run tells while it goes. This one listens in silence."""

    def started(self, run: Run, learner: Learner) -> None:
        """Before the first update, also on resuming."""

    def warned(self, run: Run, text: str) -> None:
        """Of something that the user should know and that does not stop the run."""

    def trained(self, run: Run, position: Position) -> None:
        """After some updates, about every second."""

    def epoch_done(self, run: Run, line: dict[str, Any]) -> None:
        """After an epoch, with its line of metrics.jsonl."""

    def task_done(self, run: Run, line: dict[str, Any]) -> None:
        """After a task's evaluation, with its line of metrics.jsonl and its files written."""


class Several(Observer):
    """Tells several observers, in their order."""

    def __init__(self, observers: Iterable[Observer]):
        self._observers = tuple(observers)

    def started(self, run: Run, learner: Learner) -> None:
        for one in self._observers:
            one.started(run, learner)

    def warned(self, run: Run, text: str) -> None:
        for one in self._observers:
            one.warned(run, text)

    def trained(self, run: Run, position: Position) -> None:
        for one in self._observers:
            one.trained(run, position)

    def epoch_done(self, run: Run, line: dict[str, Any]) -> None:
        for one in self._observers:
            one.epoch_done(run, line)

    def task_done(self, run: Run, line: dict[str, Any]) -> None:
        for one in self._observers:
            one.task_done(run, line)
